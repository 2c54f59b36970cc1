"""What a notebook shows: the answer, the first causes, names as text; `tests/test_representation.py` the methods."""

import torch
from tests.report.page.shown import WRONG, shown

from shardproof.comparison import compare
from shardproof.report.page.fragments import (
    render_comparison_fragment,
    render_finding_fragment,
    render_proof_fragment,
)


def test_a_proof_shows_its_answer_and_what_would_mend_it():
    html = render_proof_fragment(shown())
    assert "<h4>Not proved</h4>" in html
    assert "An all-reduce of the gradient over tp is missing in the backward." in html
    assert "<script" not in html


def test_a_finding_shows_its_cause_and_facts():
    html = render_finding_fragment(WRONG)
    assert "an all-reduce is missing" in html
    assert "model.py:7 in forward" in html


def test_a_comparison_shows_where_it_is_worst():
    html = render_comparison_fragment(compare(torch.tensor([0.0, 2.0]), torch.zeros(2), name="h"))
    assert "diverged" in html
    assert "[1] actual 2.0 expected 0.0" in html
