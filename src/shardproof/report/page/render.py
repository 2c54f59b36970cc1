"""Pages from templates: the only file that knows jinja2. What is put into a template is escaped."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from shardproof.report.page.describe import describe_proof
from shardproof.report.page.embedding import encode_json, make_policy
from shardproof.report.page.walkthrough import describe_walkthrough

if TYPE_CHECKING:
    from shardproof.byhand.settings import Settings
    from shardproof.proving.findings import Proof


def render_proof_page(proof: Proof, *, subject: str = "", certificate: str = "") -> str:
    """The page of a proof as one HTML file; see `describe_proof`."""
    page = describe_proof(proof, subject=subject, certificate=certificate)
    return render("proof.html", scripts=("page.js", "proof.js"), page=page, data=encode_json({"values": page.values}))


def render_walkthrough_page(settings: Settings) -> str:
    """The page of the first step of a walkthrough as one HTML file; see `describe_walkthrough`."""
    page = describe_walkthrough(settings)
    return render("walkthrough.html", scripts=("page.js",), page=page, data=encode_json({}))


def render(template: str, *, scripts: tuple[str, ...], data: str, **values: object) -> str:
    """A template with the style sheet and these scripts inside.

    Args:
        template: its name in `templates/`.
        scripts: names in `assets/`.
        data: JSON for the scripts, from `encode_json`.
        values: of the template.
    """
    style = read_asset("page.css")
    script = "\n".join(map(read_asset, scripts))
    return (
        _environment()
        .get_template(template)
        .render(
            style=Markup(style),  # noqa: S704 - our own files, and JSON in which nothing is left to escape
            script=Markup(script),  # noqa: S704
            data=Markup(data),  # noqa: S704
            policy=make_policy([style], [script]),
            **values,
        )
    )


def render_fragment(template: str, **values: object) -> str:
    """A template of a piece of a page, with its style sheet."""
    style = Markup(read_asset("fragment.css"))  # noqa: S704 - our own file
    return _environment().get_template(template).render(style=style, **values)


@cache
def read_asset(name: str) -> str:
    """A file of `assets/`."""
    return (files("shardproof.report.page") / "assets" / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("shardproof.report.page"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
