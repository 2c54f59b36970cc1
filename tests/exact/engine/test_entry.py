"""What comes in from outside, in what state it goes out again, and what is refused at the door."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from shardproof.exact import ExactArithmetic, ExactArithmeticError, NotANumberError
from shardproof.exact.algebra import oracles

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def bits(x):
    return x.detach().clone().reshape(-1).view(torch.uint8)


def tied_model(dtype):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 5, bias=False))
    model = model.to(dtype)
    model[3].weight = model[0].weight  # tied
    model.register_buffer("scale", torch.randn(3, 4, generator=torch.Generator().manual_seed(1)).to(dtype))
    model.register_buffer("part", model.scale[1])  # a view
    return model


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_put_back_bit_for_bit(dtype, fails):
    model, ids = tied_model(dtype), torch.tensor([1, 2, 4, 1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, eps=1e-3)  # float16 has no 1e-8
    F.cross_entropy(model(ids).float(), ids).backward()  # gradients and state from outside
    optimizer.step()
    kept = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    kept |= {f"{name}.grad": p.grad for name, p in model.named_parameters()}
    kept |= {f"state {i} {key}": t for i, s in enumerate(optimizer.state.values()) for key, t in s.items()}
    before = {name: bits(t) for name, t in kept.items()}

    def step():
        with ExactArithmetic(seed=1) as exact:
            seen = exact.digits(model[0].weight * 1)
            loss = F.cross_entropy(model(ids), ids) + (model.part * model.scale).sum()
            loss.backward()
            model.part.mul_(3)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            assert not torch.equal(seen, exact.digits(model[0].weight * 1))
            if fails:
                raise KeyError("on the way")

    if fails:
        with pytest.raises(KeyError):
            step()
    else:
        step()
    assert model[3].weight is model[0].weight
    for name, p in model.named_parameters():
        assert p.grad is kept[f"{name}.grad"]
    for name, t in kept.items():
        assert torch.equal(bits(t), before[name]), name
        assert t.dtype in (dtype, torch.float32, torch.int64)
    assert model.part.untyped_storage().data_ptr() == model.scale.untyped_storage().data_ptr()


def test_memory_shared_outside_is_shared_inside():
    whole = torch.randn(4, 3)
    row, flat = whole[1], whole.view(-1)
    with ExactArithmetic(seed=1) as exact:
        before = exact.digits(whole)
        row.mul_(2)
        assert torch.equal(exact.digits(flat).view(4, 3), exact.digits(whole))
        assert (exact.digits(whole) != before).any(1).tolist() == [False, True, False, False]


def test_a_gradient_from_outside_is_added_to():
    p = nn.Parameter(torch.randn(3))
    (p * 2).sum().backward()
    grad = p.grad
    with ExactArithmetic(seed=1) as exact:
        (p * 3).sum().backward()
        assert exact.digits(p.grad).tolist() == [5, 5, 5]
    assert p.grad is grad
    assert p.grad.tolist() == [2, 2, 2]


def test_a_parameter_whose_memory_came_in_as_a_constant_is_refused():
    p = nn.Parameter(torch.randn(3))
    alias = p.detach()
    with ExactArithmetic(seed=1) as exact:  # the parameter first: both are its residues
        assert torch.equal(exact.digits(p * 1), exact.digits(alias * 1))
    with pytest.raises(ExactArithmeticError, match=r"shares memory.*clone"), ExactArithmetic(seed=1):
        alias * p


def test_the_result_of_autograd_outside_is_refused():
    y = nn.Parameter(torch.randn(3)) * 2
    with pytest.raises(ExactArithmeticError, match=r"autograd outside.*test_entry\.py"), ExactArithmetic(seed=1):
        y + 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("grad", [False, True])
def test_no_number_no_entry(value, dtype, grad):
    x = torch.tensor([1.0, value, 2.0], dtype=dtype, requires_grad=grad)
    with pytest.raises(NotANumberError, match=r"test_entry\.py"), ExactArithmetic(seed=1):
        x * 2


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), float("-inf"), 1e300, 5e-324])
def test_memory_that_was_written_inside_is_read_and_what_was_not_is_refused(garbage):
    """A buffer from outside that nobody has written yet may hold anything: a reducer's bucket, a flat gradient."""
    x = torch.tensor([3.0, 4.0], dtype=torch.float64)
    buffer = torch.full((4,), garbage, dtype=torch.float64)
    with ExactArithmetic(seed=1) as exact:
        buffer[:2].copy_(x)
        torch.mul(x, 2, out=buffer[2:])
        assert exact.digits(buffer + 1).tolist() == [4, 5, 7, 9]
    part = torch.full((4,), garbage, dtype=torch.float64)
    with ExactArithmetic(seed=1) as exact:
        part[1:3].copy_(x)
        assert exact.digits(part[1:3] * 2).tolist() == [6, 8]
        if garbage not in (float("-inf"), 1e300, 5e-324):  # numbers and masks may be the user's own
            with pytest.raises(ExactArithmeticError, match=r"never written|no residues"):
                exact.digits(part * 2)
    assert part[0] == garbage or part[0].isnan()  # put back as it was


NANS = {
    "a number": lambda x: x + float("nan"),
    "an infinite number": lambda x: x * float("inf"),
    "a full tensor": lambda x: x + torch.full((3,), float("nan")),
    "an infinite tensor": lambda x: x + torch.full((3,), float("inf")),
    "torch.tensor": lambda x: x + torch.tensor([1.0, float("nan"), 1.0]),
    "a single one": lambda x: x + torch.tensor(float("nan")),
    "infinity less infinity": lambda x: x + (torch.full((3,), float("inf")) - torch.full((3,), float("inf"))),
    "memory never written": lambda x: x + torch.empty(3),
    "part of it": lambda x: x + F.pad(torch.empty(2), (0, 1)),
    "memory grown": lambda x: (x * 2).detach().resize_(9) + 1,
    "in place": lambda x: x.detach().fill_(float("nan")) * 2,
}


@pytest.mark.parametrize("way", NANS)
def test_nan_and_infinity_are_errors_at_once(way):
    x = torch.randn(3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ExactArithmeticError, match=r"test_entry\.py"), ExactArithmetic(seed=1) as exact:
        exact.digits(F.gelu(NANS[way](x)))


@pytest.mark.parametrize("by_index", [True, False])
@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), -float("inf"), 1e7, -1e7, torch.finfo(torch.float64).min]
)
def test_what_is_no_residue_does_not_pass_an_oracle(monkeypatch, by_index, value):
    """On x86 a look-up finds no such place; where the processor would find one, the elements are looked at."""
    if not by_index:
        monkeypatch.setattr(oracles, "_NAN_MISSES", False)
    tables = ExactArithmetic(seed=1).arithmetic.oracles
    bad = torch.tensor([1.0, value, 2.0], dtype=torch.float64)
    with pytest.raises(FloatingPointError, match="no residue"):
        tables.look_up(tables.permutation("gelu none"), bad)
    assert tables.look_up(tables.permutation("gelu none"), bad[::2]).shape == (2,)


def quantized():
    return torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8)


STRANGE = {
    "float8": (lambda: torch.ones(3).to(torch.float8_e4m3fn), "float8_e4m3fn"),
    "sparse": (lambda: torch.ones(3).to_sparse(), "sparse_coo"),
    "quantized": (quantized, "quantized"),
}


@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.filterwarnings("ignore:.*[qQ]uantiz")
def test_what_residues_cannot_stand_for_is_refused(kind):
    make, named = STRANGE[kind]
    x = make()
    with pytest.raises(ExactArithmeticError, match=rf"{named}.*test_entry\.py"), ExactArithmetic(seed=1):
        x + x


def test_complex_tensors_come_in_and_are_put_back():
    constant, parameter = torch.complex(torch.ones(3), torch.arange(3.0) / 3), nn.Parameter(torch.randn(3) + 0j)
    before = [x.detach().clone() for x in (constant, parameter)]
    with ExactArithmetic(seed=1) as exact:
        found = exact.digits(constant * 3)
        assert found.tolist() == [[3, 0], [3, 1], [3, 2]]
        assert exact.digits(parameter.imag).tolist() == [0, 0, 0]
        drawn = exact.digits(parameter)
        assert torch.equal(exact.digits(torch.view_as_real(parameter)[..., 0]), drawn[..., 0])
        assert drawn[..., 0].abs().min() > 100
        parameter.data.mul_(2)
    assert all(torch.equal(a, b) for a, b in zip(before, (constant, parameter), strict=True))
    assert parameter.dtype == constant.dtype == torch.complex64


def test_sparse_gradients_are_refused():
    embedding = nn.Embedding(4, 3, sparse=True)
    with pytest.raises(ExactArithmeticError, match="sparse"), ExactArithmetic(seed=1):
        embedding(torch.tensor([1, 2])).sum().backward()


# Where it runs --------------------------------------------------------------------------------------------------------


def test_integers_written_inside_are_put_back():
    counter, made = torch.tensor([3, 4]), []
    with ExactArithmetic(seed=1):
        counter += 1
        counter[0] = 9
        made.append(counter * 2)
        made[0] += 1
        assert counter.tolist() == [9, 5]
    assert counter.tolist() == [3, 4]
    assert made[0].tolist() == [19, 11]


def test_numbers_that_are_said_to_be_variables_are_drawn_wherever_they_come_in():
    frozen = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scalar = torch.tensor(0.3, dtype=torch.float64)
    padded = torch.cat([frozen[:2], torch.tensor([[0.0, 0.7, -torch.inf]], dtype=torch.float64)])
    with ExactArithmetic(seed=1) as exact:
        lifted = exact.digits(frozen.clone())
        constant = exact.bound(frozen.clone() * 1).per_trial
    with ExactArithmetic(seed=1, variables=[frozen, scalar]) as exact:
        trained = exact.digits(nn.Parameter(frozen.clone()) * 1)
        drawn, shard, one = frozen.clone() * 1, padded.clone(), scalar * 1
        exact.digits(shard, symbols=True)
        assert torch.equal(exact.digits(drawn), trained)
        assert torch.equal(exact.digits(shard, symbols=True)[:2], trained[:2])
        assert exact.digits(shard, symbols=True)[2, 0] == 0
        assert exact.bound(drawn).per_trial > constant == 0
        assert exact.bound(one).per_trial > 0
    assert not torch.equal(trained, lifted)
    assert torch.equal(frozen, frozen.clone())
