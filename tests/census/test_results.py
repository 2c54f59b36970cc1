"""Results as JSON lines: what is written is read back, and a line that was cut off is left out."""

from dataclasses import replace

import pytest

from shardproof.census.results import Case, Outcome, Result, keep_latest, merge_results, read_results, write_line
from shardproof.errors import CannotRunError

RESULT = Result(
    case=Case(kind="llama", variant="attention_bias=true", settings={"attention_bias": True}),
    outcome=Outcome.WRONG,
    model="LlamaForCausalLM",
    counts={"WRONG": 2, "PROVED": 90},
    causes=("WRONG gradient x: 2 times too large",),
    seconds=3.5,
    versions={"torch": "2.13.0", "transformers": None},
)


def test_a_result_is_read_back(tmp_path):
    path = tmp_path / "lines.jsonl"
    other = Result(case=Case(kind="qwen3"), outcome=Outcome.CRASH, said='a "line"\nand another')
    path.write_text(f"{write_line(RESULT)}\n{write_line(other)}\n")
    assert path.read_text().count("\n") == 2
    assert read_results(path) == [RESULT, other]


def test_a_last_line_that_was_cut_off_is_left_out(tmp_path):
    path = tmp_path / "lines.jsonl"
    line = write_line(RESULT)
    path.write_text(f"{line}\n{line[:40]}")
    assert read_results(path) == [RESULT]


@pytest.mark.parametrize("broken", ["{}", "[]", "nothing", '{"case": {"kind": "a"}, "outcome": "GOOD", "causes": []}'])
def test_another_line_that_is_no_result_is_an_error(tmp_path, broken):
    path = tmp_path / "lines.jsonl"
    path.write_text(f"{broken}\n{write_line(RESULT)}\n")
    with pytest.raises(CannotRunError, match="line 1 is no result of a census"):
        read_results(path)


def test_a_file_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(CannotRunError, match="No such file"):
        read_results(tmp_path / "absent.jsonl")


def test_the_latest_result_of_a_variant_counts():
    later = Result(case=RESULT.case, outcome=Outcome.PROVED)
    assert keep_latest([RESULT, later]) == {("llama", "attention_bias=true"): later}


def test_what_shardproof_could_not_do_is_not_decided():
    undecided = {outcome for outcome in Outcome if not outcome.decided}
    assert undecided == {"UNDECIDED", "UNSUPPORTED", "REFUSED", "TIMEOUT", "MEMORY", "DIED", "NOT RUN"}


def test_files_of_one_census_are_merged_and_those_of_another_are_refused(tmp_path):
    other = replace(RESULT, case=replace(RESULT.case, kind="qwen3"))
    paths = [tmp_path / name for name in ("1.jsonl", "2.jsonl", "3.jsonl")]
    for path, result in zip(paths[:2], (RESULT, other), strict=True):
        path.write_text(write_line(result) + "\n")
    assert merge_results(paths[:2]) == [RESULT, other]
    for changed in (
        replace(other, versions={"torch": "2.14.0", "transformers": None}),
        replace(other, case=replace(other.case, devices=4)),
        replace(other, case=replace(other.case, seed=1)),
    ):
        paths[2].write_text(write_line(changed) + "\n")
        with pytest.raises(CannotRunError, match=r"3\.jsonl has results of another census than .*1\.jsonl"):
            merge_results([paths[0], paths[2]])
