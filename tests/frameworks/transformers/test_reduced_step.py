"""Steps on reduced models: what the batch reaches, what is proved, what is caught, and what the reduction hides."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from shardproof.errors import CannotRunError
from shardproof.frameworks.transformers import OwnPlan, PlanChange, reduced_step, tiny_step
from shardproof.frameworks.transformers.reduced_step import SEQUENCE, count_rows, draw_ids
from shardproof.proving.findings import Verdict
from shardproof.proving.prove import prove
from shardproof.report.reduction import LEFT_OUT

pytest.importorskip("transformers")

DATA = Path(__file__).parent / "data"
OWN = OwnPlan(change=PlanChange())
FEW_HEADS = {"num_attention_heads": 8, "num_key_value_heads": 4}


def prove_reduced(name, mesh, settings=None, parallelize=None):
    plan = OWN if parallelize is None else None
    step, _ = reduced_step(str(DATA / f"{name}.json"), settings or {}, mesh=mesh, plan=plan)
    return prove(step, parallelize=parallelize or OWN, mesh=mesh, trials=1)


def test_ids_reach_every_shard_of_the_vocabulary_over_every_axis():
    drawn = draw_ids(384, {"dp": 4, "tp": 8}, rows=8, seed=0)
    ids = set(drawn[:, :-1].flatten().tolist())  # the last token of a row predicts nothing
    for ranks in (4, 8, 32):
        for shard in torch.arange(384).chunk(ranks):
            assert ids & set(shard.tolist())
    assert ids <= set(range(384))


def test_rows_are_shared_by_the_data_axes_and_tokens_are_enough_for_the_experts():
    dense, sparse = SimpleNamespace(), SimpleNamespace(num_local_experts=128, num_experts_per_tok=8)
    assert count_rows(dense, ranks=8, shares=1) == 2
    assert count_rows(dense, ranks=128, shares=16) % 16 == 0
    assert count_rows(sparse, ranks=8, shares=1) * SEQUENCE * 8 > 128 * 7


def test_the_model_of_a_published_configuration_is_proved_on_its_ranks():
    proof = prove_reduced("mixtral-8x22b", {"tp": 8}, {"num_local_experts": 4, "num_attention_heads": 16})
    assert (proof.ok, proof.devices) == (True, 8)


def test_data_and_tensor_parallel_ranks_are_proved():
    assert prove_reduced("llama-3.1-405b", {"dp": 2, "tp": 2}, FEW_HEADS).ok


def test_one_training_step_unless_more_are_asked_for():
    assert reduced_step("llama", FEW_HEADS, mesh={"tp": 2}, plan=OWN)[0].steps == 1


def test_a_model_without_a_loss_is_one_line():
    with pytest.raises(CannotRunError, match="is no language model"):
        reduced_step("clip_text_model", {}, mesh={"tp": 2}, plan=None)


class Summed(torch.autograd.Function):
    """Identity forward, all-reduce backward."""

    @staticmethod
    def forward(ctx, tensor, group):
        ctx.group = group
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx, gradient):
        summed = gradient.clone()
        torch.distributed.all_reduce(summed, group=ctx.group)
        return summed, None


def share_heads(choose):
    """Splits query heads; each rank computes the one key-value head that `choose(rank, ranks, heads)` names."""

    def parallelize(model, mesh):
        heads, group = model.config.num_key_value_heads, mesh.get_group()
        model = OwnPlan(change=PlanChange(drop=("*k_proj", "*v_proj")))(model, mesh)
        head = choose(mesh.get_local_rank(), mesh.size(), heads)
        for layer in model.model.layers:
            attention = layer.self_attn
            attention.num_key_value_groups = model.config.num_attention_heads // mesh.size()
            size = attention.head_dim
            for projection in (attention.k_proj, attention.v_proj):
                projection.forward = lambda x, of=projection, size=size: torch.nn.functional.linear(
                    Summed.apply(x, group), Summed.apply(of.weight, group)
                )[..., head * size : (head + 1) * size]
        return model

    return parallelize


RIGHT_HEAD = share_heads(lambda rank, ranks, heads: rank * heads // ranks)
WRONG_HEAD = share_heads(lambda rank, _ranks, heads: rank % heads)
SHARED = {"num_attention_heads": 8, "num_key_value_heads": 2}


def test_more_ranks_than_key_value_heads_are_proved_and_a_wrong_share_is_caught():
    assert prove_reduced("llama-3.1-405b", {"tp": 4}, SHARED, RIGHT_HEAD).ok
    wrong = prove_reduced("llama-3.1-405b", {"tp": 4}, SHARED, WRONG_HEAD)
    assert {root.verdict for root in wrong.roots} == {Verdict.WRONG}
    assert "self_attn" in wrong.roots[0].key.name


def test_as_many_ranks_as_key_value_heads_do_not_show_the_wrong_share():
    assert prove(tiny_step("llama", {"num_key_value_heads": 2}), parallelize=WRONG_HEAD, devices=2, trials=1).ok


def drop_remainder(model, mesh):
    """The model's own plan; logits are gathered as if every rank had floor(V / N) of them."""
    model = OWN(model, mesh)
    whole = model.config.vocab_size
    kept = whole // mesh.size() * mesh.size()

    def cut(_module, _inputs, logits):
        return torch.nn.functional.pad(logits[..., :kept], (0, whole - kept))

    model.lm_head.register_forward_hook(cut)
    return model


def test_a_vocabulary_that_does_not_divide_is_proved_and_a_lost_remainder_is_caught():
    odd = FEW_HEADS | {"vocab_size": 128257}
    assert prove_reduced("llama-3.1-405b", {"tp": 2}, odd).ok
    wrong = prove_reduced("llama-3.1-405b", {"tp": 2}, odd, drop_remainder)
    assert [root.key.name for root in wrong.roots if root.verdict is Verdict.WRONG] == ["lm_head"]
    assert prove_reduced("llama-3.1-405b", {"tp": 2}, FEW_HEADS, drop_remainder).ok  # 128256 divides


@pytest.mark.parametrize("hidden", ["size", "layer"])
def test_what_depends_on_an_absolute_size_or_a_layers_number_is_hidden(hidden):
    """Out of the scope of a reduction, and said so in its report: the mistake is there at full size alone."""

    def parallelize(model, mesh):
        model = OWN(model, mesh)
        if model.config.hidden_size > 8192 if hidden == "size" else len(model.model.layers) > 57:
            model.lm_head.register_forward_hook(lambda _module, _inputs, logits: logits + logits)
        return model

    assert prove_reduced("llama-3.1-405b", {"tp": 2}, FEW_HEADS, parallelize).ok
    assert any("absolute size" in one and "layer's number" in one for one in LEFT_OUT)
