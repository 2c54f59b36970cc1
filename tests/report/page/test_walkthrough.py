"""The page of the walkthrough: the notebook's sections, the code that ran, and mistakes that were really made."""

import pytest

from shardproof.byhand.functions import linear_forward
from shardproof.byhand.settings import Settings
from shardproof.report.page.description import Tone
from shardproof.report.page.render import render_walkthrough_page
from shardproof.report.page.walkthrough import describe_walkthrough, show_code


def test_the_notebooks_step_is_right_section_by_section():
    page = describe_walkthrough(Settings())
    assert page.tone is Tone.GOOD
    assert page.sentence.endswith("35 of 35 tensors are PyTorch's within rounding, 22 of them to the last bit.")
    assert [chapter.number for chapter in page.chapters] == [
        *("1", "3.1.1", "3.1.2", "3.2.1", "3.2.2", "4.1"),
        *("5", "5.1", "5.2", "5.3"),
    ]
    sent = [(one.kind, one.tensor, one.size) for chapter in page.chapters for one in chapter.sent]
    assert sent == [
        ("all-gather", "h1", "256 B"),
        ("all-gather", "out", "128 B"),
        ("reduce-scatter", "dh1", "256 B"),
    ] + [("send", name, "256 B") for name in ("h1[0]", "h1[1]", "dh1[0]", "dh1[1]")]
    assert all(chapter.matrices for chapter in page.chapters)


def test_each_mistake_shows():
    broken = {one.button: one for one in describe_walkthrough(Settings()).breakages}
    assert list(broken) == [
        "Forget the reduce-scatter",
        "Add the bias twice",
        "Use the notebook's factor at output width 3",
        "Keep the last microbatch's gradients only",
        "Forget to divide by the number of microbatches",
    ]
    assert all(0 < one.wrong <= len(one.lines) for one in broken.values())
    forward = [line for line in broken["Forget the reduce-scatter"].lines if "forward" in line.name]
    assert [line.tone for line in forward] == [Tone.GOOD]
    pipeline = broken["Forget to divide by the number of microbatches"].lines
    assert {line.name for line in pipeline if line.tone is Tone.GOOD} == {"PP - h1", "PP - forward pass", "PP - loss"}


def test_a_pipeline_is_drawn_with_its_schedule_and_many_messages_are_counted():
    settings = Settings(widths=(6, 4, 4, 2), splits=("column",) * 3, microbatches=18)
    page = describe_walkthrough(settings)
    chapters = {chapter.number: chapter for chapter in page.chapters}
    assert chapters["5"].schedule[1][:3] == ("", "F0", "F1")
    assert [one.tensor for one in chapters["5.1"].sent][-2:] == ["h2[15]", "2 more"]
    assert [[band.rank for band in one.bands] for one in chapters["5"].matrices] == [[0]] * 4 + [[1]] * 2
    assert "F17" in render_walkthrough_page(settings)
    (chapter,) = [one for one in describe_walkthrough(Settings(microbatches=32)).chapters if one.number == "5"]
    assert chapter.schedule == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"devices": 1},
        {"splits": ("column", "row"), "activation": "relu"},
        {"widths": (6, 2), "splits": ("row",), "devices": 5},
        {"loss": "cross-entropy"},
        {"samples": 1, "batch_size": 1},
    ],
)
def test_other_settings_have_pages_too(changes):
    page = describe_walkthrough(Settings(**changes))
    assert page.tone is Tone.GOOD
    assert page.breakages
    assert "<!doctype html>" in render_walkthrough_page(Settings(**changes))


def test_code_is_shown_without_its_docstring():
    assert show_code(linear_forward).splitlines()[1:] == ["    z = x @ W.T", "    return z if b is None else z + b"]
