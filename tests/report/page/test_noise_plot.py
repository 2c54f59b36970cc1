"""The plot of errors: rounding below the line, an error above it, each a link to its tensor."""

from dataclasses import replace

from tests.report.page.shown import LOSS, RIGHT, WRONG, shown
from tests.report.proofs import ROUNDED, finding

from shardproof.report.page.noise_plot import HEIGHT, draw_plot
from shardproof.report.page.tensors import list_tensors


def plotted(*findings):
    proof = shown(*findings)
    return draw_plot(proof, list_tensors(proof).ids)


def test_an_error_lies_above_the_line_and_rounding_below():
    far = replace(WRONG, numbers=replace(ROUNDED, error=1e-3))
    plot = plotted(RIGHT, far)
    line = next(level.at for level in plot.levels if level.strong)
    right, wrong = plot.points
    assert 0 <= wrong.y < line < right.y <= HEIGHT
    assert (right.href, wrong.href) == ("#t0", "#t1")
    assert plot.words.startswith("1 of 2 tensors are more than 8 times the rounding noise")


def test_no_noise_at_all_is_drawn_at_the_top_and_no_error_at_the_bottom():
    plot = plotted(finding("a", numbers=replace(ROUNDED, error=0.0)), finding("b", numbers=replace(ROUNDED, noise=0.0)))
    assert plot.points[0].y == HEIGHT
    assert 0 <= plot.points[1].y < 20


def test_many_points_are_thinned_and_none_that_is_far_is_left_out():
    far = [replace(WRONG, numbers=replace(ROUNDED, error=1.0))]
    plot = plotted(*[replace(RIGHT, key=replace(RIGHT.key, name=f"w{n}")) for n in range(5000)], *far)
    assert len(plot.points) < 2000
    assert plot.points[-1].tone == "bad"
    assert "are drawn" in plot.words


def test_without_numbers_there_is_no_plot():
    assert plotted(finding()) is None
    assert plotted(LOSS) is not None
