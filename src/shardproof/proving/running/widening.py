"""Ordinary runs in another dtype than the user's: what the user's code makes in its own dtype is in that one too.

The model and the batch are converted before a run in float64 or float32. The code makes tensors of its own:
`torch.zeros(n, n)` in the default dtype, `x.float()`, `torch.zeros(n, dtype=torch.bfloat16)` in a model of bfloat16, a
table that is a plain attribute. Left as they are they would meet the run's dtype in a matrix product, which PyTorch
refuses, or round what is to be measured without rounding. A narrower dtype that the model is not built in (that of a
collective, say) is meant, and stays; it is converted where it meets the run's.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor
from torch._ops import OpOverload, OpOverloadPacket
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from shardproof.exact.engine.reals import float64_by_default

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

# Without a dtype they give the default one, or that of the numbers that they are given.
_FACTORIES: Final = frozenset(
    {torch.arange, torch.empty, torch.empty_strided, torch.eye, torch.full, torch.linspace, torch.logspace}
    | {torch.normal, torch.ones, torch.rand, torch.randn, torch.scalar_tensor, torch.tensor, torch.zeros}
    | {torch.bartlett_window, torch.blackman_window, torch.hamming_window, torch.hann_window, torch.kaiser_window}
)
_CASTS: Final = {
    Tensor.float: torch.float32,
    Tensor.double: torch.float64,
    Tensor.half: torch.float16,
    Tensor.bfloat16: torch.bfloat16,
}
_NARROWER: Final = {
    torch.float64: frozenset({torch.float32, torch.bfloat16, torch.float16}),
    torch.float32: frozenset({torch.bfloat16, torch.float16}),
}
# A dtype is part of what they ask, or of how bits are read.
_LEFT_ALONE: Final = frozenset(
    {Tensor.view, torch.can_cast, torch.frombuffer, torch.is_floating_point, torch.promote_types, torch.result_type}
    | {torch.get_default_dtype, torch.set_default_dtype}
)


@contextmanager
def own_dtypes_widened(dtype: torch.dtype | None, own: Iterable[torch.dtype]) -> Iterator[None]:
    """Inside, what would be made in a dtype of the user's is made in that of the run; what meets it is converted.

    Args:
        dtype: of the run, float64 or float32; None: the user's own, and nothing is changed.
        own: the dtypes of the user's parameters and buffers.
    """
    if dtype is None:
        yield
        return
    with _Widened(dtype, frozenset(own)):
        yield


class _Widened(TorchFunctionMode):
    def __init__(self, dtype: torch.dtype, own: frozenset[torch.dtype]) -> None:
        super().__init__()
        self._dtype, self._narrower = dtype, _NARROWER[dtype]
        self._named = self._narrower & (own | {torch.float32})  # float32 is the default dtype

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _CASTS and func not in _FACTORIES and not self._touches(args, kwargs):
            return func(*args, **kwargs)  # as most calls are
        if func in _LEFT_ALONE or isinstance(func, OpOverload | OpOverloadPacket):
            return func(*args, **kwargs)  # ops come of the engine of autograd too, which has the dtypes of gradients
        if func in _CASTS:
            return args[0].to(self._wider(_CASTS[func]), **kwargs)
        if func in (Tensor.to, Tensor.type_as) and len(args) > 1 and isinstance(args[1], Tensor):
            return args[0].to(self._wider(args[1].dtype), *args[2:], **kwargs)  # the other's dtype, not its numbers
        args, kwargs = tree_map_only(torch.dtype, self._wider, (args, kwargs))
        if func in _FACTORIES and kwargs.get("dtype") is None and self._dtype == torch.float64:
            with float64_by_default():
                return func(*args, **kwargs)
        if not _writes(func, kwargs):
            args, kwargs = self._of_one_dtype(args, kwargs)
        return func(*args, **kwargs)

    def _touches(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether an argument is a dtype, a tensor that is to be converted, or holds others that may be.

        Reading a tensor's dtype would be a call for the modes around this one.
        """
        with torch._C.DisableTorchFunction():  # noqa: SLF001
            for x in (*args, *kwargs.values()):
                if isinstance(x, Tensor):
                    if x.dtype in self._narrower:
                        return True
                elif isinstance(x, torch.dtype) or (isinstance(x, tuple | list | dict) and not _are_sizes(x)):
                    return True
        return False

    def _wider(self, dtype: torch.dtype) -> torch.dtype:
        return self._dtype if dtype in self._named else dtype

    def _of_one_dtype(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The arguments with floating tensors in the run's dtype, if some tensor with dims among them is."""
        dtypes: set[torch.dtype] = set()
        tree_map_only(Tensor, lambda x: dtypes.add(x.dtype) if x.ndim else None, (args, kwargs))
        if self._dtype not in dtypes or not dtypes & self._narrower:
            return args, kwargs
        return tree_map_only(Tensor, lambda x: x.to(self._dtype) if x.dtype in self._narrower else x, (args, kwargs))


def _are_sizes(x: Any) -> bool:
    return isinstance(x, torch.Size) or (isinstance(x, tuple | list) and all(isinstance(one, int) for one in x))


def _writes(func: Callable[..., Any], kwargs: dict[str, Any]) -> bool:
    """Whether a function writes into an operand, which then keeps its dtype; setters and getters of attributes too."""
    name = getattr(func, "__name__", "")
    in_place = name.endswith("_") and not name.endswith("__")
    return in_place or name in ("__set__", "__get__", "__setitem__") or name.startswith("__i") or "out" in kwargs
