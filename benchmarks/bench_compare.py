"""`compare` on 1e8 elements, all its statistics, against reading both tensors once.

The floor is `torch.dot` on the same memory, viewed as float32 for bfloat16: PyTorch's bfloat16 dot is limited by
conversions, not by reading. Three pairs of tensors: equal; different by one ULP in half of the elements, as after
rounding; unrelated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from benchmarks.measure import Row, interleave, peak_extra_mib
from shardproof.comparison import compare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

COUNT = 10**8
INTEGERS = {torch.float32: torch.int32, torch.bfloat16: torch.int16}


def rows() -> Iterable[Row]:
    """Speed of both kernels, speed against the notebook, memory."""
    for dtype in INTEGERS:
        word = str(dtype).removeprefix("torch.")
        expected = torch.randn(COUNT, generator=torch.Generator().manual_seed(0)).to(dtype)
        for case, make in _cases(expected).items():
            actual = make()
            yield from _speed(f"{word}, 1e8, {case}", actual, expected)
            if dtype is torch.float32 and case != "unrelated":
                yield _against_notebook(f"{word}, 1e8, {case}", actual, expected)
            del actual
    yield from _memory()


def _cases(expected: torch.Tensor) -> dict[str, Callable[[], torch.Tensor]]:
    integer = INTEGERS[expected.dtype]

    def round_differently() -> torch.Tensor:
        ulp = torch.randint(0, 2, expected.shape, dtype=integer, generator=torch.Generator().manual_seed(1))
        return (expected.view(integer) + ulp).view(expected.dtype)

    def draw_anew() -> torch.Tensor:
        return torch.randn(COUNT, generator=torch.Generator().manual_seed(2)).to(expected.dtype)

    return {"equal": expected.clone, "1 ulp": round_differently, "unrelated": draw_anew}


def _speed(what: str, actual: torch.Tensor, expected: torch.Tensor) -> Iterator[Row]:
    a, e = actual.view(torch.float32), expected.view(torch.float32)
    timings = interleave(
        {
            "read": lambda: torch.dot(a, e),
            "eager": lambda: compare(actual, expected),
            "compiled": lambda: compare(actual, expected, kernel="compiled"),
        }
    )
    for kernel, target in (("eager", 2.5), ("compiled", 1.6)):
        yield Row(
            what=f"compare, {kernel}: {what}",
            ours=timings[kernel].median,
            peer_name="torch.dot",
            peer=timings["read"].median,
            unit="ms",
            target=target,
            spread=timings[kernel].spread,
        )


def _against_notebook(what: str, actual: torch.Tensor, expected: torch.Tensor) -> Row:
    def run_notebook() -> tuple[object, ...]:
        exact = torch.all(actual == expected).item()
        approximate = torch.allclose(actual, expected)
        return exact, approximate, (actual - expected).abs().max().item()

    timings = interleave({"notebook": run_notebook, "eager": lambda: compare(actual, expected)}, rounds=5)
    return Row(
        what=f"compare, eager: {what}, times faster",
        ours=timings["eager"].median,
        peer_name="the notebook's cmp",
        peer=timings["notebook"].median,
        unit="ms",
        target=15,
        at_least=True,
        spread=timings["eager"].spread,
    )


def _memory() -> Iterator[Row]:
    layouts = {
        "contiguous": "torch.full((100_000_000,), fill)",
        "transposed": "torch.full((10_000, 10_000), fill).t()",
        "every other": "torch.full((100_000_000, 2), fill)[:, 0]",
    }
    for layout, make in layouts.items():
        for kernel in ("eager", "compiled") if layout == "contiguous" else ("eager",):
            prepare = (
                "import torch; from shardproof.comparison import compare\n"
                f"make = lambda fill: {make}\nactual, expected = make(1.0), make(1.5)\n"
                f"compare(torch.ones(9), torch.ones(9), kernel={kernel!r})"
            )
            yield Row(
                what=f"compare, {kernel}: extra memory, float32, 1e8, {layout}",
                ours=peak_extra_mib(prepare, f"compare(actual, expected, kernel={kernel!r})"),
                peer_name="allowed",
                peer=64,
                unit="MiB",
                target=1,
            )
