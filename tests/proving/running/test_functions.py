"""Functions are recorded as modules are; in exact arithmetic fused ones are taken apart, and give the same digits."""

import pytest
import torch
import torch.nn.functional as F

from shardproof import ExactArithmetic
from shardproof.proving.records import Key, Phase
from shardproof.proving.running.capture import Recorder
from shardproof.proving.running.functions import NARROW, FunctionsRecorded

SEED = 3


def drawn(*shape, seed=0):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.requires_grad_()


def run(function, *tensors, recorded=True, cut=None, exactly=True):
    """The result's and the gradients' digits, and the records; `cut` is called as `Segments.cut` is."""

    def pass_on(tensor, phase, name, *, as_shift=False):
        key = recorder.add(phase, name, tensor.detach(), as_shift=as_shift)
        return tensor if cut is None else cut(exact, key, tensor)

    tensors = [x.detach().clone().requires_grad_(x.requires_grad) for x in tensors]
    if not exactly:
        recorder = Recorder()
        with FunctionsRecorded(recorder, pass_on):
            function(*tensors).sum().backward()
        return None, recorder.records
    with ExactArithmetic(seed=SEED, random="oracle") as exact:
        recorder = Recorder(exact=exact)
        if recorded:
            with FunctionsRecorded(recorder, pass_on):
                result = function(*tensors)
        else:
            result = function(*tensors)
        result.backward(torch.full_like(result, 0.5))
        gradients = [exact.digits(x.grad) for x in tensors if x.grad is not None]
        return [exact.digits(result), *gradients], recorder.records


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def keys(records):
    return [(key.phase, key.name, key.call) for key in records.tensors]


SOFTMAX = [(Phase.INPUT, "softmax", 0), (Phase.OUTPUT, "softmax", 0)]
CLASSES = [(Phase.INPUT, "maximum", 0), (Phase.OUTPUT, "exponentials", 0)]

# Attention ------------------------------------------------------------------------------------------------------------

QUERY, KEY_, VALUE = drawn(2, 4, 5, 8), drawn(2, 4, 5, 8, seed=1), drawn(2, 4, 5, 8, seed=2)
HIDDEN = torch.rand(5, 5, generator=torch.Generator().manual_seed(4)) < 0.3
HIDDEN.fill_diagonal_(False)
ATTENTIONS = {
    "plain": {},
    "causal": {"is_causal": True},
    "scaled": {"scale": 0.25},
    "masked": {"attn_mask": ~HIDDEN},
    "masked by numbers": {"attn_mask": torch.zeros(5, 5).masked_fill(HIDDEN, float("-inf"))},
    "dropped": {"dropout_p": 0.25},
}


@pytest.mark.parametrize("options", ATTENTIONS.values(), ids=ATTENTIONS.keys())
def test_fused_attention_is_taken_apart_at_its_softmax_with_the_same_digits(options):
    def attention(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, **options)

    found, records = run(attention, QUERY, KEY_, VALUE)
    assert same(found, run(attention, QUERY, KEY_, VALUE, recorded=False)[0])
    assert keys(records) == SOFTMAX
    other = run(lambda q, k, v: attention(q, k * 2, v), QUERY, KEY_, VALUE)[0]
    assert not torch.equal(found[0], other[0])


def test_grouped_queries_are_taken_apart_too():
    def attention(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)

    few = (QUERY, drawn(2, 2, 5, 8, seed=1), drawn(2, 2, 5, 8, seed=2))
    found, records = run(attention, *few)
    assert same(found, run(attention, *few, recorded=False)[0])
    assert keys(records) == SOFTMAX


def test_ordinary_runs_call_the_op_itself():
    _, records = run(F.scaled_dot_product_attention, QUERY, KEY_, VALUE, exactly=False)
    assert keys(records) == []
    logits = drawn(6, 4)
    assert keys(run(lambda x: F.cross_entropy(x, LABELS), logits, exactly=False)[1]) == []
    assert keys(run(lambda x: F.softmax(x, -1), logits, exactly=False)[1]) == SOFTMAX


# Cross-entropy --------------------------------------------------------------------------------------------------------

LABELS = torch.tensor([0, 3, 2, 1, 1, 0])


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("shape", [(6, 4), (2, 4, 3), (1, 4, 2, 3)])
def test_a_cross_entropy_is_taken_apart_with_the_same_digits(shape, ignored, reduction):
    labels = LABELS.masked_fill(LABELS == 1, -100) if ignored else LABELS
    labels = labels.view(shape[0], *shape[2:])

    def loss(x):
        return F.cross_entropy(x, labels, reduction=reduction)

    found, records = run(loss, drawn(*shape))
    assert same(found, run(loss, drawn(*shape), recorded=False)[0])
    assert keys(records) == CLASSES
    assert not same(found, run(lambda x: F.cross_entropy(x, labels * 0, reduction=reduction), drawn(*shape))[0])


def test_a_masked_class_is_no_class():
    hidden = torch.tensor([[False, False, False, False, True]])

    def loss(x):
        return F.cross_entropy(x.masked_fill(hidden, torch.finfo(torch.float64).min), LABELS)

    found, records = run(loss, drawn(6, 5))
    assert same(found, run(lambda x: F.cross_entropy(x[:, :4], LABELS), drawn(6, 5), recorded=False)[0])
    assert keys(records) == CLASSES


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: F.cross_entropy(x, LABELS, label_smoothing=0.1),
        lambda x: F.cross_entropy(x, LABELS, weight=torch.tensor([1.0, 2.0, 3.0, 4.0])),
        lambda x: F.cross_entropy(x, torch.full((6, 4), 0.25)),
    ],
    ids=["smoothed", "weighted", "probabilities"],
)
def test_other_cross_entropies_run_as_they_are(loss):
    found, records = run(loss, drawn(6, 4))
    assert same(found, run(loss, drawn(6, 4), recorded=False)[0])
    assert keys(records) == []


# Softmax --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [-1, 1, 0])
def test_a_wide_softmax_is_taken_apart_with_the_same_digits(dim):
    shape = [2, 3, 2]
    shape[dim] = NARROW + 1
    weights = drawn(*shape, seed=5)

    def weighted(x, w):
        return F.softmax(x, dim) * w

    found, records = run(weighted, drawn(*shape), weights)
    assert same(found, run(weighted, drawn(*shape), weights, recorded=False)[0])
    assert keys(records) == [SOFTMAX[0], *CLASSES, SOFTMAX[1]]
    shape[dim] = NARROW
    narrow = run(lambda x: F.softmax(x, dim), drawn(*shape))[1]
    assert keys(narrow) == SOFTMAX


def test_a_wide_softmax_under_a_mask_is_taken_apart_unless_a_row_is_hidden():
    hidden = torch.zeros(3, NARROW + 1, dtype=torch.bool)
    hidden[:, 7] = True
    for row_hidden in (False, True):
        hidden[1] |= row_hidden
        mask = torch.zeros(hidden.shape, dtype=torch.float64).masked_fill(hidden, torch.finfo(torch.float64).min)
        found, records = run(lambda x, mask=mask: F.softmax(x + mask, -1), drawn(*hidden.shape))
        right = run(lambda x, mask=mask: F.softmax(x + mask, -1), drawn(*hidden.shape), recorded=False)[0]
        assert same(found, right)
        assert (CLASSES[0] in keys(records)) is not row_hidden


# Code by hand ---------------------------------------------------------------------------------------------------------


class ByHand(torch.autograd.Function):
    """The sum over a row of exp(x - max): in place, as code for a split vocabulary does."""

    @staticmethod
    def forward(ctx, x, keep):
        maximum = x.amax(-1, keepdim=True)
        shifted = x - maximum
        keep["again"] = x - maximum  # the same maximum, subtracted once more
        exponentials = shifted.exp_()
        ctx.save_for_backward(exponentials)
        return exponentials.sum(-1)

    @staticmethod
    def backward(ctx, gradient):
        (exponentials,) = ctx.saved_tensors
        return gradient.unsqueeze(-1) * exponentials, None


def test_a_maximum_that_is_subtracted_and_its_exponentials_are_recorded():
    x = drawn(3, 5)
    _, records = run(lambda x: ByHand.apply(x, {}), x)
    assert keys(records) == CLASSES
    maximum, exponentials = records.tensors.values()
    assert maximum.values.shape == (3,)
    assert exponentials.values.shape == (3, 5)
    assert maximum.no_bound is None  # it only shifts
    written_out = run(lambda x: (x - x.detach().amax(-1, keepdim=True)).exp().sum(-1), x)[1]
    assert keys(written_out) == CLASSES
    assert all(torch.equal(records.tensors[key].values, written_out.tensors[key].values) for key in records.tensors)


def test_where_a_maximum_is_cut_all_that_is_computed_from_it_goes_on_with_the_same_number():
    def cut(exact, key, tensor):
        return exact.cut(tensor, str(key))

    kept = {}
    whole, _ = run(lambda x: ByHand.apply(x, kept), drawn(3, 5))
    found, records = run(lambda x: ByHand.apply(x, kept), drawn(3, 5), cut=cut)
    written_out, others = run(lambda x: (x - x.detach().amax(-1, keepdim=True)).exp().sum(-1), drawn(3, 5), cut=cut)
    assert same(found, written_out)
    assert not torch.equal(found[0], whole[0])
    assert keys(records) == keys(others) == CLASSES
    x = drawn(3, 5)
    with ExactArithmetic(seed=SEED) as exact:  # the bound of what follows a cut does not ask what was chosen
        maximum = x.detach().amax(-1, keepdim=True)
        assert exact.bound(x - maximum).per_trial is None
        assert exact.bound(x - exact.cut(maximum, "maximum")).per_trial < 1e-5


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x - x.detach()[:, :1],
        lambda x: x - x.amax(-1, keepdim=True),  # a gradient goes through the maximum
        lambda x: (x - x.detach().mean(-1, keepdim=True)).exp(),
        lambda x: x.exp(),
        lambda x: x + x.detach().amax(-1, keepdim=True),
    ],
    ids=["one element", "with a gradient", "the mean", "no maximum", "a sum"],
)
def test_nothing_else_is_recorded(function):
    assert keys(run(function, drawn(3, 5))[1]) == []


def test_a_maximum_is_named_after_the_module_that_runs():
    recorder = Recorder()
    recorder.running.append("head.loss")

    def pass_on(tensor, phase, name, *, as_shift=False):
        recorder.add(phase, name, tensor.detach(), as_shift=as_shift)
        return tensor

    logits = drawn(6, 4)
    with ExactArithmetic(seed=SEED) as recorder.exact, FunctionsRecorded(recorder, pass_on):
        F.cross_entropy(logits, LABELS).backward()
    assert Key(0, Phase.INPUT, "head.loss/maximum") in recorder.records.tensors


# Tables of constants ------------------------------------------------------------------------------------------------


def tables_of(function, *, step=0, module="rope"):
    """The tables that are recorded of a function of a drawn tensor."""
    recorder = Recorder(step=step)
    if module:
        recorder.running.append(module)
    x = drawn(4, 3)
    with ExactArithmetic(seed=SEED) as recorder.exact, FunctionsRecorded(recorder, lambda tensor, *_, **__: tensor):
        function(x)
        expected = [recorder.exact.digits(table) for table in (angles(), angles() + 1)]
    return recorder.records.tables, expected


def angles():
    return torch.arange(4.0, dtype=torch.float64)[:, None] / 7


def test_tables_of_constants_are_recorded_by_module_in_order():
    tables, (first, second) = tables_of(lambda x: x * angles() + (angles() + 1) + x * angles())
    assert list(tables) == ["rope"]
    assert len(tables["rope"]) == 3
    assert torch.equal(tables["rope"][0], first)
    assert torch.equal(tables["rope"][2], first)
    assert torch.equal(tables["rope"][1], second)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * 2.5,
        lambda x: x * torch.tensor(2.5, dtype=torch.float64),  # one number
        lambda x: x * x,
        lambda _x: angles() * angles(),  # of constants alone
        lambda x: x @ angles()[:3],
    ],
    ids=["number", "one number", "residues", "constants alone", "matmul"],
)
def test_nothing_else_is_a_table(function):
    assert tables_of(function)[0] == {}


def test_tables_are_of_the_first_step_and_of_a_module_and_not_told_twice_in_a_row():
    assert tables_of(lambda x: x * angles(), step=1)[0] == {}
    assert tables_of(lambda x: x * angles(), module="")[0] == {}
    assert len(tables_of(lambda x: x * angles() * angles())[0]["rope"]) == 1
    assert len(tables_of(lambda x: [x * (angles() + number) for number in range(40)])[0]["rope"]) == 16
