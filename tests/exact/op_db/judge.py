"""One op of the database in exact arithmetic: exact, refused, or wrong, and how that was found out."""

from dataclasses import dataclass
from fractions import Fraction

import torch
from tests.exact.op_db.categories import CASTS, ORACLES, SELECTIONS, SMALL_NUMBERS, UNWRITTEN, VALUE_CHECKS
from tests.exact.op_db.rational import stands_for
from tests.exact.op_db.run import Outcome, call, shapes_of
from tests.exact.op_db.samples import Case, cases_of, to_sixteenths, to_small
from torch import Tensor
from torch.utils._pytree import tree_map

from shardproof.exact import ExactArithmetic, ExactArithmeticError
from shardproof.exact.algebra.field import Field

PRIMES = (2097143, 2096807)
_oracles = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Of one op.

    Attributes:
        outcome: 'exact', 'refused' or 'wrong'; None where the database has no sample for it.
        how: of an exact one 'rational', 'order' or 'oracle'; of the others the message.
        backward: whether gradients were judged too.
    """

    name: str
    outcome: str | None
    how: str
    backward: bool = False


def exact_mode(prime):
    """The mode with the tables of an earlier one of the same prime: most of the time goes into making them."""
    exact = ExactArithmetic(seed=prime, prime=prime, check=True)
    if prime not in _oracles:
        _oracles[prime] = exact.arithmetic.oracles
    exact.arithmetic.oracles = _oracles[prime]
    return exact


class VoidTrialError(Exception):
    """A sample with a division by zero, of which exact arithmetic says that it says nothing."""


class WrongError(Exception):
    """An op gave something that it should not have given."""


def judge(op, *, most=3):
    """Run an op's samples at two primes and judge the results and gradients."""
    name = f"{op.name}.{op.variant_test_name}" if op.variant_test_name else op.name
    cases = cases_of(op, most=most, convert=to_small if name in SMALL_NUMBERS else to_sixteenths)
    how, backward, judged, void = "rational", False, 0, ""
    for case in cases:
        try:
            shapes = shapes_of(op, case) if op.supports_autograd else None
            native = call(op, case, shapes=shapes)
        except Exception:  # noqa: BLE001  the sample is an error in PyTorch itself, for these numbers
            continue
        if not _finite(native):
            continue
        try:
            found = _judge_case(op, name, case, native, shapes)
        except VoidTrialError as error:
            void = str(error)
            continue
        except ExactArithmeticError as error:
            return Verdict(name=name, outcome="refused", how=f"{type(error).__name__}: {error}")
        except WrongError as error:
            return Verdict(name=name, outcome="wrong", how=str(error))
        except Exception as error:  # noqa: BLE001  whatever it is, the verdict says so
            if name in VALUE_CHECKS:
                return Verdict(name=name, outcome="refused", how=f"PyTorch's own check of values: {error}")
            return Verdict(name=name, outcome="wrong", how=f"raised {type(error).__name__}: {error}")
        judged += 1
        how = found if found != "rational" else how
        backward = backward or bool(native.grads)
    if not judged and void:
        return Verdict(name=name, outcome="refused", how=void)
    if not judged:
        return Verdict(name=name, outcome=None, how="no sample with finite numbers")
    return Verdict(name=name, outcome="exact", how=how, backward=backward)


def _finite(outcome):
    tensors = [x for x in outcome.results if isinstance(x, Tensor)]
    tensors += [g for grads in outcome.grads or () for g in grads if g is not None]
    return all(bool(x.isfinite().all()) for x in tensors if x.layout == torch.strided)


def _judge_case(op, name, case, native, shapes):
    found = {}
    for prime in PRIMES:
        exact = exact_mode(prime)
        found[prime] = call(op, case, shapes=shapes, exact=exact)
        if exact.zero_divisions:
            raise VoidTrialError(f"a division by zero voids the trial, {exact.zero_divisions[0]}")
    prime = PRIMES[0]
    _same_kind(name, native.results, found[prime].results)
    if name in UNWRITTEN:
        return "rational"
    if _ignores_layout(op, case, native):
        strided = call(op, case, strided=True, exact=exact_mode(prime))
        _same(found[prime].results, strided.results, "the same numbers in another layout")
    _linear(found[prime], prime)
    rational = all(_rational(native, found[p], p) for p in PRIMES)
    if rational:
        return "rational"
    if name in SELECTIONS:
        _by_ranks(op, case, found[prime], shapes, prime)
        return "order"
    if name in ORACLES:
        return "oracle"
    raise WrongError(_first_difference(native, found[prime], prime))


def _ignores_layout(op, case, native):
    try:
        strided = call(op, case, strided=True)
    except Exception:  # noqa: BLE001  a view that the layout does not allow
        return False
    pairs = zip(native.results, strided.results, strict=True)
    return all(
        torch.allclose(a, b, equal_nan=True) for a, b in pairs if isinstance(a, Tensor) and a.is_floating_point()
    )


def _by_ranks(op, case, found, shapes, prime):
    """PyTorch's own op, on each operand's place in the keyed order, chooses what exact arithmetic chose."""
    order = (_oracles[prime].permutation("order").long() + prime // 2).tolist()

    def rank(residue):
        return float(order[int(residue) + prime // 2] - prime // 2)

    def to_ranks(x):
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return x
        return x.clone().apply_(lambda number: rank(Field(prime).representative(Fraction(number))))

    ranked = call(op, Case(args=tree_map(to_ranks, case.args), kwargs=case.kwargs, process=case.process), shapes=shapes)
    for i, (a, b) in enumerate(zip(ranked.results, found.results, strict=True)):
        if isinstance(a, Tensor) and not torch.equal(a, b.clone().apply_(rank) if b.is_floating_point() else b):
            raise WrongError(f"result {i} is not what the keyed order chooses")
    chosen = Outcome(results=[], grads=ranked.grads)
    difference = _difference(chosen, Outcome(results=[], grads=found.grads), prime)
    if difference:
        raise WrongError(difference)


def _same_kind(name, native, found):
    if len(native) != len(found):
        raise WrongError(f"{len(found)} results for {len(native)}")
    for i, (a, b) in enumerate(zip(native, found, strict=True)):
        if isinstance(a, Tensor) and (a.shape != b.shape or (a.dtype != b.dtype and name not in CASTS)):
            raise WrongError(f"result {i} is {b.dtype} {tuple(b.shape)}, PyTorch's {a.dtype} {tuple(a.shape)}")


def _same(one, other, what):
    for i, (a, b) in enumerate(zip(one, other, strict=True)):
        if isinstance(a, Tensor) and not torch.equal(a, b):
            raise WrongError(f"result {i} has other digits for {what}")


def _linear(found, prime):
    """The backward of everything is linear in the cotangent."""
    for a, b, both in zip(*found.grads, strict=True) if found.grads else ():
        if a is not None and bool(((a + b - both) % prime != 0).any()):
            raise WrongError("the gradient is not linear in the cotangent")


def _pairs(native, found):
    for i, (a, b) in enumerate(zip(native.results, found.results, strict=True)):
        yield f"result {i}", a, b
    if native.grads:
        for i, (a, b) in enumerate(zip(native.grads[0], found.grads[0], strict=True)):
            if (a is None) != (b is None):
                raise WrongError(f"gradient {i} is there in one of the two only")
            yield f"gradient {i}", a, b


def _rational(native, found, prime):
    return _difference(native, found, prime) is None


def _difference(native, found, prime):
    for what, a, b in _pairs(native, found):
        if a is None:
            continue
        if not isinstance(a, Tensor) or not a.is_floating_point():
            if (not torch.equal(a, b)) if isinstance(a, Tensor) else a != b:
                return f"{what} is {b}, PyTorch's {a}"
            continue
        pairs = set(zip(a.reshape(-1).tolist(), b.reshape(-1).tolist(), strict=True))
        scale = max((abs(number) for number, _ in pairs), default=1.0)
        for number, residue in pairs:
            if not stands_for(number, residue, prime, min(scale, 1e6)):
                return f"{what} has {residue} for {number}"
    return None


def _first_difference(native, found, prime):
    return str(_difference(native, found, prime) or "at the second prime only")
