"""transformers' own expert-parallel plans: proved on its layouts of ranks, with planted bugs, and refused in a line."""

from dataclasses import replace
from fractions import Fraction

import pytest
import torch

import shardproof as sp
from shardproof.errors import CannotRunError
from shardproof.frameworks.transformers import OwnPlan, PlanChange, tiny_step
from shardproof.frameworks.transformers.expert_layout import take_experts
from shardproof.proving.cause import CauseKind
from shardproof.proving.findings import Verdict
from shardproof.report.text import render_text

pytest.importorskip("transformers")
from transformers.distributed import expert_parallel

pytestmark = pytest.mark.filterwarnings("ignore:FSDP2-wrapped module")  # returns a view: nothing here writes into it


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def make_step(kind="mixtral", rows=2, **settings):
    step = tiny_step(kind, {"num_hidden_layers": 1, **settings})
    if rows > 2:
        step = replace(
            step, batch={"inputs": {name: x.repeat(rows // 2, 1) for name, x in step.batch["inputs"].items()}}
        )
    return replace(step, optimizer=sgd, steps=1)


def prove(step, mesh, change=None, parallelize=None, **settings):
    plan = parallelize or OwnPlan(change=change or PlanChange())
    return sp.prove(step, parallelize=plan, mesh=mesh, trials=1, **settings)


@pytest.mark.parametrize("mesh", [{"ep": 2}, {"ep": 1, "tp": 2}, {"ep": 2, "tp": 2}])
def test_experts_are_proved_alone_and_beside_the_plan_over_tensors(mesh):
    proof = prove(make_step(), mesh)
    assert proof.ok, render_text(proof)
    assert proof.data_axes == ("ep",)
    names = {finding.key.name for finding in proof.findings if str(finding.key.phase) == "gradient"}
    assert "model.layers.0.mlp.experts.gate_up_proj" in names


@pytest.mark.parametrize("mesh", [{"dp": 2, "ep": 2}, {"ep": 4}])
def test_copies_of_experts_and_ranks_with_one_expert_each_are_proved(mesh):
    assert prove(make_step(rows=4), mesh).ok


def test_ranks_without_tokens_are_proved():
    """Two tokens on each rank, to one of four experts each: an expert that gets none is run on a row of zeros."""
    ids = torch.tensor([[1, 5], [20, 6], [40, 7], [60, 8]])  # the first ones, which matter, in each shard's rows
    step = replace(make_step(num_experts_per_tok=1), batch={"inputs": {"input_ids": ids, "labels": ids}})
    proof = prove(step, {"ep": 4})
    assert proof.ok, render_text(proof)


def test_tied_weights_are_tied_again():
    assert prove(make_step(tie_word_embeddings=True), {"ep": 2}).ok


IMPLEMENTATIONS = ["eager", "batched_mm", "grouped_mm"]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS[1:])
def test_experts_by_batched_and_grouped_products_are_proved(implementation):
    assert prove(make_step(experts_implementation=implementation), {"ep": 2}).ok


@pytest.fixture
def summed(monkeypatch):
    """Every rank runs its own experts on the tokens that all have, and an all-reduce sums the outputs."""
    monkeypatch.setitem(expert_parallel.EPImplementationInterface._global_mapping, "auto", expert_parallel.AllReduceEP)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_experts_whose_outputs_are_summed_are_proved(implementation, summed):
    """Rows for experts of other ranks lie behind the last group of a grouped product, and are masked."""
    assert prove(make_step(experts_implementation=implementation), {"ep": 1, "tp": 2}).ok


def test_a_missing_all_reduce_of_the_gradient_is_found(summed, monkeypatch):
    """transformers#48205: the gradients of the tokens are those of a rank's own experts."""
    monkeypatch.setattr(expert_parallel._AllReduceBackward, "backward", staticmethod(lambda ctx, grad: (grad, None)))
    root = prove(make_step(), {"ep": 1, "tp": 2}).roots[0]
    assert (root.verdict, root.cause.kind) == (Verdict.WRONG, CauseKind.UNREDUCED)
    assert "gradient" in str(root.key.phase)


def test_entries_of_the_experts_plan_stay_there_whatever_their_style():
    """muse_spark sums the gradient of a norm that its experts share; gemma4 splits an MLP over the ranks of experts."""
    plan = {
        "attention": "colwise",
        "mlp": "colwise",
        "experts.down": "grouped_gemm",
        "experts.norm": "replicated_with_grad_allreduce",
        "experts": "ep_dispatch_experts",
    }
    assert take_experts(plan, ["mlp"]) == (
        {"attention": "colwise"},
        {name: style for name, style in plan.items() if name != "attention"},
    )


def test_a_norm_that_experts_share_is_proved():
    assert prove(make_step("muse_spark_text"), {"ep": 2}).ok


def planted(change):
    """The model's own plan, and a change of the experts' module."""

    def parallelize(model, mesh):
        model = OwnPlan(change=PlanChange())(model, mesh)
        change(model.model.layers[0].mlp.experts)
        return model

    return parallelize


def undivided(experts):
    """FSDP2's own divisor: the number of ranks that hold copies of these experts, which is one."""
    experts.set_gradient_divide_factor(1.0)


def without_gradient_of_the_router(experts):
    forward = experts.forward
    experts.forward = lambda hidden, index, weights: forward(hidden, index, weights.detach())


def without_the_second_token(experts):
    """As a capacity that each rank counts for itself may do."""
    forward = experts.forward

    def drop(hidden, index, weights):
        kept = torch.ones_like(weights)
        kept[1] = 0
        return forward(hidden, index, weights * kept)

    experts.forward = drop


def test_a_gradient_that_is_not_divided_by_the_ranks_with_other_tokens_is_found():
    roots = prove(make_step(), {"ep": 2}, parallelize=planted(undivided)).roots
    assert {root.key.name for root in roots} == {
        "model.layers.0.mlp.experts.gate_up_proj",
        "model.layers.0.mlp.experts.down_proj",
    }
    assert {(root.cause.kind, root.cause.factor) for root in roots} == {(CauseKind.SCALED, Fraction(2))}


def test_a_router_that_gets_no_gradient_from_the_experts_is_found():
    root = prove(make_step(), {"ep": 2}, parallelize=planted(without_gradient_of_the_router)).roots[0]
    assert (root.verdict, str(root.key)) == (Verdict.WRONG, "step 1, output gradient model.layers.0.mlp.gate[1]")


def test_a_token_that_each_rank_drops_is_found():
    root = prove(make_step(), {"ep": 2}, parallelize=planted(without_the_second_token)).roots[0]
    assert (root.verdict, root.key.name) == (Verdict.WRONG, "model.layers.0.mlp.experts")


@pytest.mark.parametrize(
    ("kind", "mesh", "said"),
    [
        ("llama", {"ep": 2}, "no `ep_plan`"),
        ("mixtral", {"tp": 2, "ep": 2}, "the mesh has the axes tp, ep; .* give ep and then tp last"),
        ("mixtral", {"ep": 3}, "3 ranks cannot share 4 experts: .*give axes ep and tp whose product divides 4"),
        ("mixtral", {"ep": 1, "tp": 8}, "8 ranks cannot share 4 heads"),
    ],
)
def test_what_cannot_be_laid_out_is_refused_in_one_line(kind, mesh, said):
    with pytest.raises(CannotRunError, match="(?i)" + said) as error:
        prove(make_step(kind, rows=6), mesh)
    assert "\n" not in str(error.value)


def test_entries_of_both_plans_can_be_changed():
    change = PlanChange(drop=["*self_attn*", "*.experts*"])
    assert prove(make_step(), {"ep": 1, "tp": 2}, change).ok
