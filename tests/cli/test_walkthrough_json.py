"""The walkthrough as JSON: made-up steps in, one document out."""

import io
import json

import pytest
from tests.cli.walkthroughs import make_entry, make_report

from shardproof.byhand.settings import Settings
from shardproof.cli.walkthrough_json import write_json


def write(*reports):
    stream = io.StringIO()
    approximate = write_json(Settings(), "simulated", iter(reports), stream)
    return approximate, json.loads(stream.getvalue(), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def test_the_document_has_the_settings_and_every_step():
    approximate, document = write(make_report(1), make_report(2))
    assert approximate is document["approximate"] is True
    assert (document["schema_version"], document["world"], document["comparisons"]) == (3, "simulated", 16)
    assert (document["settings"]["widths"], document["settings"]["dtype"]) == ([6, 4, 2], "float32")
    assert [step["step"] for step in document["steps"]] == [1, 2]
    assert document["steps"][0]["sections"][0]["number"] == "3.1.1"


def test_one_line_that_is_not_approximate_in_any_step_is_enough():
    approximate, document = write(make_report(1), make_report(2, differences={"4.1": 1.0}))
    assert approximate is document["approximate"] is False


def test_a_section_has_its_lines_its_traffic_and_its_kinks():
    entries = {"3.1.2": [make_entry("3.1.2", 64)]}
    section = write(make_report(entries=entries, sign_flips=3))[1]["steps"][0]["sections"][1]
    assert section["communicated"] == [
        {"section": "3.1.2", "collective": "all_gather", "tensor": "h1", "bytes_per_rank": 64}
    ]
    assert section["kinks"] == 3
    assert section["sent"] == []
    assert section["comparisons"][0]["name"] == "x3.1.2"
    assert set(section["comparisons"][0]) == {"name", "shape", "exact", "approximate", "maxdiff", "rtol", "atol"}


@pytest.mark.parametrize(
    ("value", "written"), [(float("nan"), "NaN"), (float("inf"), "Infinity"), (-float("inf"), "-Infinity"), (0.5, 0.5)]
)
def test_numbers_that_json_lacks_are_strings(value, written):
    document = write(make_report(loss=value, differences={"3.1.1": value}))[1]
    assert document["steps"][0]["loss"] == written
    maxdiff = document["steps"][0]["sections"][0]["comparisons"][0]["maxdiff"]
    assert maxdiff == (written if not str(written).startswith("-") else "Infinity")
