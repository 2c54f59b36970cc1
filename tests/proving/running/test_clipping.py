"""The gradient norm counts each element once, whatever the sharding; the user's own clipping is taken as it is."""

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from tests.proving import steps
from torch import nn

from shardproof.errors import CannotRunError
from shardproof.proving.cause import CauseKind
from shardproof.proving.prove import prove
from shardproof.proving.records import Phase
from shardproof.proving.running import clipping
from shardproof.proving.running.clipping import (
    CountedElements,
    ElementNumbers,
    clip_gradients,
    clip_model,
    find_counted,
)
from shardproof.worlds.threaded import ThreadedWorld

MAX_NORM = 0.05


def find_on_ranks(held, state):
    """What each rank counts of what it holds."""
    return ThreadedWorld(size=len(held)).run(lambda comm: find_counted(held[comm.rank], state))


def test_the_first_rank_that_holds_an_element_counts_it():
    state = {"w": torch.arange(1.0, 7).double().view(3, 2), "b": torch.tensor([7.0, 8.0]).double()}
    held = [{"w": state["w"][:2], "b": state["b"]}, {"w": state["w"][1:], "b": state["b"]}]
    first, second = find_on_ranks(held, state)
    assert first["w"].tolist() == [[True, True], [True, True]]
    assert second["w"].tolist() == [[False, False], [True, True]]
    assert first["b"].tolist() == [True, True]
    assert second["b"].tolist() == [False, False]


def test_padding_and_values_of_nobody_count_nowhere_and_a_value_held_twice_counts_once():
    state = {"w": torch.tensor([3.0, 1.0, 2.0]).double(), "mask": torch.ones(2, dtype=torch.bool)}
    held = [{"w": torch.tensor([3.0, 0.0]).double()}, {"w": torch.tensor([2.0, 9.0]), "v": torch.tensor([2.0, 1.0])}]
    first, second = find_on_ranks(held, state)
    assert first["w"].tolist() == [True, False]
    assert second["w"].tolist() == [True, False]
    assert second["v"].tolist() == [False, True]


def test_the_blocks_of_an_exchange_change_nothing(monkeypatch):
    state = {"w": torch.randperm(40, generator=torch.Generator().manual_seed(0)).double().view(8, 5) + 1}
    held = [{"w": state["w"][:3]}, {"w": state["w"][2:], "v": state["w"][:1]}, {"w": state["w"][:, 1:3]}]
    whole = find_on_ranks(held, state)
    monkeypatch.setattr(clipping, "_BLOCK", 7)
    blocks = find_on_ranks(held, state)
    assert [{name: mask.tolist() for name, mask in rank.items()} for rank in blocks] == [
        {name: mask.tolist() for name, mask in rank.items()} for rank in whole
    ]
    assert sum(int(mask.sum()) for rank in blocks for mask in rank.values()) == 40


def test_the_numbers_of_a_state_are_sorted_once_for_all_ranks():
    known, state = ElementNumbers(), {"w": torch.tensor([3.0, 1.0]).double()}
    assert known.of(state) is known.of(state)
    assert len(known.of({"w": torch.tensor([1.0]).double()})) == 1


def test_what_is_counted_is_found_once():
    state = {"w": torch.tensor([1.0, 2.0]).double()}

    def run(_comm):
        counted = CountedElements(known=ElementNumbers())
        first = dict(counted.find({"w": torch.tensor([1.0]).double()}, state))
        return first["w"].tolist(), counted.find({"w": torch.tensor([5.0]).double()}, state)["w"].tolist()

    assert ThreadedWorld(size=2).run(run) == [([True], [True]), ([False], [False])]


@pytest.mark.parametrize("largest", [0.1, 100.0])
def test_clipping_on_one_device_is_that_of_pytorch(largest):
    model, other = steps.MLP(), steps.MLP()
    other.load_state_dict(model.state_dict())
    for one in (model, other):
        one(torch.ones(2, 6)).square().sum().backward()
    assert torch.equal(clip_gradients(model, largest), torch.nn.utils.clip_grad_norm_(other.parameters(), largest))
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one.grad, two.grad)


def test_in_float16_no_square_overflows_and_the_norm_has_the_dtype_of_one_device():
    def run(_comm):
        model = nn.Linear(2, 1, bias=False).half()
        model.weight.grad = torch.tensor([[300.0, 400.0]]).half()
        return clip_gradients(model, 1.0, {"weight": torch.tensor([[True, False]])})

    norms = ThreadedWorld(size=2).run(run)
    assert all(norm.dtype == torch.float16 for norm in norms)
    assert [norm.item() for norm in norms] == pytest.approx([300.0 * 2**0.5] * 2, rel=1e-3)


def test_a_gradient_of_another_shape_than_the_parameter_had_is_refused():
    def run(_comm):
        model = nn.Linear(2, 1, bias=False)
        model.weight.grad = torch.ones(1, 2)
        return clip_gradients(model, 1.0, {"weight": torch.ones(2, dtype=torch.bool)})

    with pytest.raises(CannotRunError, match=r"the gradient of weight on a rank is of shape \(1, 2\).*Step\(clip="):
        ThreadedWorld(size=2).run(run)


# The user's own -----------------------------------------------------------------------------------------------------


def test_a_clip_returns_a_norm_or_none_or_a_number():
    model = steps.MLP()
    norm = torch.tensor([2.0], requires_grad=True)
    assert clip_model(model, steps.make_step(clip=lambda _model: norm), None).shape == ()
    assert clip_model(model, steps.make_step(clip=lambda _model: None), None) is None
    assert clip_model(model, steps.make_step(clip=lambda _model: 2.0), None) is None
    with pytest.raises(CannotRunError, match=r"clip\(model\) returned list; return the norm"):
        clip_model(model, steps.make_step(clip=lambda _model: [norm]), None)


def plain(model, mesh):
    """Plain shards by hand; the last bias is a replica."""
    return steps.megatron(None)(model, mesh)


def clip_by(square_of, *, told=True):
    """A clipping that sums over ranks what `square_of(name, gradient)` gives."""

    def clip(model):
        squares = sum(square_of(name, parameter.grad) for name, parameter in model.named_parameters())
        dist.all_reduce(squares)
        norm = squares.sqrt()
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), MAX_NORM, norm)
        return norm if told else None

    return clip


def once(name, gradient):
    count = 2 if name == "down.bias" else 1
    return gradient.square().sum() / count


def clip_each_by_itself(model):
    return torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)


def prove_clipping(**settings):
    return prove(steps.make_step(clip_norm=MAX_NORM, **settings), parallelize=plain, devices=2, trials=1)


@pytest.mark.parametrize(
    "settings",
    [{}, {"clip": clip_by(once)}, {"clip": clip_by(once, told=False)}],
    ids=["by the prover", "the user's own", "the user's own, of an unknown norm"],
)
def test_right_clipping_of_plain_shards_is_proved(settings):
    proof = prove_clipping(**settings)
    assert proof.ok
    assert any(finding.key.phase is Phase.CLIPPED for finding in proof.findings)


def test_the_norm_of_plain_shards_is_within_rounding_noise_in_numbers_alone():
    assert prove(steps.make_step(clip_norm=MAX_NORM), parallelize=plain, devices=2, numeric=True).ok
    assert not prove(
        steps.make_step(clip_norm=MAX_NORM, clip=clip_each_by_itself), parallelize=plain, devices=2, numeric=True
    ).ok


@pytest.mark.parametrize(
    ("clip", "kind"),
    [
        (clip_each_by_itself, CauseKind.NORM_OF_PART),
        (clip_by(lambda _name, gradient: gradient.square().sum()), CauseKind.NORM_COUNTS_REPLICAS),
        (clip_by(lambda name, g: once(name, g) * (name != "up.bias")), CauseKind.NORM_MISSES_PARAMETER),
        (clip_by(lambda name, g: once(name, g) * (1 + (name == "up.weight"))), CauseKind.NORM_COUNTS_PARAMETER),
        (lambda _model: None, CauseKind.NOT_CLIPPED),
    ],
)
@pytest.mark.parametrize("settings", [{}, {"numeric": True}], ids=["exact", "numeric"])
def test_wrong_clipping_is_found_with_its_cause(clip, kind, settings):
    step = steps.make_step(clip_norm=MAX_NORM, clip=clip)
    proof = prove(step, parallelize=plain, devices=2, trials=1, **settings)
    assert not proof.ok
    causes = {finding.cause.kind for finding in proof.roots if finding.cause}
    assert causes == {kind}
    assert {finding.key.phase for finding in proof.roots} <= {Phase.NORM, Phase.CLIPPED}


def test_a_clip_without_a_norm_runs_on_both_sides():
    def clip(model):
        for parameter in model.parameters():
            parameter.grad.mul_(0.5 if dist.is_initialized() else 0.25)

    step = steps.make_step(clip=clip, loss=F.l1_loss, optimizer=None)
    proof = prove(step, parallelize=plain, devices=2, trials=1)
    assert {finding.key.phase for finding in proof.roots} == {Phase.CLIPPED}
