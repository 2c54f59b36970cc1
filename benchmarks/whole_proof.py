"""One whole proof of a GPT in a process of its own, as JSON: what a user waits for, a float32 step, and the floor.

    python -m benchmarks.whole_proof LAYERS HIDDEN VOCABULARY TOKENS RANKS [TRIALS]
    python -m benchmarks.whole_proof gpt2

TOKENS are of each of two rows. `gpt2` is GPT-2 small, 124 million parameters, with its positions and its tied
embedding, 64 tokens in each of two rows, on two ranks, in one trial; of it no floor is measured.

The floor is the time of the runs that the proof needs, ordinary and exact, of one device and of all ranks, each taken
once and recorded: nothing is compared. Seconds are those of the CPU (user and system), which a machine that is shared
distorts less than those on the clock; both are in the JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from shardproof.parallel import Column, Row, VocabularyLoss, VocabularyRows, parallelize
from shardproof.proving.prove import prove
from shardproof.proving.running.both_sides import Numbers, Runner
from shardproof.proving.running.determinism import require_deterministic
from shardproof.proving.running.request import RunRequest
from shardproof.proving.running.target import ProofTarget
from shardproof.proving.step import Step

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

HEAD_DIM = 64


class Layer(nn.Module):
    """A pre-norm transformer layer with fused query, key and value."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.qkv, self.out = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.up, self.down = nn.Linear(hidden, 4 * hidden), nn.Linear(4 * hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Shaped like x: [batch, tokens, hidden]."""
        heads = [part.unflatten(-1, (-1, HEAD_DIM)).transpose(1, 2) for part in self.qkv(self.first(x)).chunk(3, -1)]
        attended = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        found: Tensor = x + self.down(F.gelu(self.up(self.second(x))))
        return found


class GPT(nn.Module):
    """A language model that returns its loss.

    Args:
        layers: how many.
        hidden: size of each token's vector.
        vocabulary: how many tokens there are.
        positions: how many have a learned vector; 0 for none.
        tied: the head's weight is the embedding's.
    """

    def __init__(self, layers: int, hidden: int, vocabulary: int, *, positions: int = 0, tied: bool = False) -> None:
        super().__init__()
        self.positions = nn.Embedding(positions, hidden) if positions else None
        self.embedding = nn.Embedding(vocabulary, hidden)
        self.layers = nn.ModuleList(Layer(hidden) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(hidden), nn.Linear(hidden, vocabulary, bias=False)
        self.loss = nn.CrossEntropyLoss()
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        """The mean loss of predicting each token from those before it."""
        x = self.embedding(ids[:, :-1])
        if self.positions is not None:
            x = x + self.positions(torch.arange(x.shape[1]))
        for layer in self.layers:
            x = layer(x)
        loss: Tensor = self.loss(self.head(self.norm(x)).flatten(0, 1), ids[:, 1:].flatten())
        return loss


def main(
    layers: int, hidden: int, vocabulary: int, tokens: int, ranks: int, trials: int = 1, *, gpt2: bool = False
) -> dict[str, object]:
    """The measurements of one proof: AdamW, one step."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ids = torch.randint(vocabulary, (2, tokens + 1))

    def adamw(parameters: list[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=1e-3)

    def build() -> GPT:
        return GPT(layers, hidden, vocabulary, positions=1024 if gpt2 else 0, tied=gpt2)

    step = Step(
        model=build,
        batch=ids,
        forward=lambda model, batch: model(batch),
        optimizer=adamw,
        steps=1,
    )
    parameters, rounds = _time_plain_steps(build(), adamw, ids)
    before = _rss("VmRSS")
    plan = {
        "embedding": VocabularyRows(),
        "layers.*.qkv": Column(parts=3),
        "layers.*.out": Row(),
        "layers.*.up": Column(),
        "layers.*.down": Row(),
        "head": Column(),
        "loss": VocabularyLoss(vocabulary=vocabulary),
    }

    def shard(model: nn.Module, mesh: torch.distributed.DeviceMesh) -> nn.Module:
        return parallelize(model, mesh, plan)

    proofs = []
    whole = _seconds(lambda: proofs.append(prove(step, parallelize=shard, devices=ranks, trials=trials)))
    peak = _rss("VmHWM")
    if not proofs[0].ok:
        msg = "the proof failed; nothing was measured"
        raise AssertionError(msg)
    floor = None if gpt2 or trials > 1 else _seconds(lambda: _take_runs(step, shard, ranks))
    return {
        "layers": layers,
        "hidden": hidden,
        "ranks": ranks,
        "trials": trials,
        "parameters": parameters,
        "tensors": len(proofs[0].findings),
        "float32 step": sorted(rounds, key=lambda one: one["cpu"])[len(rounds) // 2],
        "whole": whole,
        "floor": floor,
        "peak bytes": peak,
        "bytes before": before,
    }


def _time_plain_steps(
    model: GPT, adamw: Callable[[list[Tensor]], torch.optim.Optimizer], ids: Tensor
) -> tuple[int, list[dict[str, float]]]:
    """How many parameters there are, and the times of float32 steps; nothing of them stays in memory."""
    optimizer = adamw(list(model.parameters()))

    def plain() -> None:
        optimizer.zero_grad()
        model(ids).backward()
        optimizer.step()

    plain()
    return sum(x.numel() for x in model.parameters()), [_seconds(plain) for _ in range(9)]


def _take_runs(step: Step, shard: Callable[..., nn.Module], ranks: int) -> None:
    require_deterministic(step, 0)
    runner = Runner(target=ProofTarget(step=step, parallelize=shard), spawn=False, timeout=600, reload=None)
    request = RunRequest(mesh={"tp": ranks}, traced=True)
    told = runner.run(replace(request, seeds=(0,))).ranks
    further = replace(request, told=tuple(side.told for side in told))
    for numbers in (Numbers.FLOAT64, Numbers.OWN):
        runner.run(replace(further, draws=numbers is Numbers.OWN), numbers)


def _seconds(run: Callable[[], object]) -> dict[str, float]:
    start, usage = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    run()
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - usage.ru_utime - usage.ru_stime
    return {"clock": time.perf_counter() - start, "cpu": cpu}


def _rss(key: str) -> int:
    with open("/proc/self/status") as lines:  # noqa: PTH123 - no path of ours
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


if __name__ == "__main__":
    small = sys.argv[1:] == ["gpt2"]
    print(json.dumps(main(12, 768, 50257, 64, 2, gpt2=True) if small else main(*map(int, sys.argv[1:7]))))
