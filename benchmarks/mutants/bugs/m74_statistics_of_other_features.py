"""A frozen batch norm on shards: every rank normalises its features by the statistics of the first ones."""

from __future__ import annotations

from torch import Tensor, nn

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.collectives import own_part
from benchmarks.mutants.configuration import Configuration, sharded
from benchmarks.mutants.models.two_layers import WIDTH, TwoLayers, split_two_layers, two_layer_step
from shardproof.proving.cause import CauseKind


class Frozen(TwoLayers):
    """The hidden features are normalised by running statistics that do not move."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(WIDTH).eval()

    def between(self, hidden: Tensor) -> Tensor:
        return self.norm.eval()(hidden)


def plant(planted: bool) -> Configuration:
    def parallelize(model: nn.Module, _mesh: object) -> nn.Module:
        model = split_two_layers(model)
        norm = model.norm
        for name in ("weight", "bias"):
            setattr(norm, name, nn.Parameter(own_part(getattr(norm, name).detach()).clone()))
        for name in ("running_mean", "running_var"):
            whole = getattr(norm, name)
            setattr(norm, name, (whole[: WIDTH // 2] if planted else own_part(whole)).clone())
        return model

    return sharded("a frozen batch norm of split features", two_layer_step(Frozen), parallelize, 2)


BUG = Bug(
    id="M74",
    name="statistics-of-other-features",
    phase="F",
    seen_in="review: nothing passes unseen",
    root="output norm",
    cause=CauseKind.FEATURES_SCALED,
    plant=plant,
)
