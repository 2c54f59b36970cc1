"""A whole training step in exact arithmetic: the thinnest path from end to end."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from tests.exact.engine.probes import drawn
from torch import nn

from shardproof.exact import ExactArithmetic, ExactArithmeticError, LeavingFieldError


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.up = nn.Linear(16, 32)
        self.norm = nn.LayerNorm(32)
        self.down = nn.Linear(32, 50)

    def forward(self, ids):
        return self.down(self.norm(F.gelu(self.up(self.embedding(ids)))))


def train(seed, split_batch):
    """Two AdamW steps with clipping; the batch whole, or in two halves whose gradients accumulate."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    net = Net()
    ids = torch.randint(0, 50, (4, 7), generator=generator)
    labels = torch.randint(0, 50, (4, 7), generator=generator)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    with ExactArithmetic(seed=seed, check=True) as exact:
        for _ in range(2):
            optimizer.zero_grad()
            parts = zip(ids.chunk(2), labels.chunk(2), strict=True) if split_batch else [(ids, labels)]
            for x, y in parts:
                loss = F.cross_entropy(net(x).flatten(0, 1), y.flatten())
                (loss / (2 if split_batch else 1)).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
        return {name: exact.digits(p) for name, p in net.named_parameters()}


def test_two_ways_of_computing_one_step_give_the_same_digits():
    whole, halves = train(1, split_batch=False), train(1, split_batch=True)
    assert all(torch.equal(whole[name], halves[name]) for name in whole)


def test_another_seed_gives_other_digits():
    assert not torch.equal(train(1, split_batch=False)["up.weight"], train(2, split_batch=False)["up.weight"])


def test_a_wrong_learning_rate_is_seen():
    net = nn.Linear(3, 2)
    x = torch.randn(5, 3)
    digits = []
    for lr in (0.1, 0.1000001):
        with ExactArithmetic(seed=1) as exact:
            optimizer = torch.optim.SGD(net.parameters(), lr=lr)
            net(x).square().mean().backward()
            optimizer.step()
            digits.append(exact.digits(net.weight))
    assert not torch.equal(*digits)


def test_parameters_are_put_back_bit_for_bit_even_after_an_exception():
    net = Net().to(torch.bfloat16)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    with pytest.raises(LeavingFieldError, match=r"item|_local_scalar_dense"), ExactArithmetic(seed=1):
        net(torch.tensor([[1, 2]])).sum().item()
    for name, p in net.named_parameters():
        assert p.dtype == torch.bfloat16
        assert torch.equal(p, before[name])


def test_nested_use_is_refused_and_the_outer_one_goes_on():
    x = torch.randn(3)
    with ExactArithmetic(seed=1) as exact:
        before = exact.digits(x * 3)
        with pytest.raises(ExactArithmeticError, match=r"inside exact arithmetic.*test_mode\.py"), ExactArithmetic():
            pass
        assert torch.equal(exact.digits(x * 3), before)


def test_one_object_may_be_entered_again():
    x = nn.Parameter(torch.randn(3))
    exact = ExactArithmetic(seed=1)
    found = []
    for _ in range(2):
        with exact:
            found.append(exact.digits(F.gelu(x) * 3))
    assert torch.equal(*found)


def test_an_exception_in_the_backward_leaves_no_mode_behind():
    x = nn.Parameter(torch.randn(3))

    def fail(_grad):
        raise KeyError("in a hook")

    def step():
        with ExactArithmetic(seed=1):
            y = x * 3
            y.register_hook(fail)
            (y * y).sum().backward()

    with pytest.raises(KeyError):
        step()
    assert torch.equal((x * 2).detach(), x.detach() + x.detach())
    assert x.dtype == torch.float32
    assert x.grad is None
    with ExactArithmetic(seed=1) as exact:
        assert exact.digits(x * 1).shape == (3,)


def test_inference_mode_and_no_grad():
    x = torch.randn(3)
    with ExactArithmetic(seed=1, check=True) as exact:
        wanted = exact.digits(F.gelu(x) * 3)
        with torch.inference_mode():
            assert torch.equal(exact.digits(F.gelu(x) * 3), wanted)
        with torch.no_grad():
            assert torch.equal(exact.digits(F.gelu(x) * 3), wanted)
    with torch.inference_mode():
        y = x.clone()
        with ExactArithmetic(seed=1) as exact:
            assert torch.equal(exact.digits(F.gelu(y) * 3), wanted)
        assert y.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_nothing(dtype):
    x, layer = torch.randn(2, 3), nn.Linear(3, 3)
    with ExactArithmetic(seed=1, check=True) as exact:
        wanted = exact.digits(F.softmax(layer(x) * 2, -1))
        with torch.autocast("cpu", dtype=dtype):
            found = F.softmax(layer(x) * 2, -1)
        assert torch.equal(exact.digits(found), wanted)


def test_vmap_and_grad_work_on_residues_and_refuse_newcomers():
    x = torch.randn(3, 4)
    with ExactArithmetic(seed=1, check=True) as exact:
        y = x.clone()
        rows = torch.vmap(lambda row: F.gelu(row) * row.sum())(y)
        assert torch.equal(exact.digits(rows), exact.digits(F.gelu(y) * y.sum(1, keepdim=True)))
        slope = torch.func.grad(lambda z: (z * z * z).sum())(y)
        assert torch.equal(exact.digits(slope), exact.digits(3 * y * y))
    with pytest.raises(ExactArithmeticError, match=r"torch\.func.*test_mode\.py.*clone"), ExactArithmetic(seed=1):
        torch.func.grad(lambda z: z.sum())(x)


@pytest.mark.filterwarnings("ignore:.*torch.jit")  # PyTorch's own, as the compiler is imported
def test_compiled_code_runs_as_it_is_written():
    x = torch.randn(3, 4)

    def function(x):
        return F.gelu(x) * 2 + x.relu()

    compiled = torch.compile(function)
    with ExactArithmetic(seed=1, check=True) as exact:
        assert torch.equal(exact.digits(compiled(x)), exact.digits(function(x)))
        assert torch.equal(exact.digits(torch.compile(function)(x)), exact.digits(function(x)))


def test_a_deep_copy_is_the_same_residues():
    x, model = drawn(3, 4), nn.Linear(4, 2)
    with ExactArithmetic(seed=1) as exact:
        y = (x * 3).detach()
        z = copy.deepcopy(y)
        assert torch.equal(exact.digits(z * x), exact.digits(y * x))
        assert exact.tags.get(z).degree == exact.tags.get(y).degree
        z.add_(1)
        assert not torch.equal(exact.digits(z), exact.digits(y))
        digits = exact.digits(z)
        again = copy.deepcopy(model)
        assert torch.equal(exact.digits(again(x)), exact.digits(model(x)))
    assert torch.equal(z.long(), digits)  # what was made inside stays as it is


def test_a_pickle_holds_the_representatives():
    x = drawn(3, 4)
    with ExactArithmetic(seed=1) as exact:
        y = (x * 3).detach()
        again = pickle.loads(pickle.dumps(y))
        assert torch.equal(exact.digits(again * x), exact.digits(y * x))
        assert not torch.equal(exact.digits(again), exact.digits(x))
