"""Results of a census, as values, and as JSON lines that a later census continues."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from shardproof.errors import CannotRunError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

BASE = "default"  # the name of the variant without a change
LOADING = "loading"  # and of loading a checkpoint in place of a training step


class Outcome(StrEnum):
    """What became of one model type."""

    PROVED = "PROVED"
    LOADED = "LOADED"  # of loading: each element is where it belongs, once
    WRONG = "WRONG"
    VACUOUS = "VACUOUS"  # nothing differs, and some tensors could not have told
    UNDECIDED = "UNDECIDED"
    CRASH = "CRASH"  # its own code fails on ranks, and runs on one device
    ONE_DEVICE = "ONE DEVICE"  # its own code does not run on one device, so that nothing can be said of ranks
    UNSUPPORTED = "UNSUPPORTED"  # exact arithmetic has no rule for it
    REFUSED = "REFUSED"  # shardproof cannot build or feed it
    TIMEOUT = "TIMEOUT"
    MEMORY = "MEMORY"
    DIED = "DIED"
    NOT_RUN = "NOT RUN"  # on the page, of a type without a result

    @property
    def decided(self) -> bool:
        """Whether the census has said what it is for: proved, wrong, or a failure of the model's own code."""
        undecided = (Outcome.UNDECIDED, Outcome.UNSUPPORTED, Outcome.REFUSED, Outcome.TIMEOUT, Outcome.MEMORY)
        return self not in (*undecided, Outcome.DIED, Outcome.NOT_RUN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One model type to prove, in one variant.

    Attributes:
        kind: the model type.
        variant: its name: 'default', or the setting that differs from the default.
        settings: of the configuration.
        devices: how many ranks, on an axis tp.
        mesh: instead, the sizes of the axes by name.
        trials: of the proof.
        seed: of the proof.
        suggest: whether entries that would mend a wrong plan are searched for.
    """

    kind: str
    variant: str = BASE
    settings: Mapping[str, Any] = field(default_factory=dict)
    devices: int = 2
    mesh: Mapping[str, int] = field(default_factory=dict)
    trials: int = 1
    seed: int = 0
    suggest: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of one case.

    Attributes:
        case: which.
        outcome: in a word.
        model: the name of the class that was built.
        counts: how many tensors have each verdict.
        causes: the first causes in words, one for each group of tensors.
        said: the error, where there was one.
        suggested: entries of the plan that would mend what is wrong, styles by pattern of module names.
        mended: what became of the proof with these entries; empty where there are none.
        tried: how often the proof was made again to find them.
        seconds: how long it took.
        versions: of shardproof, torch and transformers.
    """

    case: Case
    outcome: Outcome
    model: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    causes: tuple[str, ...] = ()
    said: str = ""
    suggested: Mapping[str, str] = field(default_factory=dict)
    mended: str = ""
    tried: int = 0
    seconds: float = 0.0
    versions: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def suggestible(self) -> bool:
        """Whether entries could be searched for that mend its plan."""
        return self.outcome is Outcome.WRONG and self.case.variant != LOADING


def write_line(result: Result) -> str:
    """The result as one line of JSON."""
    return json.dumps(asdict(result))


def read_results(path: Path) -> list[Result]:
    """The results of a file of JSON lines; a last line that was cut off is left out.

    Raises:
        CannotRunError: it cannot be read, or another line is no result.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise CannotRunError(f"{path}: {error.strerror}") from error
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(_read_line(line))
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines):
                break
            raise CannotRunError(f"{path}, line {number} is no result of a census: {error}") from error
    return found


def merge_results(paths: Sequence[Path]) -> list[Result]:
    """The results of several files, of the shards of one census.

    Raises:
        CannotRunError: a file cannot be read; or they are of different versions, ranks, trials or seeds.
    """
    found: list[Result] = []
    common: tuple[object, ...] | None = None
    for path in paths:
        for one in read_results(path):
            numbers = (one.case.devices, dict(one.case.mesh), one.case.trials, one.case.seed)
            made_by = (dict(one.versions), *numbers)
            if common is not None and made_by != common:
                raise CannotRunError(
                    f"{path} has results of another census than {paths[0]}: versions, devices, mesh, trials and seed "
                    "must be the same; run its shard again"
                )
            common = made_by
            found.append(one)
    return found


def keep_latest(results: Iterable[Result]) -> dict[tuple[str, str], Result]:
    """The last result of each type and variant."""
    return {(result.case.kind, result.case.variant): result for result in results}


def _read_line(line: str) -> Result:
    content = json.loads(line)
    case = Case(**content.pop("case"))
    content["causes"] = tuple(content["causes"])
    return Result(case=case, outcome=Outcome(content.pop("outcome")), **content)
