"""The walkthrough as text: made-up steps in, lines out."""

import io

import pytest
from tests.cli.walkthroughs import make_entry, make_message, make_report

from shardproof.byhand.settings import Settings
from shardproof.cli.walkthrough_text import write_text


def write(*reports, **settings):
    stream = io.StringIO()
    settings = Settings(**{"steps": len(reports), **settings})
    approximate = write_text(settings, "simulated", iter(reports), stream)
    return approximate, stream.getvalue()


def test_the_last_line_counts_over_all_steps():
    entries = {"3.1.2": [make_entry("3.1.2", 64)], "3.2.2": [make_entry("3.2.2", 100)]}
    differences = {"3.1.1": 1e-7, "4.1": 1.0}
    approximate, text = write(make_report(1, entries=entries), make_report(2, entries=entries, differences=differences))
    assert not approximate
    assert text.splitlines()[-1] == (
        "2 steps, 16 comparisons: 15 approximate, 14 of them exact; 1 diverged. "
        "328 bytes per rank communicated, 0 bytes sent between stages."
    )


def test_only_the_first_step_is_told_in_full():
    approximate, text = write(make_report(1), make_report(2), make_report(3), samples=64)
    assert approximate
    assert text.count("### 3.1.1 On One Device") == 1
    assert "step 2 | batch 2 of 2 | loss: 0.5000 | approximate: 8 of 8 | exact: 8" in text
    assert "step 3 | batch 1 of 2" in text


def test_a_later_step_shows_what_is_not_approximate_and_names_the_largest_difference():
    _, text = write(make_report(1), make_report(2, differences={"3.2.1": 1.0, "4.1": 0.5, "3.1.1": 1e-7}))
    line = next(line for line in text.splitlines() if line.startswith("step 2"))
    assert "approximate: 6 of 8 | exact: 5 | maxdiff: 1.00e+00 (x3.2.1)" in line
    assert [line.split()[0] for line in text.splitlines() if line.startswith("  x")] == ["x3.2.1", "x4.1"]


def test_nan_is_the_largest_difference():
    _, text = write(make_report(1), make_report(2, differences={"3.1.1": 5.0, "4.1": float("nan")}))
    assert "maxdiff: nan (x4.1)" in text


def test_the_running_total_goes_on_from_the_forward_to_the_backward():
    entries = {
        "3.1.2": [make_entry("3.1.2", 64), make_entry("3.1.2", 16, "all_reduce")],
        "3.2.2": [make_entry("3.2.2", 100, "reduce_scatter", "dh1")],
    }
    _, text = write(make_report(entries=entries))
    rows = [line.split("|") for line in text.splitlines() if line.startswith(("all_", "reduce_"))]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["all_gather h1", "64", "64"],
        ["all_reduce h1", "16", "80"],
        ["reduce_scatter dh1", "100", "180"],
    ]


@pytest.mark.parametrize(("flips", "said"), [(1, "1 input of relu lies so near zero"), (2, "2 inputs of relu lie so")])
def test_inputs_near_a_kink_are_told(flips, said):
    assert said in write(make_report(sign_flips=flips))[1]
    assert "inputs of relu" not in write(make_report())[1]


def test_shards_of_many_devices_are_told_of_the_first_two_and_the_last():
    _, text = write(make_report(), widths=(6, 7, 10), devices=5)
    assert [line[:9] for line in text.splitlines() if line.startswith("device ")] == [
        "device 0 ",
        "device 1 ",
        "device 4 ",
    ]
    assert "device 0 : W1.shape: torch.Size([2, 6]),  b1.shape: torch.Size([2])" in text
    assert "device 4 : W1.shape: torch.Size([1, 6]),  b1.shape: torch.Size([1])" in text
    assert "\n...\n" in text
    _, text = write(make_report(), widths=(6, 4, 4), devices=4)
    assert "\n...\n" not in text


def test_a_row_split_shards_the_weight_by_its_input_and_keeps_the_bias_whole():
    _, text = write(make_report(), widths=(6, 4, 2), splits=("column", "row"))
    assert "W2.shape: torch.Size([2, 2]),  b2.shape: torch.Size([2])" in text
    assert "W1.shape: torch.Size([2, 6]),  b1.shape: torch.Size([2])" in text


def test_messages_are_listed_up_to_sixteen_and_counted_beyond():
    messages = {
        "5.1": [make_message("5.1", 10, f"h1[{m}]") for m in range(18)],
        "5.2": [make_message("5.2", 7, "dh1[0]", 1, 0)],
    }
    _, text = write(make_report(messages=messages))
    rows = [
        [cell.strip() for cell in line.split("|")] for line in text.splitlines() if line.startswith(("h1[", "dh1["))
    ]
    assert len(rows) == 17
    assert rows[0] == ["h1[0] 0 -> 1", "10", "10"]
    assert rows[-1] == ["dh1[0] 1 -> 0", "7", "187"]
    assert "... 2 more" in text
    assert text.endswith("0 bytes per rank communicated, 187 bytes sent between stages.\n")
