"""Each rank takes its rows of the batch; its gradients are those of its rows' mean, and one device does likewise."""

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from shardproof import Step
from shardproof.errors import CannotRunError
from shardproof.proving.axes import make_axes
from shardproof.proving.prove import prove
from shardproof.proving.running.data_parallel import BatchSplit, make_split
from shardproof.proving.running.models import make_mesh
from shardproof.worlds.threaded import ThreadedWorld

X = torch.arange(12, dtype=torch.float64).reshape(6, 2)


def test_the_parts_of_all_ranks_are_the_batch():
    batch = {"x": X, "count": torch.tensor(6), "name": "train"}
    parts = [BatchSplit(count=3, index=index).rows_of(batch) for index in range(3)]
    assert torch.equal(torch.cat([part["x"] for part in parts]), X)
    assert all((int(part["count"]), part["name"]) == (6, "train") for part in parts)


@pytest.mark.parametrize("split", [BatchSplit(), BatchSplit(count=3)])
def test_one_device_takes_the_whole_batch(split):
    batch = {"x": X}
    assert split.rows_of(batch) is batch


@pytest.mark.parametrize("rows", [4, 2, 0])
def test_rows_that_do_not_divide_are_refused(rows):
    with pytest.raises(CannotRunError, match=rf"has shape \({rows}, 2\); its first dim must divide into 3 parts"):
        BatchSplit(count=3, index=0).rows_of([X[:rows]])


def test_a_batch_without_rows_is_refused():
    with pytest.raises(CannotRunError, match="the batch, a dict, holds no tensor with rows"):
        BatchSplit(count=3, index=0).rows_of({"count": torch.tensor(6)})


def differentiate(split):
    """The gradients of the weight and of the activation before it, this as it is recorded."""
    torch.manual_seed(0)
    model = nn.Linear(2, 3).double()
    hidden = split.rows_of(X).clone().requires_grad_()
    F.mse_loss(model(hidden), torch.ones(len(hidden), 3, dtype=torch.float64)).backward()
    return model.weight.grad, hidden.grad * split.enlarged


def test_the_mean_of_the_ranks_gradients_is_that_of_one_device():
    whole, activation = differentiate(BatchSplit(count=3))
    ranks = [differentiate(BatchSplit(count=3, index=index)) for index in range(3)]
    torch.testing.assert_close(sum(weight for weight, _ in ranks) / 3, whole)
    torch.testing.assert_close(torch.cat([rows for _, rows in ranks]), activation)
    # The control: a device that does not split has activations' gradients of another size.
    torch.testing.assert_close(differentiate(BatchSplit())[1] * 3, activation)
    torch.testing.assert_close(differentiate(BatchSplit())[0], whole)


class Injected(torch.autograd.Function):
    """Identity forward; backward a gradient of a loss of its own, whatever the main loss is: half a mean of squares."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient + x / len(x)


class WithInjectedLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last, self.times = nn.Linear(2, 3), nn.Linear(3, 1), 1

    def forward(self, x):
        h = self.first(x)
        for _ in range(self.times):
            h = Injected.apply(h)
        return self.last(h)


def average_gradients(times):
    def average(parameter):
        dist.all_reduce(parameter.grad)
        parameter.grad.div_(dist.get_world_size())

    def parallelize(model, mesh):
        model.times = times
        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(average)
        return model

    return parallelize


@pytest.mark.parametrize("trials", [1, 2])
def test_a_gradient_that_a_function_injects_is_not_scaled_with_the_loss(trials):
    step = Step(
        model=WithInjectedLoss,
        batch=(X.float(), torch.randn(6, 1)),
        loss=F.mse_loss,
        optimizer=torch.optim.SGD,
        steps=2,
    )
    assert prove(step, parallelize=average_gradients(1), mesh={"dp": 3}, trials=trials).ok
    roots = prove(step, parallelize=average_gradients(2), mesh={"dp": 3}, trials=trials).roots
    assert str(roots[0].key) == "step 1, output gradient first"


def test_the_loss_is_the_mean_over_the_data_axes_only():
    axes = make_axes(mesh={"dp": 2, "tp": 2})

    def run(comm):
        split = make_split(axes, make_mesh(axes.sizes), comm.rank)
        return split.count, split.index, float(split.mean_loss(torch.tensor(float(dist.get_rank()))))

    # Ranks 0 and 2 differ on dp alone, and so do 1 and 3.
    assert ThreadedWorld(size=4).run(run) == [(2, 0, 1.0), (2, 0, 2.0), (2, 1, 1.0), (2, 1, 2.0)]
