"""The rows of all steps' batches, and steps that end with their update whatever a loader has read ahead."""

from itertools import pairwise

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from tests.proving import steps
from torch.utils.data import DataLoader, DistributedSampler

from shardproof.errors import CannotRunError
from shardproof.proving.prove import prove
from shardproof.proving.records import Phase
from shardproof.proving.running.batch_rows import BatchRows, count_rows


def test_rows_come_step_after_step():
    batches = [{"x": torch.arange(6).view(3, 2) + 10 * number, "name": "b"} for number in range(2)]
    rows = BatchRows(batches.__getitem__, rows=count_rows(batches[0]), steps=2)
    assert len(rows) == 6
    assert [row["x"].tolist() for row in rows] == [[0, 1], [2, 3], [4, 5], [10, 11], [12, 13], [14, 15]]
    assert rows[4]["name"] == "b"
    with pytest.raises(IndexError, match="row 6 of 6"):
        rows[6]
    with pytest.raises(IndexError):
        rows[-1]


@pytest.mark.parametrize(
    ("batch", "found"),
    [
        ((torch.ones(3, 2), torch.ones(4)), r"\[3, 2\], \[4\]"),
        ((torch.ones(3), torch.tensor(1.0)), r"\[3\], \[\]"),
        ("text", "no tensor"),
    ],
)
def test_a_batch_without_rows_is_refused(batch, found):
    with pytest.raises(CannotRunError, match=f"{found}: use run.batches"):
        count_rows(batch)


def read_ahead(loader):
    """As a loader that has to know which batch is the last one."""
    for batch, _next in pairwise([*loader, None]):
        yield batch


def make_train(*, scale=1.0, ahead=True, updates=2, data=lambda run: run.dataset()):
    def train(run):
        model = run.model()
        rows = data(run)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loader = DataLoader(rows, batch_size=2, sampler=DistributedSampler(rows, shuffle=False))
        for number, (x, y) in enumerate(read_ahead(loader) if ahead else loader):
            if number == updates:
                break
            optimizer.zero_grad()
            loss = F.mse_loss(model(x), y) * scale
            loss.backward()
            dist.all_reduce(total := loss.detach().clone())
            run.record_loss(total / run.size)
            for parameter in model.parameters():
                parameter.grad = steps.average(parameter.grad)
            run.record_gradients()
            optimizer.step()
            run.record_update(optimizer)

    return train


def prove_rows(train):
    return prove(steps.make_step_of_four_rows(), candidate=train, mesh={"dp": 2}, trials=1)


@pytest.mark.parametrize("ahead", [True, False])
def test_a_loader_of_rows_is_proved(ahead):
    proof = prove_rows(make_train(ahead=ahead))
    assert proof.ok
    assert {finding.key.step for finding in proof.findings if finding.key.phase is Phase.LOSS} == {0, 1}


def test_a_wrong_step_is_found_in_its_own_step():
    proof = prove_rows(make_train(scale=2.0))
    assert (proof.roots[0].key.step, proof.roots[0].key.phase) == (0, Phase.LOSS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"updates": 1}, "took 1 of 2 steps.*record the update of each step"),
        ({"data": lambda run: (run.dataset(), run.dataset())[1]}, "called twice"),
        ({"data": lambda run: (next(iter(run.batches())), run.dataset())[1]}, "after run.batches"),
    ],
)
def test_misuse_is_told(settings, message):
    with pytest.raises(CannotRunError, match=message):
        prove_rows(make_train(**settings))


def test_rows_and_batches_are_the_same_numbers():
    seen = {}

    def train(run):
        model = run.model()
        rows = run.dataset()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for number in range(2):
            x, y = (torch.stack(parts) for parts in zip(*(rows[4 * number + row] for row in range(4)), strict=True))
            seen[number] = x
            optimizer.zero_grad()
            loss = F.mse_loss(model(x), y)
            run.record_loss(loss)
            loss.backward()
            run.record_gradients()
            optimizer.step()
            run.record_update(optimizer)

    step = steps.make_step_of_four_rows()
    proof = prove(step, candidate=train, devices=2, trials=1, allow=["VACUOUS sharding *"])
    assert proof.ok
    assert torch.equal(seen[0], step.batch[0])
    assert torch.equal(seen[1], step.batch[0])  # the last run is in the user's own dtypes
