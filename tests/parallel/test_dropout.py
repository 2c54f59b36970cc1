"""Dropout of a split tensor drops what it drops on one device: proved, and each way of getting that wrong is caught."""

import pytest
import torch
import torch.nn.functional as F
from tests.parallel.ranks import alone, make_step, proof_of, random, run
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard

from shardproof.errors import CannotRunError
from shardproof.parallel import Column, Dropout, Row, parallelize
from shardproof.parallel.dropout import PositionalDropout, keep
from shardproof.parallel.linear import ColumnLinear, RowLinear
from shardproof.proving.prove import prove

H, I = 4, 7


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.inner = nn.Linear(H, I), PositionalDropout(0.3, seed=1)
        self.down, self.outer = nn.Linear(I, H), PositionalDropout(0.3, seed=2)

    def forward(self, x):
        return self.outer(self.down(self.inner(F.gelu(self.up(x)))))


# Two steps: the second has another mask.
STEP = make_step(Model, (random(5, H), random(5, H)), loss=F.mse_loss, steps=2)


FEATURES = Shard(-1)


def split(model, axis, *, inner=FEATURES, total=I):
    model.up, model.down = ColumnLinear.from_linear(model.up, axis), RowLinear.from_linear(model.down, axis)
    model.inner = PositionalDropout.from_dropout(model.inner, axis, placement=inner, total=total)
    model.outer = PositionalDropout.from_dropout(model.outer, axis)


@pytest.mark.parametrize("devices", [2, 3])
def test_dropout_of_shards_and_of_replicas_is_proved(devices):
    proof = proof_of(STEP, split, devices)
    assert proof.ok, proof.roots


def test_a_plan_splits_dropout_too():
    plan = {"up": Column(), "inner": Dropout(placement=FEATURES, total=I), "down": Row(), "outer": Dropout()}

    def change(model, mesh):
        return parallelize(model, mesh, plan)

    assert prove(STEP, parallelize=change, devices=3, trials=1).ok
    plan["inner"] = Dropout()  # takes the shard for the whole
    assert "inner" in {finding.key.name for finding in prove(STEP, parallelize=change, devices=3, trials=1).roots}


def test_layers_of_one_seed_have_masks_of_their_own():
    def on_rank(axis):
        mesh = axis_mesh(axis)
        model = nn.Sequential(nn.Dropout(), nn.Dropout())
        with pytest.raises(CannotRunError, match="give a seed"):
            parallelize(model, mesh, {"*": Dropout()})
        parallelize(model, mesh, {"*": Dropout(seed=1)})
        return [layer(torch.ones(64)) for layer in model]

    (first, second), other = run(2, on_rank)
    assert not torch.equal(first, second)
    assert torch.equal(torch.stack([first, second]), torch.stack(other))
    with alone(2) as axis, pytest.raises(CannotRunError, match=r"0 is a ReLU; needed is an nn\.Dropout"):
        parallelize(nn.Sequential(nn.ReLU()), axis_mesh(axis), {"0": Dropout()})


def axis_mesh(axis):
    return init_device_mesh("cpu", (axis.size,), mesh_dim_names=("tp",))


def same_mask(model, axis):
    """M47: every rank drops the same elements of its shard."""
    split(model, axis, inner=Replicate(), total=None)


def other_replicas(model, axis):
    """Each rank its own seed, also where all hold the same."""
    split(model, axis)
    model.outer.seed += axis.rank


def other_count(model, axis):
    """One call more than on one device, on all ranks alike."""
    split(model, axis)
    model.inner.calls += 1


@pytest.mark.parametrize(("change", "root"), [(same_mask, "inner"), (other_replicas, "outer"), (other_count, "inner")])
def test_a_wrong_mask_is_found_at_its_layer(change, root):
    proof = proof_of(STEP, change, 3)
    assert root in {finding.key.name for finding in proof.roots}


@pytest.mark.parametrize(("shape", "dim", "size"), [((5, 7), 1, 3), ((4, 3, 6), 0, 2), ((6,), -1, 4)])
def test_shards_of_the_mask_make_the_whole(shape, dim, size):
    x = torch.ones(shape)
    whole = PositionalDropout(0.5, seed=3)

    def on_rank(axis):
        part = PositionalDropout.from_dropout(whole, axis, placement=Shard(dim), total=shape[dim])
        own = x.tensor_split(size, dim)[axis.rank]
        return part(own), part(own)

    parts = run(size, on_rank)
    for expected, call in [(whole(x), 0), (whole(x), 1)]:
        assert torch.equal(torch.cat([part[call] for part in parts], dim), expected)
    assert not torch.equal(torch.cat([part[0] for part in parts], dim), torch.cat([part[1] for part in parts], dim))


def mask(p=0.5, seed=0, call=0, shape=(400, 500)):
    return keep(torch.Size(shape), p, seed, call, start={}, device=torch.device("cpu")).double()


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_as_many_are_kept_as_should_be(p):
    kept = mask(p)
    deviation = (p * (1 - p) / kept.numel()) ** 0.5
    assert abs(float(kept.mean()) - (1 - p)) < 5 * deviation
    assert abs(float(mask(p + 0.01).mean()) - (1 - p)) > 5 * deviation


def test_masks_of_other_seeds_calls_and_places_have_nothing_in_common():
    own = mask()
    for other in (mask(seed=1), mask(call=1), own.roll(1, 0), own.roll(1, 1), own.roll((1, 1), (0, 1))):
        agreement = float((own == other).double().mean())
        assert abs(agreement - 0.5) < 5 * 0.5 / own.numel() ** 0.5


def test_the_default_generator_is_neither_read_nor_advanced():
    layer = PositionalDropout(0.5, seed=4)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = layer(torch.ones(50))
    assert torch.equal(before, torch.get_rng_state())
    layer.calls = 0
    torch.manual_seed(1)
    assert torch.equal(layer(torch.ones(50)), first)


def test_evaluation_and_zero_drop_nothing():
    x = random(5)
    assert PositionalDropout(0.5, seed=0).eval()(x) is x
    assert PositionalDropout(0.0, seed=0)(x) is x


def test_the_expectation_is_kept():
    assert set(PositionalDropout(0.5, seed=0)(torch.ones(100)).tolist()) == {0.0, 2.0}


def test_what_makes_no_sense_says_why():
    with pytest.raises(CannotRunError, match=r"p = 1\.0"):
        PositionalDropout(1.0, seed=0)
    with pytest.raises(CannotRunError, match="without the axis"):
        PositionalDropout(0.5, seed=0, placement=Shard(0))

    def on_rank(axis):
        with pytest.raises(CannotRunError, match="give a seed"):
            PositionalDropout.from_dropout(nn.Dropout(), axis)
        uneven = PositionalDropout.from_dropout(nn.Dropout(), axis, seed=0, placement=Shard(0), total=5)
        with pytest.raises(CannotRunError, match=r"a shard of shape \[4\]; rank . of 2 holds . of 5 along dim 0"):
            uneven(torch.ones(4))

    run(2, on_rank)
