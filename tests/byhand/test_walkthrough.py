"""The notebook's run: the 32x2 table of section 2, and the three ways of taking a step side by side."""

from __future__ import annotations

import torch

from shardproof.byhand.settings import Settings
from shardproof.byhand.walkthrough import draw_batches, take_steps
from shardproof.worlds.simulated import SimulatedWorld

OUT = torch.tensor(
    [
        [0.1546, -0.5383], [0.1222, -0.3119], [0.6736, -0.2439], [0.8124, -0.3054],
        [0.4496, -0.4473], [0.4101, -0.5774], [0.4743, -0.6111], [0.5034, -0.3675],
        [0.3844, -0.3518], [0.5095, -0.5411], [0.6302, -0.4292], [0.0960, -0.5650],
        [0.5374, -0.3396], [0.4914, -0.3475], [0.9440, -0.1130], [0.7744, -0.2111],
        [0.4808, -0.3415], [0.3199, -0.5394], [0.5131, -0.4608], [-0.0191, -0.6592],
        [0.3838, -0.4386], [0.5702, -0.2098], [0.2020, -0.4805], [0.1737, -0.2273],
        [0.6647, -0.2574], [0.6794, -0.2492], [0.6364, -0.3637], [1.0508, -0.2086],
        [0.5117, -0.4432], [0.4517, -0.2172], [0.5502, -0.5689], [0.6571, -0.0120],
    ]
)  # fmt: skip


def test_output_table_of_section_2():
    (report,) = take_steps(Settings(), SimulatedWorld(size=2))
    # The notebook shows four decimals: half a unit of the last, and a little for another machine's rounding.
    torch.testing.assert_close(report.out, OUT, rtol=0, atol=0.5e-4 + 1e-6)


def test_a_run_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    list(take_steps(Settings(), SimulatedWorld(size=2)))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_classes_are_where_y_is_largest():
    settings = Settings(widths=(3, 4), samples=6, batch_size=6, splits=("column",))
    (numbers,) = draw_batches(settings)
    (classes,) = draw_batches(
        Settings(widths=(3, 4), samples=6, batch_size=6, splits=("column",), loss="cross-entropy")
    )
    assert torch.equal(classes.y, numbers.y.argmax(dim=1))
    assert torch.equal(classes.x, numbers.x)


def test_steps_take_batches_in_turn_and_sections_are_the_notebooks():
    settings = Settings(samples=5, batch_size=3, steps=3)
    reports = list(take_steps(settings, SimulatedWorld(size=2)))
    assert [report.step for report in reports] == [1, 2, 3]
    assert [len(report.out) for report in reports] == [3, 2, 3]  # the smaller batch, then the first again
    assert [section.number for section in reports[0].sections] == [
        *("3.1.1", "3.1.2", "3.2.1", "3.2.2", "4.1"),
        *("5.1", "5.2", "5.3"),
    ]
    assert reports[2].loss < reports[0].loss
