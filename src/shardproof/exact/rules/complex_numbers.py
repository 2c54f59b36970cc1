"""Complex numbers: each op written out in the real and imaginary parts, which are residues like any others.

A complex tensor is a view of float64 memory that holds its parts side by side, as in PyTorch, so that what is known of
that memory is known of both. The functions below run as ordinary PyTorch code in exact arithmetic: their real ops have
the rules, degrees and void elements that these have elsewhere. An op on complex tensors that is not here is refused,
unless it only moves elements or consists of others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

import torch
from torch import Tensor

from shardproof.exact.rules.registry import find_op

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch._ops import OpOverload

# {op: its result from the op's arguments}
COMPLEX: Final[dict[OpOverload, Callable[..., Any]]] = {}

# Ops that show the memory of their operand as other numbers.
VIEWS: Final = frozenset(find_op(name) for name in ("view_as_real.default", "view_as_complex.default", "_conj.default"))

# Complex results of real operands.
MADE_OF_REALS: Final = frozenset(
    find_op(name) for name in ("view_as_complex.default", "complex.default", "polar.default")
)

Function = TypeVar("Function", bound="Callable[..., Any]")


def parts(x: Any) -> tuple[Any, Any]:
    """The real and the imaginary part; None where the number is known to be real."""
    if isinstance(x, complex):
        return x.real, x.imag
    if not isinstance(x, Tensor) or not x.is_complex():
        return x, None
    pair = torch.view_as_real(x.resolve_conj())
    return pair[..., 0], pair[..., 1]


def joined(real: Tensor, imaginary: Tensor) -> Tensor:
    """The complex tensor of two parts, in memory of its own."""
    return torch.view_as_complex(torch.stack(torch.broadcast_tensors(real, imaginary), -1))


def _rule(*names: str) -> Callable[[Function], Function]:
    def register(function: Function) -> Function:
        for name in names:
            COMPLEX[find_op(name)] = function
        return function

    return register


def _or_zero(part: Any, like: Any) -> Any:
    if part is not None:
        return part
    return torch.zeros_like(like) if isinstance(like, Tensor) else 0.0


def _together(real: Any, imaginary: Any) -> Tensor:
    """The complex tensor of two parts, one of which may be a number."""
    like = real if isinstance(real, Tensor) else imaginary
    assert isinstance(like, Tensor)
    return joined(*(x if isinstance(x, Tensor) else torch.full_like(like, x) for x in (real, imaginary)))


def _bilinear(multiply: Callable[[Any, Any], Any], x: Any, y: Any) -> Tensor:
    """(a + bi)(c + di) = (ac - bd) + (ad + bc)i for any product that is linear in both factors."""
    (a, b), (c, d) = parts(x), parts(y)
    if d is None:
        return _together(multiply(a, c), multiply(_or_zero(b, a), c))
    if b is None:
        return _together(multiply(a, c), multiply(a, d))
    return _together(multiply(a, c) - multiply(b, d), multiply(a, d) + multiply(b, c))


# Made of real numbers -------------------------------------------------------------------------------------------------


@_rule("complex.default")
def of_parts(real: Tensor, imaginary: Tensor) -> Tensor:
    """Real + imaginary * i."""
    return joined(real, imaginary)


@_rule("polar.default")
def polar(size: Tensor, angle: Tensor) -> Tensor:
    """Size * (cos(angle) + i sin(angle))."""
    return joined(size * angle.cos(), size * angle.sin())


# Sums and products ----------------------------------------------------------------------------------------------------


@_rule("mul.Tensor", "mul.Scalar")
def product(x: Any, y: Any) -> Tensor:
    """X * y."""
    return _bilinear(lambda a, b: a * b, x, y)


@_rule("add.Tensor", "add.Scalar")
def total(x: Any, y: Any, alpha: complex = 1) -> Tensor:
    """X + alpha * y."""
    (a, b), (c, d) = parts(x), parts(y if alpha == 1 else product(y, alpha) if isinstance(y, Tensor) else y * alpha)
    real = a + c
    return _together(real, (0.0 if b is None else b) + (0.0 if d is None else d) + torch.zeros_like(real))


@_rule("sub.Tensor", "sub.Scalar")
def difference(x: Any, y: Any, alpha: complex = 1) -> Tensor:
    """X - alpha * y."""
    return total(x, y, -alpha)


@_rule("rsub.Scalar", "rsub.Tensor")
def difference_from(x: Any, y: Any, alpha: complex = 1) -> Tensor:
    """Y - alpha * x."""
    return total(y, x, -alpha)


@_rule("neg.default")
def negative(x: Tensor) -> Tensor:
    """-x."""
    return product(x, -1)


@_rule("_conj_physical.default", "conj_physical.default")
def conjugate(x: Tensor) -> Tensor:
    """The conjugate, in memory of its own."""
    real, imaginary = parts(x)
    return _together(real, -imaginary if imaginary is not None else 0.0)


@_rule("reciprocal.default")
def reciprocal(x: Tensor) -> Tensor:
    """The conjugate over the squared size."""
    real, imaginary = parts(x)
    assert imaginary is not None
    size = real * real + imaginary * imaginary
    return _together(real / size, -imaginary / size)


@_rule("div.Tensor", "div.Scalar")
def quotient(x: Any, y: Any) -> Tensor:
    """X / y."""
    if isinstance(y, Tensor) and y.is_complex():
        return product(x, reciprocal(y))
    if isinstance(y, complex) and y.imag:
        return product(x, torch.view_as_complex(torch.tensor([y.real, y.imag]) / (y.real**2 + y.imag**2)).conj())
    divisor = y.real if isinstance(y, complex) else y
    real, imaginary = parts(x)
    return _together(real / divisor, _or_zero(imaginary, real) / divisor)


@_rule("square.default")
def square(x: Tensor) -> Tensor:
    """X * x."""
    return product(x, x)


@_rule("pow.Tensor_Scalar")
def power(x: Tensor, exponent: Any) -> Tensor:
    """A whole power, by multiplication."""
    if isinstance(exponent, complex) or exponent != int(exponent):
        raise NotImplementedError("a power of complex numbers whose exponent is no whole number")
    if exponent < 0:
        return power(reciprocal(x), -exponent)
    found = torch.ones_like(x)
    for _ in range(int(exponent)):
        found = product(found, x)
    return found


@_rule("mm.default", "bmm.default", "mv.default", "dot.default")
def matrix_product(x: Tensor, y: Tensor) -> Tensor:
    """A matrix product of complex tensors: four of real ones."""
    return _bilinear(lambda a, b: a @ b, x, y)


@_rule("vdot.default")
def dot_with_conjugate(x: Tensor, y: Tensor) -> Tensor:
    """The sum of conj(x) * y."""
    return matrix_product(x.conj(), y)


@_rule("addmm.default", "baddbmm.default")
def product_and_sum(c: Tensor, x: Tensor, y: Tensor, *, beta: complex = 1, alpha: complex = 1) -> Tensor:
    """Beta * c + alpha * (x @ y)."""
    found = matrix_product(x, y)
    found = found if alpha == 1 else product(found, alpha)
    return found if beta == 0 else total(found, c, alpha=beta)


# Part by part ---------------------------------------------------------------------------------------------------------


def _by_parts(name: str) -> None:
    """An op that is linear in its complex operands: on the real parts, and on the imaginary ones."""
    op = find_op(name)

    def rule(*args: Any, **kwargs: Any) -> Tensor:
        def part(x: Any, which: int) -> Any:
            if isinstance(x, list):
                return [part(item, which) for item in x]
            if not isinstance(x, Tensor) or not x.is_complex():
                return x
            return parts(x)[which]

        complex_ones = [isinstance(x, Tensor) and x.is_complex() for x in (*args, *kwargs.values())]
        floating = [isinstance(x, Tensor) and x.is_floating_point() for x in (*args, *kwargs.values())]
        if any(floating) or not any(complex_ones) or kwargs.get("dtype") is not None:
            raise NotImplementedError("real and complex operands together")
        return joined(*(op(*(part(x, which) for x in args), **kwargs) for which in (0, 1)))

    COMPLEX[op] = rule


for _name in (
    *("sum.default", "sum.dim_IntList", "mean.default", "mean.dim", "cumsum.default", "index_add.default"),
    *("index_put.default", "scatter_add.default", "embedding_dense_backward.default"),
):
    _by_parts(_name)


# Real numbers of complex ones -----------------------------------------------------------------------------------------


def _squared_size(x: Tensor) -> Tensor:
    real, imaginary = parts(x)
    size: Tensor = real * real if imaginary is None else real * real + imaginary * imaginary
    return size


@_rule("abs.default")
def size_of(x: Tensor) -> Tensor:
    """sqrt(real**2 + imaginary**2)."""
    return _squared_size(x).sqrt()


@_rule("angle.default")
def angle_of(x: Tensor) -> Tensor:
    """atan2(imaginary, real)."""
    real, imaginary = parts(x)
    return torch.atan2(imaginary, real)


@_rule("sgn.default")
def direction(x: Tensor) -> Tensor:
    """X / |x|, 0 for 0: the derivative of the size."""
    size = size_of(x)
    return quotient(x, torch.where(size == 0, 1.0, size))


@_rule("linalg_vector_norm.default")
def vector_norm(
    x: Tensor, order: float = 2, dims: list[int] | None = None, keepdim: bool = False, *, dtype: Any = None
) -> Tensor:
    """The norm of the sizes; of order 2 the root of the sum of all squares."""
    if order != 2 or dtype is not None:
        found: Tensor = torch.linalg.vector_norm(size_of(x), order, dims, keepdim)
        return found
    return _squared_size(x).sum(dims, keepdim).sqrt()


@_rule("exp.default")
def exponential(x: Tensor) -> Tensor:
    """exp(real) * (cos(imaginary) + i sin(imaginary))."""
    real, imaginary = parts(x)
    return polar(real.exp(), imaginary)


@_rule("eq.Tensor", "eq.Scalar")
def equal(x: Any, y: Any) -> Tensor:
    """Both parts are equal."""
    (a, b), (c, d) = parts(x), parts(y)
    same: Tensor = (a == c) & (_or_zero(b, a) == _or_zero(d, c))
    return same


@_rule("ne.Tensor", "ne.Scalar")
def not_equal(x: Any, y: Any) -> Tensor:
    """A part differs."""
    return ~equal(x, y)
