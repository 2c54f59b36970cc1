"""The JSON of a proof: every field is there, causes are values, and nothing in it is no JSON."""

import json
import math
from dataclasses import replace
from fractions import Fraction

from tests.report.proofs import FLOAT32, NEAR, ROUNDED, finding, proof

from shardproof.exact import NoBound
from shardproof.frameworks.specification import Specification
from shardproof.proving.cause import Cause, CauseKind
from shardproof.proving.findings import Sharding, Unbounded, Verdict
from shardproof.proving.records import Key, Phase
from shardproof.report.json import SCHEMA_VERSION, installed_versions, render_json
from shardproof.version import __version__


def rendered(*findings, specification=None, **settings):
    def refuse(name):
        raise AssertionError(name)

    return json.loads(render_json(proof(*findings, **settings), specification), parse_constant=refuse)


def test_a_cause_is_a_value_with_its_words():
    cause = Cause(kind=CauseKind.SCALED, factor=Fraction(1, 2), approximate=True)
    (found,) = rendered(finding(verdict=Verdict.WRONG, cause=cause))["findings"]
    told = {"kind": "scaled", "approximate": True, "factor": "1/2", "text": "about 2 times too small"}
    assert found["cause"] == told


def test_without_a_cause_it_is_null():
    (found,) = rendered(finding())["findings"]
    assert found["cause"] is None


def test_what_is_split_and_which_buffers_are_the_candidates_own_are_said():
    found = rendered(
        finding(), sharding=Sharding(parameters=5, split=4, idle=("pp",), unmatched=("up.*",)), own_buffers=("a",)
    )
    assert found["sharding"] == {"parameters": 5, "split": 4, "idle": ["pp"], "unmatched": ["up.*"], "ranks": 2}
    assert found["own_buffers"] == ["a"]
    assert rendered(finding(), unwatched_states=("exp_avg [24]",))["unwatched_states"] == ["exp_avg [24]"]
    assert rendered(finding())["sharding"] is None


def test_steps_and_calls_count_from_one():
    one = finding()
    (found,) = rendered(replace(one, key=replace(one.key, step=2, call=1)))["findings"]
    assert (found["step"], found["phase"], found["name"], found["call"]) == (3, "gradient", "w", 2)


def test_what_is_not_finite_is_a_string_everywhere():
    numbers = replace(ROUNDED, maxdiff=math.nan, error=math.inf, noise=math.nan)
    (found,) = rendered(finding(numbers=numbers, rounding=replace(NEAR, maxdiff=math.inf)))["findings"]
    assert found["numbers"] == {
        "exact": False, "approximate": True, "maxdiff": "NaN", "error": "Infinity", "noise": "NaN", "ratio": "Infinity"
    }  # fmt: skip
    assert (found["float64_maxdiff"], found["float64_noise"]) == ("Infinity", 1e-15)


def test_the_proof_has_its_counts_and_what_it_ran():
    content = rendered(finding(), finding("b", Verdict.WRONG, source_line="a.py:1 in f"), native=FLOAT32, allow=("x",))
    assert (content["schema_version"], content["ok"]) == (SCHEMA_VERSION, False)
    assert content["count"] == {"passed": 1, "failed": 1, "allowed": 0}
    assert (content["mesh"], content["trials"], content["primes"], content["seeds"]) == (
        {"tp": 2},
        2,
        [101, 103],
        [0, 1],
    )
    assert content["native"] == {
        "dtype": "float32", "failed": "", "collectives": 3, "allowed_ratio": 8.0, "far_ratio": 16.0
    }  # fmt: skip
    assert [one["source_line"] for one in content["findings"]] == ["", "a.py:1 in f"]


def test_a_proof_says_how_its_step_can_be_made_again_if_that_is_known(tmp_path, monkeypatch):
    assert (rendered(finding())["specification"], rendered(finding())["files"]) == (None, {})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.py").write_text("step = 1\n")
    content = rendered(finding(), specification=Specification(step="a.py:step", parallelize="a.py:shard"))
    assert (content["specification"]["step"], list(content["files"])) == ("a.py:step", ["a.py"])


def test_the_versions_are_of_what_a_proof_depends_on():
    assert installed_versions()["shardproof"] == __version__
    assert set(installed_versions()) == {"shardproof", "python", "torch", "transformers"}


def test_why_a_tensor_has_no_bound_is_a_value_with_its_words():
    unbounded = Unbounded(reason=NoBound.SELECTION, at=Key(1, Phase.OUTPUT, "router", 2))
    found, bounded = rendered(finding(unbounded=unbounded), finding("b", false_accept=0.5))["findings"]
    text = found["unbounded"].pop("text")
    place = {"step": 2, "phase": "output", "name": "router", "call": 3}
    assert found["unbounded"] == {"reason": "selection", "at": place}
    assert "a selection" in text
    assert bounded["unbounded"] is None
