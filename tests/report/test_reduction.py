"""Words of a reduction, in every report; nothing where nothing was reduced."""

import json

from tests.report.proofs import finding, proof

from shardproof.proving.reduction import Condition, ReducedSize, Reduction
from shardproof.report.json import render_json
from shardproof.report.markdown import render_markdown
from shardproof.report.page.render import render_proof_page
from shardproof.report.reduction import ARGUMENT, LEFT_OUT, list_reduction
from shardproof.report.text import render_text

REDUCTION = Reduction(
    model="LlamaForCausalLM",
    parameters=405_853_388_800,
    reduced_parameters=595_200,
    layers=126,
    kept=(0, 1),
    sizes=(ReducedSize(name="hidden_size", full=16384, reduced=256),),
    counts={"num_attention_heads": 128},
    conditions=(Condition(name="division", meaning="every dim divides as at full size", checked="37 dims"),),
)
REDUCED = proof(finding(), reduction=REDUCTION)
SAID = (
    "Reduced: LlamaForCausalLM of 405,853,388,800 parameters and 126 layers to 595,200 parameters and layers 0, 1.",
    "Sizes: hidden_size 16384 to 256.",
    "Condition division: every dim divides as at full size. Checked: 37 dims.",
    "It leaves out routing",
)


def test_text_markdown_and_page_say_what_was_reduced_and_under_which_conditions():
    page = render_proof_page(REDUCED, subject="hf:llama", certificate="")
    for sentence in SAID:
        assert sentence in render_text(REDUCED)
    for text in (render_text(REDUCED), render_markdown(REDUCED), page):
        assert SAID[0] in text
        assert SAID[2] in text
        assert "10.1145/3731569.3764850" in text


def test_the_certificate_has_it_as_values():
    content = json.loads(render_json(REDUCED))["reduction"]
    assert content["conditions"] == [
        {"name": "division", "meaning": "every dim divides as at full size", "checked": "37 dims"}
    ]
    assert content["sizes"] == [{"name": "hidden_size", "full": 16384, "reduced": 256}]
    assert (content["argument"], content["left_out"]) == (ARGUMENT, list(LEFT_OUT))


def test_a_proof_that_is_not_reduced_says_nothing_of_it():
    assert list(list_reduction(None)) == []
    assert "Reduced" not in render_text(proof(finding()))
    assert json.loads(render_json(proof(finding())))["reduction"] is None
