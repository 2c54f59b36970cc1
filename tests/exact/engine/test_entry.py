"""What comes in from outside, in what state it goes out again, and what is refused at the door."""

import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from shardproof.exact import ExactArithmetic, ExactArithmeticError, NotANumberError, RandomDrawError
from shardproof.exact.algebra import oracles

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@pytest.fixture(autouse=True)
def fixed_seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


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


NANS = {
    "a number": lambda x: x + float("nan"),
    "an infinite number": lambda x: x * float("inf"),
    "a full tensor": lambda x: x + torch.full((3,), float("nan")),
    "an infinite tensor": lambda x: x + torch.full((3,), float("inf")),
    "torch.tensor": lambda x: x + torch.tensor([1.0, float("nan"), 1.0]),
    "a single one": lambda x: x + torch.tensor(float("nan")),
    "zero by zero": lambda x: x + torch.zeros(3) / torch.zeros(3),
    "one by zero": lambda x: x + torch.ones(3) / torch.zeros(3),
    "a constant's logarithm": lambda x: x + (torch.zeros(3) - 1).log(),
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
    "complex": (lambda: torch.ones(3, dtype=torch.complex64), "complex64"),
    "quantized": (quantized, "quantized"),
}


@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.filterwarnings("ignore:.*[qQ]uantiz")
def test_what_residues_cannot_stand_for_is_refused(kind):
    make, named = STRANGE[kind]
    x = make()
    with pytest.raises(ExactArithmeticError, match=rf"{named}.*test_entry\.py"), ExactArithmetic(seed=1):
        x + x


def test_sparse_gradients_are_refused():
    embedding = nn.Embedding(4, 3, sparse=True)
    with pytest.raises(ExactArithmeticError, match="sparse"), ExactArithmetic(seed=1):
        embedding(torch.tensor([1, 2])).sum().backward()


# Random draws ---------------------------------------------------------------------------------------------------------

DRAWS = {
    "rand": lambda x: torch.rand(3),
    "randn_like": torch.randn_like,
    "dropout": lambda x: F.dropout(x, 0.5),
    "uniform_": lambda x: torch.zeros(3).uniform_(),
    "normal_": lambda x: x.detach().clone().normal_(),
    "bernoulli": lambda x: torch.bernoulli(torch.full((3,), 0.5)),
    "randint as floats": lambda x: torch.randint(0, 3, (3,), dtype=torch.float32),
    "a layer made inside": lambda x: nn.Linear(3, 3)(x),
}


@pytest.mark.parametrize("draw", DRAWS)
def test_draws_are_refused_or_drawn_as_outside(draw):
    x = nn.Parameter(torch.randn(3, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(RandomDrawError, match=r"test_entry\.py.*random='draw'"), ExactArithmetic(seed=1):
        DRAWS[draw](x)
    found = []
    for seed in (0, 0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            with ExactArithmetic(seed=1, random="draw", check=True) as exact:
                found.append(exact.digits(DRAWS[draw](x) * x))
    assert torch.equal(found[0], found[1])
    assert found[0].shape == found[2].shape


def test_a_draw_by_residues_is_refused():
    x = nn.Parameter(torch.randn(3))
    with pytest.raises(ExactArithmeticError, match="bernoulli"), ExactArithmetic(seed=1, random="draw"):
        torch.bernoulli(x * 2)


def test_integers_may_be_drawn():
    """The order of data is nobody's residue."""
    data = torch.utils.data.TensorDataset(torch.randn(8, 4), torch.arange(8))
    with ExactArithmetic(seed=1) as exact:
        loader = torch.utils.data.DataLoader(data, batch_size=4, shuffle=True)
        shapes = [tuple(exact.digits(x * 2).shape) for x, _ in loader]
        assert sorted(torch.randperm(5).tolist()) == [0, 1, 2, 3, 4]
    assert shapes == [(4, 4), (4, 4)]


# Where it runs --------------------------------------------------------------------------------------------------------


def run_in_thread(work):
    """What a thread returns or raises."""
    found = []

    def run():
        try:
            found.append(work())
        except Exception as error:  # noqa: BLE001
            found.append(error)

    thread = threading.Thread(target=run, name="helper")
    thread.start()
    thread.join()
    return found[0]


def test_a_thread_may_run_but_not_touch_residues():
    x = torch.randn(3)
    profile = threading.getprofile()
    with ExactArithmetic(seed=1):
        y = x * 3
        assert torch.equal(run_in_thread(lambda: torch.arange(3) + 1), torch.arange(3) + 1)
        error = run_in_thread(lambda: y.relu())
        assert isinstance(error, ExactArithmeticError)
        assert "helper" in str(error)
        assert "test_entry.py" in str(error)
    assert threading.getprofile() is profile
    assert torch.equal(run_in_thread(lambda: x.relu()), x.relu())


def test_a_thread_may_join_and_then_compute_exactly():
    x = nn.Parameter(torch.randn(3))
    with ExactArithmetic(seed=1, check=True) as exact:

        def join():
            with exact.joined():
                return exact.digits(F.gelu(x * 3).sum())

        assert torch.equal(run_in_thread(join), exact.digits(F.gelu(x * 3).sum()))
        with pytest.raises(ExactArithmeticError, match="inside exact arithmetic"), exact.joined():
            pass
    assert x.dtype == torch.float32


def test_another_thread_cannot_enter_at_the_same_time():
    def enter():
        with ExactArithmetic(seed=2):
            pass

    with ExactArithmetic(seed=1):
        error = run_in_thread(enter)
    assert isinstance(error, ExactArithmeticError)
    assert "one runs at a time" in str(error)
    assert run_in_thread(enter) is None


def test_nested_use_is_refused_and_the_outer_one_goes_on():
    x = torch.randn(3)
    with ExactArithmetic(seed=1) as exact:
        before = exact.digits(x * 3)
        with pytest.raises(ExactArithmeticError, match=r"inside exact arithmetic.*test_entry\.py"), ExactArithmetic():
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
    with pytest.raises(ExactArithmeticError, match=r"torch\.func.*test_entry\.py.*clone"), ExactArithmetic(seed=1):
        torch.func.grad(lambda z: z.sum())(x)


def test_meta_and_fake_tensors_pass_untouched():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with ExactArithmetic(seed=1) as exact:
        meta = torch.empty(3, 4, device="meta", dtype=torch.bfloat16)
        product = meta @ meta.T
        assert (product.shape, product.dtype, product.is_meta) == ((3, 3), torch.bfloat16, True)
        assert nn.Linear(2, 3, device="meta").weight.dtype == torch.float32
        with FakeTensorMode():
            fake = torch.empty(3, 4) @ torch.empty(4, 5)
        assert fake.shape == (3, 5)
        real = torch.empty_like(meta, device="cpu")
        with pytest.raises(ExactArithmeticError, match="never written"):
            exact.digits(F.gelu(real * 2))


def test_the_profiler_may_watch():
    x = torch.randn(3, 4)
    with (
        ExactArithmetic(seed=1) as exact,
        torch.profiler.profile() as profile,
        torch.profiler.record_function("mine"),
    ):
        digits = exact.digits(x @ x.T)
    assert digits.shape == (3, 3)
    assert any(event.name == "mine" for event in profile.events())


@pytest.mark.filterwarnings("ignore:.*torch.jit")  # PyTorch's own, as the compiler is imported
def test_compiled_code_runs_as_it_is_written():
    x = torch.randn(3, 4)

    def function(x):
        return F.gelu(x) * 2 + x.relu()

    compiled = torch.compile(function)
    with ExactArithmetic(seed=1, check=True) as exact:
        assert torch.equal(exact.digits(compiled(x)), exact.digits(function(x)))
        assert torch.equal(exact.digits(torch.compile(function)(x)), exact.digits(function(x)))


def test_constants_mean_the_same_however_they_are_written():
    x = nn.Parameter(torch.randn(4))
    outside = torch.tensor(0.1)
    with ExactArithmetic(seed=1) as exact:
        wanted = exact.digits(x / 10)
        forms = (0.1, outside, torch.tensor(0.1), torch.tensor([0.1]), torch.tensor(0.1, dtype=torch.float64))
        forms += (torch.full((), 0.1), torch.ones(1) / 10, torch.tensor(1) / 10, torch.arange(1, 2) / 10)
        assert all(torch.equal(exact.digits(x * form), wanted) for form in forms)
        assert not torch.equal(exact.digits(x * 0.1000001), wanted)


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
