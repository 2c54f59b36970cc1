"""Plans in all three formats are proved on one decoder; wrong entries are caught, and a bad plan changes nothing."""

from collections import Counter
from fractions import Fraction

import pytest
import torch
from tests.parallel.models import (
    ATTENTION,
    MLP,
    OURS,
    PLANS,
    STRINGS,
    ByPlan,
    ByPlanBesideData,
    Decoder,
    SharedHeads,
    V,
    forward,
    make_batch,
)
from tests.parallel.ranks import alone, calls_of, make_step, mesh_of, run
from torch import nn
from torch.distributed.tensor import Partial, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
)

from shardproof.errors import CannotRunError
from shardproof.parallel import (
    Boundary,
    Column,
    LocalAttributes,
    Move,
    SharedInput,
    VocabularyLoss,
    VocabularyRows,
    parallelize,
    sharding_of,
    traffic_of,
)
from shardproof.parallel.sharding import assemble, counted_parts
from shardproof.parallel.traffic import count_calls
from shardproof.proving.cause import Cause, CauseKind, Mend
from shardproof.proving.prove import prove
from shardproof.proving.records import Phase


def make(heads=4, kv_heads=2, length=None, **changes):
    options = {"forward": forward, "steps": 1, **changes}
    length = length or (8 if heads == 4 else 6)
    batch = options.pop("batch", make_batch(length))
    return make_step(lambda: Decoder(heads, kv_heads, tied=True), batch, **options)


def proof_of_plan(plan, devices, *, step=None):
    return prove(
        step or make(), parallelize=lambda model, mesh: parallelize(model, mesh, plan), devices=devices, trials=1
    )


@pytest.mark.parametrize(("devices", "heads", "kv_heads"), [(2, 4, 2), (3, 6, 3), (4, 4, 2)])
@pytest.mark.parametrize("plan", PLANS)
def test_a_plan_is_proved(plan, devices, heads, kv_heads):
    proof = proof_of_plan(PLANS[plan], devices, step=make(heads, kv_heads))
    assert proof.ok, proof.roots


def test_two_steps_of_a_plan_are_proved():
    assert proof_of_plan(OURS, 2, step=make(steps=2)).ok


@pytest.mark.slow
def test_a_padded_vocabulary_is_proved_tied_too():
    """V is 11: on four ranks the last has a row of padding."""
    padded = {
        "embedding": VocabularyRows(output=Shard(1), multiple=1),
        "head": Column(input=Shard(1), multiple=1),
        "loss": VocabularyLoss(vocabulary=V, multiple=1),
    }
    assert proof_of_plan(OURS | padded, 4).ok
    with pytest.raises(CannotRunError, match="and the plan splits them in two ways"):
        proof_of_plan(OURS | padded | {"head": Column(input=Shard(1))}, 4)


def test_beside_data_parallel_ranks_too():
    ids, _ = make_batch(8)
    step = make(batch=(ids, ids.flip(0).flatten()))  # as many tokens count on each rank of dp
    mesh = {"dp": 2, "tp": 4}  # in which ranks share KV heads: with neighbours along tp, not along dp
    assert prove(step, parallelize=ByPlanBesideData(plan="ours"), mesh=mesh, trials=1).ok
    assert not prove(step, parallelize=ByPlan(plan="ours"), mesh={"dp": 2, "tp": 2}, trials=1).ok


@pytest.mark.slow
@pytest.mark.processes
def test_on_gloo_the_proof_is_the_same():
    step = make_step(SharedHeads(), make_batch(8), forward=forward, steps=1)
    assert prove(step, parallelize=ByPlan(plan="ours"), devices=4, trials=1, spawn=True).ok


def test_gathered_logits_are_refused_by_a_split_loss():
    """M28."""
    with pytest.raises(CannotRunError, match=r"logits \[16, 11\] and targets \[16\] on rank"):
        proof_of_plan(OURS | {"head": Column(input=Shard(1), output=Replicate())}, 2)


def without(plan, *names):
    return {name: style for name, style in plan.items() if name not in names}


def entry(key):
    return key.phase, key.name


MISSING_SUM = Cause(kind=CauseKind.MISSING_ALL_REDUCE, axes=("tp",), mend=Mend.ALL_REDUCE_GRADIENT)


@pytest.mark.parametrize(
    ("plan", "root", "cause"),
    [
        pytest.param(
            without(STRINGS, f"{ATTENTION}.q_norm"),
            (Phase.GRADIENT, "layers.0.attention.q_norm.weight"),
            MISSING_SUM,
            id="M07 head norm",
        ),
        pytest.param(without(OURS, "norm"), (Phase.GRADIENT, "norm.weight"), MISSING_SUM, id="M05 sequence norm"),
        pytest.param(
            OURS | {ATTENTION: Boundary(inputs={0: Move(source=Shard(1), target=Replicate())})},
            (Phase.OUTPUT_GRADIENT, "layers.0.attention_norm"),
            None,
            id="M14 gather whose backward splits",
        ),
        pytest.param(
            STRINGS | {MLP: Boundary(outputs={0: Move(source=Partial(), target=Replicate())})},
            (Phase.OUTPUT, "layers.0.feed_forward"),
            Cause(kind=CauseKind.SCALED, factor=Fraction(2)),
            id="M03 reduced twice",
        ),
    ],
)
def test_a_wrong_plan_is_found_for_the_right_reason(plan, root, cause):
    proof = proof_of_plan(plan, 2)
    roots = {entry(finding.key): finding for finding in proof.roots}
    assert root in roots
    assert cause in (None, roots[root].cause)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("plan", PLANS)
def test_the_calls_are_those_that_the_plan_predicts(plan, size):
    with alone(size) as axis:
        model = parallelize(Decoder(layers=2), mesh_of(axis), PLANS[plan])
        pairs = [pair for pairs in traffic_of(model).values() for pair in pairs]
        predicted = [
            sum((count_calls(getattr(one, way), among) for among, one in pairs), start=Counter())
            for way in ("forward", "backward")
        ]
        zeros, loss = torch.zeros(2, 8, dtype=torch.long), []
        assert calls_of(lambda: loss.append(model(zeros, zeros.flatten()))) == predicted[0]
        assert calls_of(lambda: loss[0].backward()) == predicted[1]
        assert 0 < predicted[0].total() != predicted[1].total() > 0  # what one way costs would not do for the other


def test_one_entry_for_all_projections_costs_less():
    def backward_calls(plan):
        with alone(2) as axis:
            pairs = [p for pairs in traffic_of(parallelize(Decoder(), mesh_of(axis), plan)).values() for p in pairs]
            return sum(len(one.backward) for _, one in pairs)

    entered = {
        ATTENTION: SharedInput(),
        f"{ATTENTION}.w[qkv]": Column(input_shared=True),
        MLP: SharedInput(),
        f"{MLP}.w1": Column(input_shared=True),
        f"{MLP}.w3": Column(input_shared=True),
    }
    assert proof_of_plan(STRINGS | entered, 2).ok
    assert backward_calls(STRINGS | entered) == backward_calls(STRINGS) - 3


def test_parameters_keep_names_order_and_ties_and_carry_their_sharding():
    def on_rank(axis):
        torch.manual_seed(0)
        whole = Decoder(tied=True)
        names = [name for name, _ in whole.named_parameters()]
        model = parallelize(whole, mesh_of(axis), STRINGS)
        assert model is whole
        assert [name for name, _ in model.named_parameters()] == names
        assert model.head.weight is model.embedding.weight
        return [sum(p.numel() for p in counted_parts(q.detach(), sharding_of(q))) for q in model.parameters()]

    counted = run(4, on_rank)
    assert [sum(one) for one in zip(*counted, strict=True)] == [p.numel() for p in Decoder(tied=True).parameters()]


def gradients_on(axis, plan):
    torch.manual_seed(0)
    model = parallelize(Decoder(tied=True).double(), mesh_of(axis), plan)
    model(*make_batch(8)).backward()
    return {name: (p.grad, p.detach(), sharding_of(p)) for name, p in model.named_parameters()}


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("plan", PLANS)
def test_gradients_put_together_by_what_parameters_say_are_the_whole_ones(plan, size):
    """The prover finds layouts by itself, and so does not see a `Sharding` that is wrong."""
    torch.manual_seed(0)
    whole = Decoder(tied=True).double()
    whole(*make_batch(8)).backward()
    ranks = run(size, lambda axis: gradients_on(axis, PLANS[plan]))
    for name, parameter in whole.named_parameters():
        gradients, values, (sharding, *_) = zip(*(rank[name] for rank in ranks), strict=True)
        assert torch.equal(assemble(values, sharding), parameter)
        torch.testing.assert_close(assemble(gradients, sharding), parameter.grad)
        if sharding.dim is None:
            assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)
        for piece in sharding.pieces[0] if sharding.pieces else ():  # what ranks share is the same on all that hold it
            for other in sharding.holders(piece):
                twin = next(one for one in sharding.pieces[other] if one.full == piece.full)
                own = gradients[0].narrow(sharding.dim, piece.local, piece.length)
                torch.testing.assert_close(gradients[other].narrow(sharding.dim, twin.local, twin.length), own)
    values = [rank["layers.0.attention.wq.weight"][1] for rank in ranks]
    sharding = ranks[0]["layers.0.attention.wq.weight"][2]
    assert not torch.equal(assemble(values[::-1], sharding), whole.layers[0].attention.wq.weight)


def test_the_same_seed_gives_the_same_model_on_any_number_of_ranks():
    def weights(axis):
        torch.manual_seed(3)
        return parallelize(Decoder(), mesh_of(axis), STRINGS).layers[0].feed_forward.w1.weight.detach()

    torch.manual_seed(3)
    expected = Decoder().layers[0].feed_forward.w1.weight.detach()
    for size in (1, 2, 4):
        assert torch.equal(torch.cat(run(size, weights)), expected)


class Scaled(nn.Embedding):
    def forward(self, ids):
        return super().forward(ids) * 2


def scaled_embedding():
    model = Decoder()
    model.embedding = Scaled(V, 8)
    return model


def hooked():
    model = Decoder()
    model.head.register_forward_hook(lambda *_: None)
    return model


@pytest.mark.parametrize(
    ("plan", "model", "said"),
    [
        (None, Decoder, "Decoder has no tp_plan of its own: give a plan"),
        ({"layer.*.attention.wq": "colwise"}, Decoder, "matches no module and no parameter; closest is 'layers.0"),
        ({"layers.wq": "colwise"}, Decoder, r"the plan's 'layers\.wq' matches no module"),
        (STRINGS | {"he*": "colwise"}, Decoder, r"the plan's 'head' and 'he\*' both match head: leave one out"),
        ({"norm": "colwise"}, Decoder, "norm is a RMSNorm; split by columns are nn.Linear"),
        ({"layers": "rowwise"}, Decoder, "layers is a ModuleList; split by rows are nn.Linear"),
        ({"head": "embedding_rowwise"}, Decoder, "head is a Linear; needed is an nn.Embedding"),
        ({"embedding": "embedding_rowwise"}, scaled_embedding, "embedding is a Scaled; needed is an nn.Embedding"),
        ({"layers.*.feed_forward": "sequence_parallel"}, Decoder, "without parameters of its own"),
        ({"head": "grouped_gemm"}, Decoder, "needed is a module whose own parameters have a dim of num_experts"),
        ({"head": 3}, Decoder, "head: the plan has a int for it"),
        (
            {"head.weight": "sequence_parallel"},
            Decoder,
            "head.weight is a parameter; a GradientAllReduce is for modules",
        ),
        ({"head": "colwise"}, hooked, "head has hooks"),
        (
            {"head": "colwise"},
            lambda: Decoder(tied=True),
            "is the same tensor as embedding.weight, which the plan leaves",
        ),
        (
            {"head": "colwise", "embedding": "embedding_colwise"},
            lambda: Decoder(tied=True),
            "and the plan splits them in two ways",
        ),
        (STRINGS, lambda: Decoder(3, 3), "layers.0.attention.wq: 3 heads on 2 ranks"),
        ({"head": Column(parts=2)}, Decoder, "head: 11 features are not 2 parts"),
        ({"": "colwise"}, lambda: nn.Linear(2, 2), "the model itself"),
        ({"loss": VocabularyLoss(vocabulary=1)}, Decoder, "a vocabulary of 1 on 2 ranks"),
        ({"head": VocabularyLoss(vocabulary=V)}, Decoder, "needed is an nn.CrossEntropyLoss"),
        ({"layers.*.attention": LocalAttributes(names=("heads",))}, Decoder, r"attention\.heads is None"),
        ({"layers.*.attention.q_norm": "mla_kv_a_proj"}, Decoder, "no qk_rope_head_dim"),
        ({"head": ColwiseParallel(input_layouts=(Partial(),))}, Decoder, "needed is one Replicate"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused_whole(plan, model, said):
    with alone(2) as axis:
        model = model()
        before = dict(model.named_modules()), dict(model.named_parameters())
        with pytest.raises(CannotRunError, match=said):
            parallelize(model, mesh_of(axis), plan)
        assert (dict(model.named_modules()), dict(model.named_parameters())) == before
        assert not any(sharding_of(parameter) for parameter in model.parameters())


def test_replicated_kv_heads_need_an_attention_that_counts_the_queries_of_each():
    with alone(4) as axis:
        model = Decoder()
        del model.layers[0].attention.num_key_value_groups
        with pytest.raises(CannotRunError, match="num_key_value_groups counts the queries of each; it is None"):
            parallelize(model, mesh_of(axis), STRINGS)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Column(input_shared=True, output=Replicate()), r"Replicate\(\), Replicate\(\)\): it only multiplies"),
        (lambda: Column(input_shared=True, input=Shard(1)), r"Shard\(dim=1\), .*: it only multiplies; leave both out"),
        (lambda: Column(multiple=8, output=Replicate()), "a head whose output stays split"),
        (lambda: Column(multiple=8, parts=2), "leave output and parts"),
    ],
)
def test_columns_that_make_no_sense_are_refused(make, said):
    with pytest.raises(CannotRunError, match=said):
        make()
