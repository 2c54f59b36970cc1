"""The mode above autograd: what Python code hands to PyTorch's functions, before PyTorch sees it."""

from __future__ import annotations

from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from shardproof.exact.engine.entry import inner_tensors
from shardproof.exact.engine.escapes import DISPLAYS, READS_MEMORY
from shardproof.exact.engine.followed_numbers import reads_or_builds
from shardproof.exact.engine.rewrites import Rewrites, may_be_rewritten
from shardproof.exact.engine.tensor_trees import PLAIN, tensors_in
from shardproof.exact.errors import ExactArithmeticError
from shardproof.source_lines import user_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shardproof.exact.engine.followed_numbers import NumberReads


@contextmanager
def ordinary_pytorch() -> Iterator[None]:
    """Both modes off: every op and function is PyTorch's own."""
    with _disable_current_modes(), torch._C.DisableTorchFunction():
        yield


@lru_cache(maxsize=4096)
def _is_left_alone(func: Callable[..., Any]) -> bool:
    """Whether a function is called as it is once its tensors are admitted, as most are."""
    return not (reads_or_builds(func) or func in READS_MEMORY or func is Tensor.__deepcopy__ or may_be_rewritten(func))


class Functions(TorchFunctionMode):
    """Above autograd: tensors from outside are admitted before PyTorch sees them; reads of memory are refused."""

    def __init__(self, reads: NumberReads) -> None:
        super().__init__()
        self._reads, self._dispatcher, self._run = reads, reads.dispatcher, reads.dispatcher.run
        self._rewrites = Rewrites(oracles=self._run.random == "oracle")

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        reads = self._reads if self._run.leaving == "follow" else None
        if reads is not None and reads.count:
            args, kwargs = reads.replace(args), reads.replace(kwargs)
        if func in DISPLAYS:
            with ordinary_pytorch():
                return func(*args, **kwargs)
        for tensor in tensors_in((args, kwargs) if kwargs else args):
            if tensor.dtype.is_floating_point or tensor.dtype.is_complex:
                self._admit(tensor)
        if _is_left_alone(func):
            return func(*args, **kwargs)
        if reads is not None and (found := reads.read(func, args)) is not NotImplemented:
            return found
        if func in READS_MEMORY:
            for tensor in inner_tensors(args[0]):
                self._dispatcher.refuse_reading(tensor, getattr(func, "__name__", str(func)))
            with ordinary_pytorch():
                return func(*args, **kwargs)
        if func is Tensor.__deepcopy__:
            return self._copy(*args)
        if reads is None:
            return self._rewrites.call(func, args, kwargs, inside=self)
        if (found := reads.build(func, args)) is not NotImplemented:
            return found
        result = self._rewrites.call(func, args, kwargs, inside=self)
        reads.remember(func, args, result)
        return result

    def _admit(self, tensor: Tensor) -> None:
        if type(tensor) not in PLAIN:
            if isinstance(tensor, FakeTensor):
                return
        elif is_functorch_wrapped_tensor(tensor):
            self._require_known(tensor)
            return
        if not self._dispatcher.is_known(tensor):
            with ordinary_pytorch():
                self._dispatcher.entry.admit(tensor)

    def _require_known(self, wrapped: Tensor) -> None:
        """Under vmap or grad the tensor's dtype is settled already: residues must have come in before."""
        inner = wrapped
        while is_functorch_wrapped_tensor(inner):
            inner = get_unwrapped(inner)
        if not self._dispatcher.is_known(inner):
            msg = (
                f"a tensor of shape {tuple(inner.shape)} from outside enters a torch.func transform, at {user_line()}; "
                "let exact arithmetic see it before: x = x.clone() in front of the transform"
            )
            raise ExactArithmeticError(msg)

    def _copy(self, source: Tensor, memo: dict[Any, Any]) -> Tensor:
        """`copy.deepcopy`, which copies a storage's bytes past every op."""
        with ordinary_pytorch():
            copy: Tensor = Tensor.__deepcopy__(source, memo)  # type: ignore[no-untyped-call]
        for old, new in zip(inner_tensors(source), inner_tensors(copy), strict=True):
            tag = self._run.tags.get(old)
            if tag is not None:
                self._run.tags.set(new, tag.bare)
        return copy
