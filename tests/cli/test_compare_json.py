"""`shardproof compare --format json`: one object, and only what JSON has."""

import json
from pathlib import Path

import pytest
import torch

from shardproof.checkpoints import CheckpointComparison, Row
from shardproof.cli.compare_json import render_json
from shardproof.comparison import compare


def render(*rows, **options):
    compared = CheckpointComparison(rows=rows, actual="2 ranks", expected="")
    text = render_json(compared, actual=Path("a"), expected=Path("e"), exit_code=1, **options)
    assert text.endswith("}\n")
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def make_row(actual, expected, status="failed"):
    comparison = compare(torch.tensor(actual), torch.tensor(expected), name="w")
    return Row(name="w", status=status, comparison=comparison, reason=None)


def test_the_document_says_what_was_compared():
    document = render()
    assert {key: document[key] for key in ("schema_version", "command", "actual", "expected", "exit_code")} == {
        "schema_version": 1,
        "command": "compare",
        "actual": "a",
        "expected": "e",
        "exit_code": 1,
    }
    assert document["counts"] == {"passed": 0, "failed": 0, "skipped": 0, "total": 0}
    assert document["ranks"] == {"actual": "2 ranks", "expected": ""}
    assert document["tensors"] == []


def test_a_row_without_a_comparison_has_its_reason():
    document = render(Row(name="w", status="failed", comparison=None, reason="missing"))
    assert document["tensors"] == [{"name": "w", "status": "failed", "finding": "not compared", "reason": "missing"}]


def test_a_row_has_its_statistics_and_its_worst_element():
    (row,) = render(make_row([1.0, 2.0], [1.0, 4.0]))["tensors"]
    assert (row["outcome"], row["shape"], row["dtype"], row["maxdiff"]) == ("diverged", [2], "float32", 2.0)
    assert row["worst"] == {"index": [1], "actual": 2.0, "expected": 4.0, "ulp": row["worst"]["ulp"]}
    assert render(make_row([1.0], [1.0]))["tensors"][0]["worst"] is None


@pytest.mark.parametrize(
    ("value", "written"), [(float("nan"), "NaN"), (float("inf"), "Infinity"), (-float("inf"), "-Infinity")]
)
def test_numbers_that_json_lacks_are_strings(value, written):
    assert render(make_row([value], [1.0]))["tensors"][0]["worst"]["actual"] == written


def test_complex_numbers_are_pairs():
    worst = render(make_row([1 + 2j], [1 - 1j]))["tensors"][0]["worst"]
    assert (worst["actual"], worst["expected"]) == ([1.0, 2.0], [1.0, -1.0])


def test_tensors_that_do_not_match_have_no_statistics():
    (row,) = render(make_row([1.0, 2.0], [1.0]))["tensors"]
    assert row["reason"] == "shape [2] where [1] is expected"
    assert "maxdiff" not in row


def test_only_failed_leaves_out_what_is_equal_and_counts_it():
    rows = make_row([1.0], [1.0], "passed"), make_row([1.0], [2.0])
    document = render(*rows, only_failed=True)
    assert [row["status"] for row in document["tensors"]] == ["failed"]
    assert document["counts"] == {"passed": 1, "failed": 1, "skipped": 0, "total": 2}
    assert len(render(*rows)["tensors"]) == 2
