"""Known mistakes, really made: each changes what it should, and the right step beside it nothing."""

import pytest
import torch

from shardproof.byhand.functions import mean_squared_error_backward
from shardproof.byhand.mistakes import Mistake, MistakenWorld, notebook_backward
from shardproof.byhand.settings import Settings
from shardproof.byhand.walkthrough import take_steps
from shardproof.worlds.simulated import SimulatedWorld


def diverged(mistake, **changes):
    settings = Settings(**changes)
    world = SimulatedWorld(size=settings.devices)
    report = next(take_steps(settings, MistakenWorld(inner=world, mistake=mistake) if mistake else world))
    return {line.name for line in report.comparisons if not line.approximate}


def test_without_a_mistake_nothing_diverges():
    assert diverged(None) == diverged(None, widths=(6, 4, 3)) == set()


def test_without_the_reduce_scatter_the_first_layer_is_wrong_and_the_last_is_right():
    wrong = diverged(Mistake.NO_REDUCE_SCATTER)
    assert {"dW1_0", "db1_0", "dW1_1", "db1_1", "TP - manual_nW1"} <= wrong
    assert not [name for name in wrong if "2" in name or "forward" in name]


def test_with_the_bias_twice_the_forward_is_wrong():
    assert {"TP - forward pass", "dW2_0", "dW1_1"} <= diverged(Mistake.BIAS_TWICE)


def test_with_the_last_microbatch_alone_what_is_sent_is_right_and_every_gradient_is_wrong():
    wrong = diverged(Mistake.LAST_MICROBATCH)
    assert wrong == {f"PP - {kind}{part}{l}" for kind in ("d", "manual_n") for part in "Wb" for l in (1, 2)}
    assert diverged(Mistake.LAST_MICROBATCH, microbatches=1) == set()  # it is the whole batch


def test_with_each_microbatchs_own_mean_the_forward_is_right_and_all_that_goes_back_is_wrong():
    wrong = diverged(Mistake.MICROBATCH_MEAN)
    assert {"PP - dh1", "PP - dW1", "PP - db2", "PP - manual_nW2"} <= wrong
    assert not [name for name in wrong if "forward" in name or "loss" in name or name == "PP - h1"]
    assert all(name.startswith("PP") for name in wrong)
    assert diverged(Mistake.MICROBATCH_MEAN, microbatches=1) == set()


@pytest.mark.parametrize(("width", "wrong"), [(2, False), (3, True), (4, True)])
def test_the_notebooks_factor_is_right_at_its_own_width_alone(width, wrong):
    assert bool(diverged(Mistake.NOTEBOOK_FACTOR, widths=(6, 4, width))) is wrong
    out, y = torch.randn(5, width), torch.randn(5, width)
    ratio = notebook_backward(out, y) / mean_squared_error_backward(out, y)
    torch.testing.assert_close(ratio, torch.full_like(ratio, width / 2))
