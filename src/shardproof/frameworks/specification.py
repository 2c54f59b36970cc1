"""`Specification`: what names a step and its sharding, from which any process can make them again."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from shardproof.errors import CannotRunError
from shardproof.raised import describe_error

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

    from shardproof.proving.reduction import Reduction
    from shardproof.proving.running.candidate import Candidate
    from shardproof.proving.running.models import Parallelize
    from shardproof.proving.running.target import ProofTarget
    from shardproof.proving.step import Step


class _Candidates(TypedDict, total=False):
    """The argument of `prove` that says what the ranks run; exactly one of the two is there."""

    parallelize: Parallelize
    candidate: Candidate


@dataclass(frozen=True, slots=True, kw_only=True)
class Specification:
    """What `shardproof prove` is given.

    Attributes:
        step: FILE.py:NAME of a `Step`, or hf:TYPE, or hf:CONFIG.json, or hf:FOLDER of a checkpoint.
        parallelize: FILE.py:NAME of `parallelize(model, mesh) -> model`; None for an hf: model's own plan.
        candidate: instead, FILE.py:NAME of `candidate(run)`, the user's own training step.
        settings: changes of the hf: configuration, by name; dots lead into sub-configurations.
        full_size: keep the sizes of the hf: configuration.
        reduce: the mesh for which the hf: configuration is reduced, sizes by axis; None for small sizes of any mesh.
        memory: GiB of an hf: model's parameters in float64 that may be built; None for the usual limit.
        plan: a JSON file with the plan of an hf: model, instead of its own; or FILE.py:NAME.
        plan_set: styles put into the hf: plan, by pattern.
        plan_drop: patterns taken out of the hf: plan.
        steps: training steps; None for the Step's own.
        seed: draws an hf: model's batch.
    """

    step: str
    parallelize: str | None = None
    candidate: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    full_size: bool = False
    reduce: Mapping[str, int] | None = None
    memory: float | None = None
    plan: str | None = None
    plan_set: Mapping[str, str] = field(default_factory=dict)
    plan_drop: tuple[str, ...] = ()
    steps: int | None = None
    seed: int = 0

    def load(self) -> ProofTarget:
        """Make the step and its candidate. Runs the user's files, each once, even if it is named twice.

        Raises:
            CannotRunError: something is not there, or not what it should be.
        """
        from shardproof.proving.running.target import ProofTarget

        if self.parallelize is not None and self.candidate is not None:
            raise CannotRunError("--parallelize and --candidate are given; the ranks can run one of them")
        reduction = None
        if not self.step.startswith("hf:"):
            step, candidates = self._files()
        elif self.reduce is None:
            step, candidates = self._hf()
        else:
            step, candidates, reduction = self._reduced()
        if self.steps is not None:
            step = replace(step, steps=self.steps)
        return ProofTarget(step=step, reduction=reduction, **candidates)

    @property
    def files(self) -> tuple[str, ...]:
        """The files that the specification names."""
        locations = (self.step, self.parallelize or "", self.candidate or "", self.plan or "")
        named = [location.rpartition(":")[0] for location in locations if ".py:" in location]
        source = self.step.removeprefix("hf:")
        if source != self.step and source.endswith(".json"):
            named.append(source)
        elif source != self.step and Path(source).is_dir():
            named.append(str(Path(source) / "config.json"))
        if self.plan is not None and ".py:" not in self.plan:
            named.append(self.plan)
        return tuple(dict.fromkeys(named))

    def with_entries(self, entries: Mapping[str, str]) -> Specification:
        """The same with entries put into its plan."""
        return replace(self, plan_set={**self.plan_set, **entries})

    def digests(self) -> dict[str, str]:
        """Compute the SHA-256 of each file, which tells whether the file has changed.

        Raises:
            CannotRunError: one cannot be read.
        """
        try:
            return {name: hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in self.files}
        except OSError as error:
            raise CannotRunError(f"{error.filename}: {error.strerror}") from error

    def _hf(self) -> tuple[Step, _Candidates]:
        from shardproof.frameworks.transformers import MOST_MEMORY, tiny_step

        candidates = self._hf_candidates()
        if self.memory is not None and not self.memory > 0:
            raise CannotRunError(f"--memory {self.memory}: give a number of GiB above 0")
        step = tiny_step(
            self.step.removeprefix("hf:"),
            self.settings,
            seed=self.seed,
            full_size=self.full_size,
            most_memory=MOST_MEMORY if self.memory is None else int(self.memory * 2**30),
        )
        return step, candidates

    def _reduced(self) -> tuple[Step, _Candidates, Reduction]:
        """The step of the reduced configuration."""
        from shardproof.frameworks.transformers import OwnPlan, reduced_step

        if self.full_size or self.memory is not None:
            raise CannotRunError("--reduce chooses the sizes itself; leave --full-size and --memory out")
        assert self.reduce is not None
        candidates = self._hf_candidates()
        parallelize = candidates.get("parallelize")
        step, reduction = reduced_step(
            self.step.removeprefix("hf:"),
            self.settings,
            mesh=self.reduce,
            plan=parallelize if isinstance(parallelize, OwnPlan) else None,
            seed=self.seed,
        )
        return step, candidates, reduction

    def _hf_candidates(self) -> _Candidates:
        """The model's own plan, with changes, or what the user gives in its place."""
        from shardproof.frameworks.transformers import OwnPlan, PlanChange

        if self.parallelize is not None or self.candidate is not None:
            if self.plan or self.plan_set or self.plan_drop:
                raise CannotRunError(
                    "--plan, --plan-set and --plan-drop change the model's own plan; leave --parallelize and "
                    "--candidate out"
                )
            return self._candidates({})
        instead = None if self.plan is None else _read_plan(self.plan)
        return {"parallelize": OwnPlan(change=PlanChange(drop=self.plan_drop, put=self.plan_set, instead=instead))}

    def _files(self) -> tuple[Step, _Candidates]:
        from shardproof.proving.step import Step

        _read_location(self.step)
        if (
            self.settings
            or self.plan_set
            or self.plan_drop
            or self.plan
            or self.full_size
            or self.memory
            or self.reduce
        ):
            raise CannotRunError(
                "--set, --full-size, --reduce, --memory, --plan, --plan-set and --plan-drop are for an hf: model; for "
                "your own, change its file"
            )
        if self.parallelize is None and self.candidate is None:
            raise CannotRunError(
                "--parallelize FILE.py:NAME is needed: the function that shards the model; or --candidate "
                "FILE.py:NAME, the training step that each rank runs"
            )
        modules: dict[Path, ModuleType] = {}
        step = _find(self.step, modules)
        if not isinstance(step, Step):
            raise CannotRunError(f"{self.step} is a {type(step).__name__}; needed is a shardproof.Step")
        return step, self._candidates(modules)

    def _candidates(self, modules: dict[Path, ModuleType]) -> _Candidates:
        if self.candidate is not None:
            return {"candidate": _function(self.candidate, "candidate(run)", modules)}
        assert self.parallelize is not None
        return {"parallelize": _function(self.parallelize, "parallelize(model, mesh)", modules)}


def _function(location: str, form: str, modules: dict[Path, ModuleType]) -> Any:
    found = _find(location, modules)
    if not callable(found):
        raise CannotRunError(f"{location} is a {type(found).__name__}; needed is a function {form}")
    return found


def _read_plan(location: str) -> dict[str, str]:
    """The plan of a JSON file, or the object NAME of FILE.py."""
    plan: Any
    if ".py:" in location:
        plan = _find(location, {})
    else:
        try:
            plan = json.loads(Path(location).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CannotRunError(
                f"--plan {location} cannot be read: {error}; give a JSON file, or FILE.py:NAME"
            ) from error
    if (
        not isinstance(plan, dict)
        or not plan
        or not all(isinstance(word, str) for pair in plan.items() for word in pair)
    ):
        raise CannotRunError(
            f"--plan {location}: needed is an object of styles by pattern of names, all of them strings"
        )
    return plan


def _read_location(location: str) -> tuple[str, str]:
    """The file and the name of FILE.py:NAME."""
    path, colon, name = location.rpartition(":")
    if not (colon and path.endswith(".py") and name):
        raise CannotRunError(f"{location!r}: give FILE.py:NAME, or hf:TYPE, or hf:CONFIG.json")
    return path, name


def _find(location: str, modules: dict[Path, ModuleType]) -> Any:
    """The object NAME of FILE.py."""
    path, name = _read_location(location)
    if not Path(path).is_file():
        raise CannotRunError(f"{path}: no such file")
    resolved = Path(path).resolve()
    if resolved not in modules:
        modules[resolved] = _run(resolved)
    if not hasattr(modules[resolved], name):
        raise CannotRunError(f"{path} has no {name!r}")
    return getattr(modules[resolved], name)


def _run(path: Path) -> ModuleType:
    """Run a user's file as a module. It can import the modules in its folder, as a script can."""
    # A prefix keeps the name apart from every real module: the file may be called json.py.
    spec = importlib.util.spec_from_file_location(f"shardproof_file_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise CannotRunError(f"{path} cannot be run: {describe_error(error)}") from error
    return module
