"""A small GPT trained on this repository's own text, on one device or tensor-parallel on several: the same curve.

    python examples/train_gpt.py
    torchrun --standalone --nproc-per-node 2 examples/train_gpt.py --save checkpoints
    torchrun --standalone --nproc-per-node 4 examples/train_gpt.py --save checkpoints --resume

Tokens are bytes. Every rank takes the full batch and has a shard of each layer: attention is split by heads, MLPs by
their width, embedding, output layer and loss by the vocabulary. The model is ordinary PyTorch; `PLAN` splits it. Losses
go to stdout, a progress bar to stderr if that is a terminal.

The loss curves of 1, 2 and 4 ranks differ by rounding only. Training amplifies it: after 200 steps the difference is
1e-3 in float32, and a bug could be as small. With `--dtype float64` it is 1e-11, and a bug would be seen.
"""

import os

# Read when torch is imported; several ranks with several threads each would compete for the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import sys
from hashlib import sha256
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from shardproof.errors import CannotRunError
from shardproof.parallel import (
    Axis,
    Column,
    Row,
    VocabularyLoss,
    VocabularyRows,
    clip_gradients,
    latest_checkpoint,
    load_checkpoint,
    parallelize,
    save_checkpoint,
)
from shardproof.worlds.gloo import use_loopback

VOCABULARY = 256  # bytes
PLAN = {
    "tokens": VocabularyRows(),
    "blocks.*.attention.qkv": Column(parts=3),
    "blocks.*.attention.out": Row(),
    "blocks.*.up": Column(),
    "blocks.*.down": Row(),
    "head": Column(),
    "loss": VocabularyLoss(vocabulary=VOCABULARY),
}


class Attention(nn.Module):
    """Causal attention. It does not use the number of heads, because a split projection returns a rank's heads only."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.head_dim = width // heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """From [B, S, width] to the same."""
        q, k, v = (
            part.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1)
        )  # [B, heads, S, head_dim] each
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and an MLP, each with a norm before it and a residual connection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """From [B, S, width] to the same."""
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class GPT(nn.Module):
    """From ids [B, S + 1] to the mean loss of predicting all but the first. Head and embedding share one weight."""

    def __init__(self, layers: int, width: int, heads: int, length: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCABULARY, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, VOCABULARY, bias=False)
        self.loss = nn.CrossEntropyLoss()
        for table in (self.tokens, self.positions):
            nn.init.normal_(table.weight, std=0.02)
        self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        """The loss."""
        x = self.tokens(ids[:, :-1]) + self.positions.weight
        for block in self.blocks:
            x = block(x)
        return self.loss(self.head(self.norm(x)).flatten(0, 1), ids[:, 1:].flatten())


def read_text(paths: list[Path], least: int) -> Tensor:
    """The bytes of files, and of the Markdown and Python files in folders, as ids; at least `least` of them."""
    found = [[path] if path.is_file() else sorted([*path.rglob("*.md"), *path.rglob("*.py")]) for path in paths]
    text = b"\n".join(file.read_bytes() for files in found for file in files)
    if len(text) < least:
        raise CannotRunError(f"--text has {len(text)} bytes; give files or folders with at least {least}")
    return torch.frombuffer(bytearray(text), dtype=torch.uint8).long()


def draw_batch(text: Tensor, settings: argparse.Namespace, step: int) -> Tensor:
    """Passages of `length + 1` bytes, which depend on seed and step only: the same on all ranks and after a resume."""
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
    starts = torch.randint(len(text) - settings.length, (settings.batch,), generator=generator)
    return torch.stack([text[start : start + settings.length + 1] for start in starts])


def train(settings: argparse.Namespace) -> None:
    """Train, save and resume, on this rank."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("tp",))
    axis = Axis.of(mesh, "tp")
    text = read_text(settings.text, settings.length + 1)
    told = {"seed": settings.seed, "batch": settings.batch, "text": sha256(text.numpy().tobytes()).hexdigest()}

    torch.manual_seed(settings.seed)  # every rank draws the full model and keeps its shards
    model = GPT(settings.layers, settings.width, settings.heads, settings.length).to(getattr(torch, settings.dtype))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    parallelize(model, mesh, PLAN)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr)

    done, last = 0, latest_checkpoint(settings.save) if settings.save else None
    if last and not settings.resume:
        raise CannotRunError(f"--save {settings.save} has checkpoints: --resume, or give another folder")
    if last:
        loaded = load_checkpoint(last, model, optimizer, axis=axis)
        if loaded.extra != told:
            raise CannotRunError(
                f"{last} was trained with other text, --seed or --batch: give the same ones, or another --save"
            )
        done = loaded.step

    console = Console(stderr=True)
    quiet = axis.rank > 0
    if not quiet:
        print(f"{parameters:,} parameters, {len(text):,} bytes, {axis.size} ranks, from step {done}", flush=True)
    with Progress(console=console, disable=quiet or not console.is_terminal, redirect_stdout=False) as bar:
        task = bar.add_task("training", total=settings.steps, completed=done)
        for step in range(done + 1, settings.steps + 1):
            optimizer.zero_grad()
            loss = model(draw_batch(text, settings, step))
            loss.backward()
            clip_gradients(model.parameters(), 1.0, axis)
            optimizer.step()
            bar.advance(task)
            if not quiet and (step % settings.print_every == 0 or step == settings.steps):
                print(f"step {step:5}  loss {loss.item():.12f}", flush=True)
            if settings.save and (step % settings.save_every == 0 or step == settings.steps):
                save_checkpoint(settings.save, model, optimizer, step=step, axis=axis, extra=told)


def read_settings() -> argparse.Namespace:
    """The command line."""
    told = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"steps": 200, "batch": 8, "length": 128, "layers": 4, "width": 128, "heads": 4}.items():
        told.add_argument(f"--{name}", type=int, default=value, help=f"default {value}")
    told.add_argument("--lr", type=float, default=1e-3)
    told.add_argument("--seed", type=int, default=0)
    told.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    own = [Path(__file__).parents[1] / name for name in ("docs", "src")]
    told.add_argument("--text", type=Path, nargs="+", default=own, help="files or folders; default this repository's")
    told.add_argument("--print-every", type=int, default=10)
    told.add_argument("--save", type=Path, help="folder for checkpoints")
    told.add_argument("--save-every", type=int, default=50)
    told.add_argument("--resume", action="store_true", help="from the latest checkpoint in --save, if there is one")
    return told.parse_args()


def main() -> int:
    """Run as a rank of torchrun, or as the only rank."""
    settings = read_settings()
    if "WORLD_SIZE" in os.environ:
        if os.environ["WORLD_SIZE"] == os.environ.get("LOCAL_WORLD_SIZE"):
            use_loopback()  # all on this machine
        dist.init_process_group("gloo")
    else:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        train(settings)
    except CannotRunError as error:
        if dist.get_rank() == 0:
            print(f"train_gpt: error: {error}", file=sys.stderr)
        return 2
    finally:
        dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
