"""Markdown: what a reader sees after it is rendered is what was written, whatever a name looks like."""

import html
import re

import pytest
from markdown_it import MarkdownIt
from tests.report.proofs import finding, proof

from shardproof.proving.cause import Cause, CauseKind, Mend
from shardproof.proving.findings import Verdict
from shardproof.report.markdown import escape_markdown, quote_code, render_markdown

RENDERER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
MISSING = Cause(kind=CauseKind.MISSING_ALL_REDUCE, axes=("tp",), mend=Mend.ALL_REDUCE_GRADIENT)
HOSTILE = [
    "<script>alert(1)</script>",
    "a_b_c",
    "**bold**",
    "![x](https://evil.example/x.png)",
    "[x](javascript:alert(1))",
    "`code`",
    "~~gone~~",
    "a|b",
    "# heading",
    "- item",
    "12. item",
    "&lt;b&gt;",
    "\\*",
    "layers.*.w",
]


def show(markdown):
    """The text that a reader sees, and the tags around it."""
    rendered = RENDERER.render(markdown)
    return html.unescape(re.sub(r"<[^>]*>", "", rendered)).strip(), set(re.findall(r"<(\w+)", rendered))


@pytest.mark.parametrize("text", HOSTILE)
def test_text_is_seen_as_it_is_and_makes_no_markup(text):
    assert show(escape_markdown(text)) == (text, {"p"})


@pytest.mark.parametrize("text", HOSTILE)
def test_unescaped_it_would_be_seen_otherwise(text):
    # markup only beside other text, and a link that this renderer refuses
    if text not in ("a_b_c", "a|b", "layers.*.w", "[x](javascript:alert(1))"):
        assert show(text) != (text, {"p"})


@pytest.mark.parametrize("text", [*HOSTILE, "``", "`", "a``b`c"])
def test_a_code_span_shows_any_text(text):
    assert show(quote_code(text)) == (text, {"p", "code"})


def test_links_and_mentions_of_github_are_broken():
    assert "http://" not in escape_markdown("see http://evil.example")
    assert "www." not in escape_markdown("www.evil.example")
    assert "@team" not in escape_markdown("ping @team")


def test_the_report_has_the_answer_the_causes_and_what_would_mend_them():
    wrong = finding("q_norm.weight", Verdict.WRONG, cause=MISSING, root=True)
    text = render_markdown(proof(finding("a"), wrong), subject="hf:qwen3 --plan-drop '*q_norm'")
    seen, tags = show(text)
    assert text.startswith("### shardproof: NOT PROVED: 2 tensors: 1 PROVED, 1 WRONG\n")
    assert "hf:qwen3 --plan-drop '*q_norm'" in seen
    assert "step 1, gradient: q_norm.weight: WRONG" in seen
    assert "An all-reduce of the gradient over tp is missing in the backward." in seen
    assert tags == {"h3", "p", "code", "ul", "li", "strong"}


def test_what_is_proved_has_no_first_causes():
    text = render_markdown(proof(finding("a", false_accept=1e-9)))
    assert text.startswith("### shardproof: PROVED")
    assert "First causes" not in text
    assert "1 tensor agrees by chance with probability at most 1e-09 each." in show(text)[0]


def test_many_causes_are_counted():
    causes = [
        finding(f"{'x' * n}", Verdict.WRONG, root=True, cause=Cause(kind=CauseKind.LOST, elements=n))
        for n in range(1, 24)
    ]
    text = render_markdown(proof(*causes))
    assert text.count("- **step 1, gradient: ") == 20
    assert "\n- and 3 more\n" in f"{text}\n"


def test_a_hostile_name_makes_no_markup_in_the_report():
    name = "a\n\n<img src=x>[x](y)"
    found, tags = show(render_markdown(proof(finding(name, Verdict.WRONG, root=True, allowed="")), subject="`s`"))
    assert "img" not in tags
    assert "a" not in tags
    assert "<img src=x>[x](y)" in found
