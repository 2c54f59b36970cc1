"""`shardproof prove --format`: a proof in the form that is asked for, and the summary of a job on GitHub."""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from shardproof.cli.output import ProofFormat, check_writable
from shardproof.errors import CannotRunError
from shardproof.tensorfiles import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from shardproof.frameworks.specification import Specification
    from shardproof.frameworks.transformers import Suggestion
    from shardproof.proving.findings import Proof
    from shardproof.proving.running.target import ProofTarget


def render_proof(
    proof: Proof,
    output_format: ProofFormat,
    *,
    specification: Specification,
    target: ProofTarget,
    verbose: bool,
    colour: bool,
    suggestion: Suggestion | None = None,
    environment: Mapping[str, str] = os.environ,
) -> str:
    """The proof as text of a format, with a suggestion in text and JSON; paths are relative to
    GITHUB_WORKSPACE, or else to the current folder.
    """
    from shardproof.frameworks.plan_source import find_plan_source
    from shardproof.report.github import render_github
    from shardproof.report.json import render_json
    from shardproof.report.markdown import render_markdown
    from shardproof.report.sarif import render_sarif
    from shardproof.report.suggestion import describe_suggestion
    from shardproof.report.text import render_text

    subject = name_subject(specification)
    root = Path(environment.get("GITHUB_WORKSPACE") or ".")
    match output_format:
        case ProofFormat.json:
            return render_json(proof, specification, suggestion)
        case ProofFormat.markdown:
            return render_markdown(proof, subject=subject)
        case ProofFormat.github:
            return render_github(proof, source=find_plan_source(specification, target), root=root)
        case ProofFormat.sarif:
            return render_sarif(proof, source=find_plan_source(specification, target), root=root, subject=subject)
        case ProofFormat.text:
            mend = [] if suggestion is None else ["", *describe_suggestion(suggestion)]
            return "\n".join([render_text(proof, verbose=verbose, colour=colour), *mend])


def find_summary_file(output_format: ProofFormat, environment: Mapping[str, str] = os.environ) -> Path | None:
    """The file to which a step of GitHub Actions appends its summary; None in another format, or elsewhere.

    Raises:
        CannotRunError: it cannot be written.
    """
    named = environment.get("GITHUB_STEP_SUMMARY")
    if output_format is not ProofFormat.github or not named:
        return None
    check_writable(Path(named), option="GITHUB_STEP_SUMMARY")
    return Path(named)


def append_summary(path: Path, proof: Proof, specification: Specification) -> None:
    """Append the proof as Markdown: other commands of the same step write there too.

    Raises:
        CannotRunError: the file cannot be written.
    """
    from shardproof.report.markdown import render_markdown

    try:
        with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(render_markdown(proof, subject=name_subject(specification)) + "\n")
    except OSError as error:
        raise CannotRunError(f"{printable(path)} cannot be written: {error.strerror}") from error


@contextmanager
def failure_annotated(output_format: ProofFormat) -> Iterator[None]:
    """In GitHub's format, a proof that could not run is an annotation too, beside the line on standard error."""
    try:
        yield
    except CannotRunError as error:
        if output_format is ProofFormat.github:
            from shardproof.report.github import write_command

            message = " ".join(str(error).split())
            sys.stdout.write(write_command("error", message, {"title": "shardproof could not run"}) + "\n")
        raise


def name_subject(specification: Specification) -> str:
    """What was proved, as it was named on the command line."""
    words = [specification.step]
    for option, value in (("--parallelize", specification.parallelize), ("--candidate", specification.candidate)):
        words += [] if value is None else [option, value]
    words += [word for pattern in specification.plan_drop for word in ("--plan-drop", pattern)]
    words += [word for entry in specification.plan_set.items() for word in ("--plan-set", "=".join(entry))]
    return printable(shlex.join(words))
