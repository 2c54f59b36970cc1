"""`print(proof)` is the report; a notebook draws proofs, findings and comparisons, whatever was imported before."""

import subprocess
import sys

import pytest
import torch
from tests.report.proofs import finding, proof

from shardproof.comparison import compare
from shardproof.proving.findings import Verdict
from shardproof.report.text import render_text
from shardproof.representation import represent

EVIL = "<script>alert(1)</script>"


def test_printing_a_proof_prints_the_report():
    shown = proof(finding())
    assert str(shown) == render_text(shown)
    assert f"{shown}".startswith("PROVED: 1 tensors")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (proof(finding(EVIL, Verdict.WRONG, root=True)), "Not proved"),
        (finding(EVIL, Verdict.WRONG), "WRONG"),
        (compare(torch.zeros(2), torch.ones(2), name=EVIL), "diverged"),
        (compare(torch.ones(2), torch.ones(2), name=EVIL), "exact"),
    ],
)
def test_a_notebook_shows_the_answer_and_names_as_text(value, said):
    html = value._repr_html_()
    assert said in html
    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_a_value_without_a_renderer_is_an_error():
    with pytest.raises(KeyError):
        represent(3, "html")


def test_the_renderer_is_imported_when_it_is_asked_for():
    code = (
        "import sys; from shardproof.proving.findings import Proof; assert 'shardproof.report.text' not in sys.modules;"
        "print(Proof(findings=(), mesh={'tp': 2}, data_axes=(), trials=1, primes=(3,), seeds=(0,)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("NOT PROVED: 0 tensors")
