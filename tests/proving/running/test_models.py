"""Models: built alike from one seed, filled with values that are addresses, converted, and sharded with a check."""

import pytest
import torch
import torch.nn.functional as F
from tests.proving import steps
from torch import nn
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from shardproof.errors import CannotRunError
from shardproof.proving.prove import prove
from shardproof.proving.records import SAMPLES, Precision
from shardproof.proving.running.models import (
    build_model,
    convert,
    draw_buffers,
    draw_parameters,
    dtype_of,
    fill_drawn_buffers,
    initial_values,
    load_model,
    name_dtypes,
    nudge_parameters,
    own_dtypes,
    precisions_of,
    shard_model,
)


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.low = nn.Linear(6, 8, dtype=torch.bfloat16)
        self.high = nn.Linear(8, 4)

    def forward(self, x):
        return self.high(F.gelu(self.low(x.to(self.low.weight.dtype))).to(self.high.weight.dtype))


def fail():
    raise OverflowError("too wide")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (fail, "the model cannot be built: OverflowError: too wide"),
        (lambda: 3, r"model\(\) gave int; needed is a torch.nn.Module with parameters"),
        (nn.ReLU, r"model\(\) gave ReLU; needed"),
    ],
)
def test_what_is_no_model_is_refused(model, said):
    with pytest.raises(CannotRunError, match=said):
        build_model(steps.make_step(model=model), 0)


def test_a_model_is_built_in_its_own_dtypes_from_the_seed():
    step = steps.make_step(model=Mixed)
    first, again, other = (initial_values(build_model(step, seed)) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["low.weight"], other["low.weight"])
    assert {values.dtype for values in first.values()} == {torch.float64}
    assert own_dtypes(build_model(step, 0))["low.weight"] is torch.bfloat16


def test_drawn_values_differ_from_each_other_from_zero_and_from_what_the_seed_gives_a_user():
    model = steps.MLP().double()
    draw_parameters(model, 7)
    values = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    assert len(values.unique()) == len(values)
    assert bool((values != 0).all())
    torch.manual_seed(7)
    assert not torch.isin(values, torch.randn(len(values), dtype=torch.float64)).any()


class Buffers(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        for name, values in BUFFERS.items():
            self.register_buffer(name, values.clone(), persistent=name != "unsaved")


BUFFERS = {
    "mean": torch.zeros(3),
    "variance": torch.ones(3),
    "unsaved": torch.zeros(2, 2),
    "flag": torch.zeros(1),
    "scale": torch.ones(()),
    "mask": torch.tensor([0.0, 1.0]),
    "additive": torch.tensor([0.0, -torch.inf]),
    "table": torch.tensor([0.5, 0.5]),
    "count": torch.zeros(3, dtype=torch.int64),
    "empty": torch.zeros(0),
}


def test_buffers_of_zeros_or_ones_are_drawn_and_masks_tables_flags_and_counts_stay():
    model = Buffers().double()
    drawn = draw_buffers(model, 3)
    assert set(drawn) == {"mean", "variance", "unsaved"}
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, drawn.get(name, BUFFERS[name].to(buffer.dtype)))
        assert len(buffer.unique()) == buffer.numel() or name not in drawn
    assert bool((drawn["variance"] > 0).all())
    again, other = Buffers().double(), Buffers().double()
    assert torch.equal(draw_buffers(again, 3)["unsaved"], drawn["unsaved"])
    assert not torch.equal(draw_buffers(other, 4)["unsaved"], drawn["unsaved"])


def test_a_model_is_loaded_with_the_drawn_buffers_that_no_state_dict_holds():
    step = steps.make_step(model=Buffers)
    source = Buffers().double()
    drawn = draw_buffers(source, 3)
    loaded = dict(load_model(step, 3, source.state_dict(), Precision.FLOAT64).named_buffers())
    assert all(torch.equal(loaded[name], drawn[name]) for name in drawn)


def test_a_training_that_loads_no_buffers_is_given_those_that_are_drawn_and_keeps_what_it_has_loaded():
    drawn, model = draw_buffers(Buffers().double(), 3), Buffers()
    model.mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
    model.variance = torch.ones(2)  # a shard
    fill_drawn_buffers(model, drawn, torch.float64)
    assert torch.equal(model.unsaved, drawn["unsaved"])
    assert model.unsaved.dtype is torch.float64
    assert model.mean.tolist() == [1, 2, 3]
    assert model.variance.tolist() == [1, 1]
    assert model.count.tolist() == [0, 0, 0]


class Special(nn.Module):
    """Parameters of the values that initialisations give: zeros, ones, ties, and memory that nothing initialises."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(8))
        self.bias = nn.Parameter(torch.zeros(8))
        self.adapter = nn.Parameter(torch.zeros(3, 4096))
        self.tied = nn.Parameter(torch.full((5,), 0.5))
        self.unwritten = nn.Parameter(torch.tensor([float("nan"), float("inf"), 1e30, 1e-40, -2.0]))
        self.empty = nn.Parameter(torch.zeros(0, 3))
        self.count = nn.Parameter(torch.tensor([1, 2]), requires_grad=False)


def test_nudged_values_are_near_those_of_the_model_and_none_is_special():
    model = Special().double()
    nudge_parameters(model, 0)
    values = {name: parameter.detach() for name, parameter in model.named_parameters()}
    assert 0.05 <= float((values["gain"] - 1).abs().min()) <= float((values["gain"] - 1).abs().max()) <= 0.1
    assert 0.05 <= float(values["bias"].abs().min()) <= float(values["bias"].abs().max()) <= 0.1
    assert 0.0 < float(values["adapter"].abs().min()) <= float(values["adapter"].abs().max()) <= 4096**-0.5
    assert len(values["tied"].unique()) == 5
    assert float((values["tied"] / 0.5 - 1).abs().max()) <= 0.1
    assert float(values["unwritten"][:4].abs().max()) <= 0.1
    assert float(values["unwritten"][:4].abs().min()) >= 0.05
    assert -2.2 <= float(values["unwritten"][4]) <= -1.9 + 1e-9
    assert torch.equal(values["count"], torch.tensor([1, 2]))
    signs = torch.cat([(values["gain"] - 1).sign(), values["bias"].sign()])
    assert {-1.0, 1.0} == set(signs.tolist())


def test_nudged_values_are_the_same_for_one_seed():
    first, again, other = Special().double(), Special().double(), Special().double()
    for model, seed in ((first, 0), (again, 0), (other, 1)):
        nudge_parameters(model, seed)
    assert torch.equal(first.gain, again.gain)
    assert not torch.equal(first.gain, other.gain)


def test_own_and_rounded_start_from_the_same_values_and_a_shaken_one_beside_them():
    step = steps.make_step(model=Mixed)
    state = {name: torch.randn(p.shape, dtype=torch.float64) for name, p in Mixed().state_dict().items()}
    own, rounded, shaken = (
        dict(load_model(step, 0, state, precision).named_parameters())
        for precision in (Precision.OWN, Precision.ROUNDED, Precision.SHAKEN)
    )
    for name, values in own.items():
        assert rounded[name].dtype is torch.float64
        assert torch.equal(values.double(), rounded[name])
        assert values.dtype is shaken[name].dtype
        moved = (shaken[name].double() - values.double()).abs() / values.double().abs()
        assert 0 < moved.max() <= 2 * torch.finfo(values.dtype).eps


def test_in_float64_a_state_goes_in_unrounded():
    step = steps.make_step(model=Mixed)
    state = {name: torch.randn(p.shape, dtype=torch.float64) for name, p in Mixed().state_dict().items()}
    exact = load_model(step, 0, state, Precision.FLOAT64).state_dict()
    assert all(torch.equal(exact[name], state[name]) for name in state)


def test_precisions_and_their_names():
    assert [dtype_of(one) for one in (Precision.FLOAT32, Precision.FLOAT64, Precision.ROUNDED)] == [
        torch.float32,
        torch.float64,
        torch.float64,
    ]
    assert {dtype_of(one) for one in SAMPLES} == {None}
    in_float64 = {"weight": torch.float64, "count": torch.int64}
    assert precisions_of(in_float64) == (Precision.FLOAT64, Precision.FLOAT32)
    assert precisions_of(in_float64 | {"bias": torch.float32}) == (Precision.ROUNDED, *SAMPLES)
    assert name_dtypes(own_dtypes(Mixed()) | {"count": torch.int64}) == "bfloat16 and float32"


def rename(model, _mesh):
    model.above = model.up
    del model.up
    return model


@pytest.mark.parametrize(
    ("parallelize", "said"),
    [
        (lambda model, mesh: None, r"parallelize\(model, mesh\) returned NoneType; it must return the sharded model"),
        (rename, r"changed the parameters' names \(above.bias, above.weight, up.bias, up.weight\)"),
    ],
)
def test_a_sharding_that_gives_no_model_or_other_names_is_refused(parallelize, said):
    with pytest.raises(CannotRunError, match=said):
        shard_model(steps.MLP(), parallelize, None)
    model = steps.MLP()
    assert shard_model(model, lambda model, mesh: model, None) is model


class Rotary(nn.Module):
    """Queries rotated by complex numbers, the table in a buffer, as Llama's own code has it."""

    def __init__(self, complex_parameter=False):
        super().__init__()
        self.queries, self.out = nn.Linear(6, 8, bias=False), nn.Linear(8, 4, bias=False)
        table = torch.polar(torch.ones(5, 4), torch.outer(torch.arange(5.0), torch.tensor([1.0, 0.5, 0.25, 0.1])))
        if complex_parameter:
            self.table = nn.Parameter(table)
        else:
            self.register_buffer("table", table)
        self.other_way = False

    def forward(self, x):
        pairs = torch.view_as_complex(self.queries(x).unflatten(-1, (4, 2)))
        table = self.table.conj() if self.other_way else self.table
        return self.out(torch.view_as_real(pairs * table).flatten(-2))


def test_a_complex_buffer_keeps_its_imaginary_part_whatever_the_model_is_converted_to():
    for dtype, wide in ((torch.float64, torch.complex128), (torch.float32, torch.complex64)):
        model = Rotary()
        before = model.table.clone()
        convert(model, dtype)
        assert model.queries.weight.dtype == dtype
        assert model.table.dtype == wide
        assert torch.equal(model.table.to(torch.complex64), before)
    step = steps.make_step(model=Rotary)
    loaded = load_model(step, 3, Rotary().state_dict(), Precision.FLOAT64)
    assert bool((loaded.table.imag != 0).any())


def test_complex_parameters_are_refused_with_what_to_do():
    step = steps.make_step(model=lambda: Rotary(complex_parameter=True))
    with pytest.raises(CannotRunError, match=r"the parameter table is complex.*view_as_real"):
        build_model(step, 3)


@pytest.mark.parametrize("other_way", [False, True])
def test_a_rotation_by_complex_numbers_is_proved_and_one_the_other_way_is_wrong(other_way):
    def parallelize(model, mesh):
        model.other_way = other_way
        plan = {
            "queries": ColwiseParallel(output_layouts=Replicate()),
            "out": RowwiseParallel(input_layouts=Replicate()),
        }
        return parallelize_module(model, mesh, plan)

    step = steps.make_step(model=Rotary, batch=(torch.randn(2, 5, 6), torch.randn(2, 5, 4)), loss=F.mse_loss)
    proof = prove(step, parallelize=parallelize, devices=2)
    assert proof.ok != other_way
    assert other_way == any(finding.key.name == "out" for finding in proof.roots)
