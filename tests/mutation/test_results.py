"""What `make mutate` writes: the counts, the survivors with their reasons, and nothing lost of the page around them."""

import pytest
from tests.mutation.results import END, START, Result, read_results, render, write_page, write_results

RESULTS = {
    "exact/algebra/bound.py": Result(mutants=10, killed=7, timed_out=1, survivors=("a -> b", "c -> d"), seconds=3),
    "exact/algebra/lift.py": Result(mutants=40, killed=10, timed_out=0, survivors=(), seconds=4),
}
REASONS = {"exact/algebra/bound.py": {"a -> b": "The same program."}}


def test_the_table_counts_each_file_and_all():
    lines = list(render(RESULTS, REASONS))
    assert lines[2:5] == [
        "| `exact/algebra/bound.py` | 10 | 10 | 7 | 1 | 2 | 80.0% | 1 | 88.9% |",
        "| `exact/algebra/lift.py` | 40 | 10 | 10 | 0 | 0 | 100.0% | 0 | 100.0% |",
        "| all | 50 | 20 | 17 | 1 | 2 | 90.0% | 1 | 94.7% |",
    ]


def test_each_survivor_has_its_reason_or_lacks_one():
    lines = list(render(RESULTS, REASONS))
    assert lines[-2:] == ["- `` a -> b ``: The same program.", "- `` c -> d ``: not explained yet."]
    assert "Survivors of `exact/algebra/lift.py`:" not in lines


def test_a_share_is_of_those_that_were_tried_and_one_that_never_ends_is_noticed():
    assert RESULTS["exact/algebra/bound.py"].share() == 0.8
    assert Result(mutants=3, killed=0, timed_out=0, survivors=(), seconds=0).share() == 1


@pytest.mark.parametrize(
    ("reason", "same"),
    [
        ("The same program: there is one.", 1),
        ("The same results: a check that saves work.", 1),
        ("A limit that was chosen: not the same program.", 0),
        ("", 0),
    ],
)
def test_a_share_is_of_those_that_are_another_program(reason, same):
    result = Result(mutants=9, killed=8, timed_out=0, survivors=("a -> b",), seconds=3)
    assert result.count_same({"a -> b": reason}) == same
    assert result.share({"a -> b": reason}) == 8 / (9 - same)


def test_results_are_read_as_they_were_written(tmp_path):
    path = tmp_path / "results.json"
    assert read_results(path) == {}
    write_results(RESULTS, path)
    assert read_results(path) == RESULTS


def test_the_page_keeps_what_stands_around_the_table(tmp_path):
    page = tmp_path / "testing.md"
    page.write_text(f"before\n{START}old\n{END}after\n")
    write_page(RESULTS, REASONS, page)
    text = page.read_text()
    assert text.startswith(f"before\n{START}| file |")
    assert text.endswith(f"not explained yet.\n{END}after\n")
    assert "old" not in text
