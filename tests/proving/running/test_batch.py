"""The batch: copied for each side, drawn again in each trial, and the same in every process."""

from dataclasses import replace

import pytest
import torch
from tests.proving import steps

from shardproof import ExactArithmetic
from shardproof.errors import CannotRunError
from shardproof.proving.running.batch import copy_batch, describe_probes, digest_batch, draw_batch, require_same_batch

NUMBERS = torch.tensor([[0.5, 2.0], [3.0, -1.0]])
IDS = torch.tensor([[1, 2]])
MASK = torch.tensor([[1.0, 0.0]])
LOW_MASK = torch.tensor([[0.0, torch.finfo(torch.float32).min]])


def test_a_copy_has_one_dtype_and_memory_of_its_own():
    batch = {"x": NUMBERS.clone(), "ids": IDS, "rest": [3, "name"]}
    copied = copy_batch(batch)
    assert (copied["x"].dtype, copied["ids"].dtype, copied["rest"]) == (torch.float64, torch.int64, [3, "name"])
    copied["x"].zero_()
    copied["rest"].append(1)
    assert torch.equal(batch["x"], NUMBERS)
    assert batch["rest"] == [3, "name"]


def test_without_a_dtype_every_tensor_keeps_its_own():
    copied = copy_batch([NUMBERS, NUMBERS.bfloat16(), IDS], None)
    assert [x.dtype for x in copied] == [torch.float32, torch.bfloat16, torch.int64]


def test_numbers_are_drawn_and_ids_masks_and_scalars_are_not():
    scalar = torch.tensor(0.5)
    with ExactArithmetic(seed=1) as exact:
        batch = draw_batch(exact, [NUMBERS, IDS, MASK, LOW_MASK, scalar])
        assert [drawn is given for drawn, given in zip(batch[1:], [IDS, MASK, LOW_MASK, scalar], strict=True)] == [
            True
        ] * 4
        drawn, given = exact.digits(batch[0]), exact.digits(NUMBERS)
    assert not (drawn == given).any()


def test_the_same_number_is_drawn_alike_and_another_seed_draws_otherwise():
    x = torch.tensor([0.5, 2.0, 0.5])
    found = []
    for seed in (1, 1, 2):
        with ExactArithmetic(seed=seed) as exact:
            found.append(exact.digits(draw_batch(exact, x.clone())))
    first, again, other = found
    assert first[0] == first[2] != first[1]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_what_a_step_is_probed_with():
    told = describe_probes([NUMBERS, IDS, MASK])
    assert (
        told == "parameters drawn in each trial, 1 tensor of the batch too, 1 of float32 as given, 1 of int64 as given"
    )
    assert describe_probes([]) == "parameters drawn in each trial"


@pytest.mark.parametrize(
    "other", [[NUMBERS + 1, IDS], [NUMBERS.double(), IDS], [NUMBERS.reshape(4), IDS], [NUMBERS, IDS + 1], [NUMBERS]]
)
def test_another_batch_is_refused_by_its_digest(other):
    step = steps.make_step(batch=[NUMBERS, IDS])
    require_same_batch(replace(step, batch=[NUMBERS.clone(), IDS.clone()]), digest_batch(step))
    with pytest.raises(CannotRunError, match="the batch is another one when the step is loaded in a rank's process"):
        require_same_batch(steps.make_step(batch=other, loss=None, forward=lambda *_: None), digest_batch(step))
