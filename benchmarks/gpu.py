"""What can be measured on a CUDA device alone: exact steps, layers at one rank, and whether digits are the CPU's.

    make bench-gpu        # exit code 0: the digits agree; 1: they do not; 2: no CUDA device is at hand

No other benchmark and no test needs a GPU. `measure` takes any device: tests/test_gpu.py runs it on the CPU.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

from benchmarks.measure import Row, interleave
from shardproof.exact import ExactArithmetic
from shardproof.parallel import Column, parallelize
from shardproof.parallel import Row as RowStyle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor
    from torch.distributed.device_mesh import DeviceMesh

    from benchmarks.measure import Timing

EXACT_TARGET = 5.0
LAYERS_TARGET = 1.15
PLAN = {"up": Column(), "down": RowStyle()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Of the step that is timed, and of the small one whose digits are compared."""

    hidden: int = 1024
    batch: int = 256
    small: int = 24
    rounds: int = 15


class Block(nn.Module):
    """A pre-norm transformer block between an embedding and a head; attention is PyTorch's fused one."""

    def __init__(self, hidden: int, vocabulary: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, hidden)
        self.norm, self.last = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.qkv, self.out = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.up, self.down = nn.Linear(hidden, 4 * hidden), nn.Linear(4 * hidden, hidden)
        self.head = nn.Linear(hidden, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        """From tokens [B, S] to logits [B, S, vocabulary]."""
        x = self.embedding(tokens)
        heads = self.qkv(self.norm(x)).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4)  # [3, B, heads, S, D]
        mixed = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        x = x + self.down(F.gelu(self.up(self.last(x))))
        logits: Tensor = self.head(x)
        return logits


def main() -> int:
    """Measure on the CUDA device, if there is one."""
    if not torch.cuda.is_available():
        print("bench-gpu: no CUDA device is at hand; nothing was measured", file=sys.stderr)
        return 2
    return measure(torch.device("cuda", torch.cuda.current_device()), Sizes())


def measure(device: torch.device, sizes: Sizes) -> int:
    """Print a table of the device and what was compared; 1 if digits differ from the CPU's."""
    print(f"device: {describe_device(device)}; torch {torch.__version__}")
    with one_rank(device) as mesh:
        for row in (time_exact(device, sizes), time_layers(device, sizes, mesh)):
            print(
                f"{row.what:58s} | {row.ours:9.4g} ms | {row.peer_name} {row.peer:.4g} ms | {row.ratio:6.2f} | "
                f"<= {row.target:g} | {'yes' if row.met else 'NO'}"
            )
        differing = compare_digits(take_exact_step(device, sizes, mesh), take_exact_step(torch.device("cpu"), sizes))
    print(f"digits that are not the CPU's: {', '.join(differing) or 'none'}")
    return int(bool(differing))


def describe_device(device: torch.device) -> str:
    """The name of a GPU; `cpu` otherwise."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@contextmanager
def one_rank(device: torch.device) -> Iterator[DeviceMesh]:
    """A mesh of this process alone, on the device."""
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]  # public, but not listed
    try:
        yield init_device_mesh(device.type, (1,), mesh_dim_names=("tp",))
    finally:
        dist.destroy_process_group()


def time_exact(device: torch.device, sizes: Sizes) -> Row:
    """A training step in exact arithmetic over the same in float32; the tables of the oracles are made before."""
    plain, exactly = (_make_mlp_step(_make_mlp(device, sizes), device, sizes) for _ in range(2))
    with ExactArithmetic(seed=1) as exact:
        exactly()

        def paused() -> None:
            with exact.paused():
                plain()

        timings = interleave({"float32": paused, "exact": exactly}, rounds=sizes.rounds)
    what = f"exact: MLP {sizes.hidden}-{4 * sizes.hidden}-{sizes.hidden}, gelu, SGD"
    return _row(what, timings["exact"], "float32 step", timings["float32"], EXACT_TARGET)


def time_layers(device: torch.device, sizes: Sizes, mesh: DeviceMesh) -> Row:
    """A training step with split layers over one with `nn.Linear`, on one rank: what the layers cost themselves."""
    ours = parallelize(_make_mlp(device, sizes), mesh, PLAN, axis="tp")
    steps = {
        name: _make_mlp_step(model, device, sizes)
        for name, model in (("split", ours), ("linear", _make_mlp(device, sizes)))
    }
    timings = interleave(steps, rounds=sizes.rounds)
    return _row(
        "layers: the same MLP, float32, one rank", timings["split"], "nn.Linear", timings["linear"], LAYERS_TARGET
    )


def take_exact_step(device: torch.device, sizes: Sizes, mesh: DeviceMesh | None = None) -> dict[str, Tensor]:
    """The digits of one training step, by name, on the CPU: loss, gradients, updated parameters.

    Args:
        device: where the step is taken; the values are drawn on the CPU.
        sizes: of the block.
        mesh: of one rank, for split layers; None for `nn.Linear`.
    """
    torch.manual_seed(0)
    model = Block(sizes.small)
    tokens, targets = torch.randint(32, (2, 2, 6))
    model, tokens, targets = model.double().to(device), tokens.to(device), targets.to(device)
    if mesh is not None:
        model = parallelize(model, mesh, PLAN, axis="tp")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=False)
    with ExactArithmetic(seed=3) as exact:
        loss = F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        optimizer.step()
        found = {"loss": exact.digits(loss.detach()).cpu()}
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            found[f"gradient of {name}"] = exact.digits(parameter.grad).cpu()
            found[f"updated {name}"] = exact.digits(parameter.detach()).cpu()
    return found


def compare_digits(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> list[str]:
    """The names of which any digit differs, or which one side alone has."""
    names = [*theirs, *(name for name in ours if name not in theirs)]
    return [name for name in names if not _equal(ours.get(name), theirs.get(name))]


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is not None and b is not None and torch.equal(a, b)


class _MLP(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(hidden, 4 * hidden), nn.Linear(4 * hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(F.gelu(self.up(x)))
        return out


def _make_mlp(device: torch.device, sizes: Sizes) -> nn.Module:
    torch.manual_seed(0)
    return _MLP(sizes.hidden).to(device)


def _make_mlp_step(model: nn.Module, device: torch.device, sizes: Sizes) -> Callable[[], None]:
    x, y = torch.randn(2, sizes.batch, sizes.hidden, generator=torch.Generator().manual_seed(0)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step() -> None:
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # kernels are launched, not finished, when a call returns

    return step


def _row(what: str, ours: Timing, peer_name: str, peer: Timing, target: float) -> Row:
    return Row(
        what=what,
        ours=ours.median,
        peer_name=peer_name,
        peer=peer.median,
        unit="ms",
        target=target,
        spread=ours.spread,
    )


if __name__ == "__main__":
    sys.exit(main())
