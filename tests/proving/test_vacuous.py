"""Probes that could not have told are called so, by part; what is zero as a function is not."""

import pytest
import torch
import torch.nn.functional as F
from tests.proving import steps
from torch import nn

from shardproof.errors import CannotRunError
from shardproof.proving.cause import Cause, CauseKind, Part
from shardproof.proving.findings import Verdict
from shardproof.proving.prove import prove
from shardproof.proving.records import Phase

UNSHARDED = ["VACUOUS sharding *"]


def unsharded(model, _mesh):
    return model


def vacuous(proof):
    vacuous = [f for f in proof.findings if f.verdict is Verdict.VACUOUS and f.key.phase is not Phase.SHARDING]
    return {(f.key.phase, f.key.name): f.cause for f in vacuous}


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, x):
        return self.used(x) + 0 * self.unused(x)


def test_a_gradient_that_is_zero_everywhere_is_vacuous():
    proof = prove(steps.make_step(model=Unused), parallelize=unsharded, devices=2, trials=1, allow=UNSHARDED)
    assert set(vacuous(proof)) == {(Phase.GRADIENT, "unused.weight"), (Phase.GRADIENT, "unused.bias")}
    assert not proof.ok
    assert proof.count.failed == 2


def test_the_cotangent_of_a_sum_is_too_weak_a_probe():
    step = steps.make_step(loss=lambda outputs, _targets: outputs.sum())
    proof = prove(step, parallelize=steps.parallelize, devices=2, trials=1)
    assert (Phase.GRADIENT, "down.bias") in vacuous(proof)
    assert vacuous(proof)[Phase.GRADIENT, "down.bias"] == Cause(kind=CauseKind.CONSTANT)
    assert (Phase.GRADIENT, "up.weight") not in vacuous(proof)


class KeyBias(nn.Module):
    """Attention over five places: a bias of all keys alike shifts every score of a query by the same number."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(6, 4) for _ in range(3))

    def forward(self, x):
        return torch.softmax(self.q(x) @ self.k(x).mT, -1) @ self.v(x)


def test_a_gradient_that_cancels_is_no_weak_probe():
    proof = prove(steps.make_step(model=KeyBias), parallelize=unsharded, devices=2, trials=1, allow=UNSHARDED)
    assert proof.ok
    (bias,) = (f for f in proof.findings if (f.key.phase, f.key.name) == (Phase.GRADIENT, "k.bias"))
    assert bias.verdict is Verdict.PROVED
    assert bias.probed == 0


class Rows(nn.Module):
    """A table of eight rows, cut over two ranks by hand."""

    def __init__(self, rows=8):
        super().__init__()
        self.table = nn.Parameter(torch.randn(rows, 4))
        self.start = 0

    def forward(self, ids):
        inside = (ids >= self.start) & (ids < self.start + len(self.table))
        rows = self.table[(ids - self.start) * inside] * inside[:, None]
        return rows if len(self.table) == 8 else steps.AllReduceForward.apply(rows)


def by_rows(model, mesh):
    model.start = 4 * mesh.get_local_rank()
    model.table = nn.Parameter(model.table.detach()[model.start : model.start + 4].clone())
    return model


def sum_of_squares(outputs, _targets):
    return outputs.square().sum()


@pytest.mark.parametrize(("ids", "blind"), [([0, 1, 3], 1), ([4, 7], 0), ([1, 6], None)])
def test_a_shard_that_no_token_hits_is_vacuous(ids, blind):
    step = steps.make_step(model=Rows, batch=(torch.tensor(ids), torch.zeros(1)), loss=sum_of_squares)
    proof = prove(step, parallelize=by_rows, devices=2, trials=1)
    assert {f.verdict for f in proof.findings} <= {Verdict.PROVED, Verdict.VACUOUS}
    assert proof.ok == (blind is None)
    if blind is not None:
        cause = Cause(kind=CauseKind.NEVER_REACHED, parts=(Part(rank=blind),))
        assert vacuous(proof)[Phase.GRADIENT, "table"] == cause
    (table,) = (f for f in proof.findings if f.key.phase is Phase.GRADIENT)
    assert (table.probed, table.elements) == (4 * len(ids), 32)


class Experts(nn.Module):
    """Three experts in one tensor; the batch says who goes where."""

    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.randn(3, 6, 4))

    def forward(self, x):
        inputs, routes = x
        return torch.einsum("bi,bio->bo", inputs, self.weights[routes])


@pytest.mark.parametrize(("routes", "unhit"), [([0, 1, 2, 0, 1], None), ([0, 1, 1, 0, 1], 2)])
def test_an_expert_that_nothing_is_routed_to_is_vacuous(routes, unhit):
    x, y = steps.make_batch()
    step = steps.make_step(model=Experts, batch=((x, torch.tensor(routes)), y), loss=F.mse_loss)
    proof = prove(step, parallelize=unsharded, devices=2, trials=1, allow=UNSHARDED)
    assert proof.ok == (unhit is None)
    if unhit is not None:
        parts = tuple(Part(rank=rank, index=unhit) for rank in range(2))
        assert vacuous(proof)[Phase.GRADIENT, "weights"] == Cause(kind=CauseKind.NEVER_REACHED, parts=parts)


def test_what_is_allowed_is_counted_and_does_not_fail():
    step = steps.make_step(model=Unused)
    patterns = ("VACUOUS gradient unused.*", "WRONG *")
    proof = prove(step, parallelize=unsharded, devices=2, trials=1, allow=[*UNSHARDED, *patterns])
    assert proof.ok
    assert (proof.count.failed, proof.count.allowed) == (0, 3)
    assert proof.count.passed + proof.count.allowed == len(proof.findings)
    assert proof.unused == ("WRONG *",)


def test_a_pattern_allows_nothing_that_it_does_not_name():
    step = steps.make_step(model=Unused)
    proof = prove(step, parallelize=unsharded, devices=2, trials=1, allow=[*UNSHARDED, "VACUOUS gradient unused.bias"])
    assert not proof.ok
    assert (proof.count.failed, proof.count.allowed) == (1, 2)


def test_nothing_is_ok_if_everything_is_allowed():
    proof = prove(steps.make_step(), parallelize=steps.scaled_gradient, devices=2, trials=1, allow=["*"])
    wrong = [f for f in proof.findings if not f.verdict.ok]
    assert wrong
    assert all(f.allowed for f in wrong)


@pytest.mark.parametrize("wanted", [0.0, 1.0, -1e-9])
def test_a_bound_that_is_no_probability_is_refused(wanted):
    with pytest.raises(CannotRunError, match="give a probability like 1e-12"):
        prove(steps.make_step(), parallelize=steps.parallelize, devices=2, max_false_accept=wanted)


class Residual(Unused):
    def forward(self, x):
        h = 2 * self.used(x)
        return h + self.unused_norm(h) + 0 * self.unused(x)

    def __init__(self):
        super().__init__()
        self.unused_norm = nn.LayerNorm(4)


def test_the_gradient_of_an_input_is_of_that_use_alone():
    """The residual stream is used beside the norm too; a sharding moves what the norm gets, and so copies it."""

    def copying(model, _mesh):
        model.unused_norm.register_forward_pre_hook(lambda _module, inputs: (inputs[0].clone(),))
        return model

    proof = prove(steps.make_step(model=Residual), parallelize=copying, devices=2, trials=1)
    assert {f.verdict for f in proof.findings} == {Verdict.PROVED, Verdict.VACUOUS}


class Routes(nn.Module):
    """Each token through the expert of its largest score, times `scales` of that expert."""

    def __init__(self, experts):
        super().__init__()
        self.router, self.weights = nn.Linear(6, experts), nn.Parameter(torch.randn(experts, 6, 4))
        self.scales = torch.ones(experts)

    def forward(self, x):
        scores, chosen = self.router(x).softmax(-1).max(-1)
        return torch.einsum("bi,bio->bo", x, self.weights[chosen] * self.scales[chosen, None, None]) * scores[:, None]


def prove_routes(experts, tokens, parallelize=unsharded, **settings):
    generator = torch.Generator().manual_seed(0)
    batch = (torch.randn(tokens, 6, generator=generator), torch.randn(tokens, 4, generator=generator))
    step = steps.make_step(model=lambda: Routes(experts), batch=batch, loss=F.mse_loss)
    return prove(step, parallelize=parallelize, devices=2, allow=UNSHARDED, **settings)


def test_trials_are_taken_until_every_expert_has_had_a_token():
    proof = prove_routes(experts=5, tokens=4, trials=1)  # one routing leaves out an expert at least
    assert proof.ok
    assert proof.trials == len(proof.seeds) == len(set(proof.primes)) > 1
    assert prove_routes(experts=2, tokens=24, trials=1).trials == 1


def test_an_expert_that_no_trial_reaches_is_vacuous():
    proof = prove_routes(experts=24, tokens=1, trials=1)
    found = vacuous(proof)[Phase.GRADIENT, "weights"]
    assert found.kind is CauseKind.NEVER_REACHED
    assert len({part.index for part in found.parts}) >= 24 - proof.trials > 0


@pytest.mark.parametrize("expert", range(5))
def test_whichever_expert_the_ranks_scale_is_found(expert):
    def scale_one(model, _mesh):
        model.scales = torch.ones(5).index_fill(0, torch.tensor(expert), 1.5)
        return model

    proof = prove_routes(experts=5, tokens=4, trials=1, parallelize=scale_one)
    (found,) = (one for one in proof.findings if str(one.key) == "step 1, gradient weights")
    assert found.verdict in (Verdict.WRONG, Verdict.UNDECIDED)  # the digits differ; float64 may route otherwise
    assert found.cause.kind is not CauseKind.ONLY_IN_NATIVE_DTYPE
