"""A certificate: read back without trusting it, and compared with a new proof of the same step."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from shardproof.errors import CannotRunError
from shardproof.frameworks.specification import Specification
from shardproof.proving.axes import make_axes
from shardproof.proving.findings import Verdict
from shardproof.proving.records import Key, Phase
from shardproof.report.cause_json import read_cause
from shardproof.report.json import SCHEMA_VERSION
from shardproof.report.words import describe_cause

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shardproof.proving.axes import Axes
    from shardproof.proving.cause import Cause
    from shardproof.proving.findings import Proof

_LARGEST_FILE = 1 << 28
_MOST = 4096  # ranks, trials or steps that a certificate can make us run
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a certificate says of one tensor; see `Finding`."""

    verdict: Verdict
    cause: Cause | None
    allowed: str
    false_accept: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What was run, with what, and what it showed.

    Attributes:
        specification: what `prove` was given.
        digests: SHA-256 of the files that it names, as they were.
        versions: of Python and the packages, as they were.
        mesh: the sizes of the mesh's axes by name.
        data_axes: those along which each rank took rows of the batch of its own.
        primes: of each trial.
        seeds: of each trial.
        allow: patterns of findings that were accepted.
        claims: in execution order.
        mended: the certificate of the same proof with the entries that `--suggest` found; None where there is none.
    """

    specification: Specification
    digests: Mapping[str, str]
    versions: Mapping[str, str | None]
    mesh: Mapping[str, int]
    data_axes: tuple[str, ...]
    primes: tuple[int, ...]
    seeds: tuple[int, ...]
    allow: tuple[str, ...]
    claims: Mapping[Key, Claim]
    mended: Certificate | None = None

    @property
    def ok(self) -> bool:
        """It claims that every tensor is as it should be."""
        failed = any(not claim.verdict.ok and not claim.allowed for claim in self.claims.values())
        return not failed and any(claim.verdict.ok for claim in self.claims.values())


def read_certificate(path: Path) -> Certificate:
    """Read what `render_json` wrote, checking every field.

    Raises:
        CannotRunError: it cannot be read, a field is not what it should be, or it cannot be replayed: it names no
            step, or a file outside the current folder, which would run code that is not the reader's own.
    """
    return _read(_load(path))


def _read(content: dict[str, Any]) -> Certificate:
    schema = _field(content, "schema_version", int)
    if schema != SCHEMA_VERSION:
        raise CannotRunError(
            f"the certificate has schema_version {schema}; this version of shardproof reads {SCHEMA_VERSION}: "
            "make a new one by `shardproof prove --format json`"
        )
    if content.get("specification") is None:
        raise CannotRunError(
            "the certificate does not say how to make its step again: write it by `shardproof prove --format json`"
        )
    if content.get("trials") == 0:
        raise CannotRunError("the certificate is of --numeric, which proves nothing to be checked: run it again")
    specification = _specification(_field(content, "specification", dict))
    axes = _axes(content)
    if specification.reduce not in (None, dict(axes.sizes)):
        raise CannotRunError("the certificate contradicts itself: its step is reduced for another mesh than its own")
    certificate = Certificate(
        specification=specification,
        digests=_texts(_field(content, "files", dict), "files"),
        versions=_texts(
            {k: v for k, v in _field(content, "versions", dict).items() if v is not None},
            "versions",
        ),
        mesh=axes.sizes,
        data_axes=axes.data,
        primes=tuple(_typed(x, int, "primes") for x in _field(content, "primes", list)),
        seeds=tuple(_typed(x, int, "seeds") for x in _field(content, "seeds", list)),
        allow=tuple(_typed(x, str, "allow") for x in _field(content, "allow", list)),
        claims=_claims(_field(content, "findings", list)),
        mended=_read_mended(content),
    )
    trials = _count(content, "trials", least=1)
    if not len(certificate.primes) == len(certificate.seeds) == trials:
        raise CannotRunError(f"the certificate has {trials} trials and not as many primes and seeds")
    if certificate.ok is not _field(content, "ok", bool):
        raise CannotRunError("the certificate contradicts itself: its ok is not what its findings say")
    return certificate


def _read_mended(content: dict[str, Any]) -> Certificate | None:
    """The certificate within a suggestion, which has to be of the same step with the entries that it names."""
    if content.get("suggestion") is None:
        return None
    suggestion = _field(content, "suggestion", dict)
    if suggestion.get("certificate") is None:
        return None
    inner = _field(suggestion, "certificate", dict)
    if inner.get("suggestion") is not None:
        raise CannotRunError("the certificate's suggestion has a suggestion of its own")
    before = _specification(_field(content, "specification", dict))
    entries = _texts(_field(suggestion, "entries", dict), "entries")
    mended = _read(inner)
    if mended.specification != before.with_entries(entries):
        raise CannotRunError("the certificate contradicts itself: its suggestion is of another step than it is")
    return mended


def compare_with(certificate: Certificate, proof: Proof) -> list[str]:
    """What the certificate claims and the new proof does not show, one line each; empty if it still holds."""
    told = []
    if certificate.primes != proof.primes or certificate.seeds != proof.seeds:
        told.append(f"primes and seeds are now {_listed(proof.primes)} and {_listed(proof.seeds)}")
    found = {finding.key: finding for finding in proof.findings}
    for key, claim in certificate.claims.items():
        finding = found.get(key)
        if finding is None:
            told.append(f"{key}: {claim.verdict} then, not compared now")
        elif (finding.verdict, finding.cause) != (claim.verdict, claim.cause):
            then, now = (_said(one.verdict, one.cause, proof.mesh) for one in (claim, finding))
            told.append(f"{key}: {then} then, {now} now")
        elif claim.false_accept is not None and not _within(finding.false_accept, claim.false_accept):
            told.append(f"{key}: bound {claim.false_accept:.3g} then, {finding.false_accept or 'none'} now")
    told += [
        f"{key}: {finding.verdict} now, not compared then"
        for key, finding in found.items()
        if key not in certificate.claims
    ]
    return told


def _within(bound: float | None, claimed: float) -> bool:
    return bound is not None and bound <= claimed * (1 + 1e-9)


def _said(verdict: Verdict, cause: Cause | None, mesh: Mapping[str, int]) -> str:
    return str(verdict) if cause is None else f"{verdict} ({describe_cause(cause, mesh=mesh)})"


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))


def _load(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise CannotRunError(f"{path} is larger than {_LARGEST_FILE} bytes: no certificate")
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except OSError as error:
        raise CannotRunError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, CannotRunError):
            raise
        raise CannotRunError(f"{path} is no certificate: {error}") from error
    return _typed(content, dict, "the certificate")


def _refuse_constant(name: str) -> None:
    raise CannotRunError(f"the certificate holds {name}, which is no JSON")


def _specification(content: dict[str, Any]) -> Specification:
    parallelize, candidate, steps = (content.get(name) for name in ("parallelize", "candidate", "steps"))
    settings = _field(content, "settings", dict)
    for key in settings:
        # Not `_attn_implementation`, `auto_map` and the like, by which a configuration can name code.
        if not all(map(_is_plain, key.split("."))):
            raise CannotRunError(f"the certificate sets {key!r}, which is no plain setting of a configuration")
    memory, plan = content.get("memory"), content.get("plan")
    specification = Specification(
        step=_field(content, "step", str),
        parallelize=None if parallelize is None else _typed(parallelize, str, "parallelize"),
        candidate=None if candidate is None else _typed(candidate, str, "candidate"),
        settings=settings,
        full_size=_field(content, "full_size", bool),
        reduce=_read_reduced_mesh(content.get("reduce")),
        memory=None if memory is None else float(_typed(memory, float, "memory")),
        plan=None if plan is None else _typed(plan, str, "plan"),
        plan_set=_texts(_field(content, "plan_set", dict), "plan_set"),
        plan_drop=tuple(_typed(x, str, "plan_drop") for x in _field(content, "plan_drop", list)),
        steps=None if steps is None else _count(content, "steps", least=1),
        seed=_field(content, "seed", int),
    )
    here = Path.cwd().resolve()
    for name in specification.files:
        if not Path(name).resolve().is_relative_to(here):
            raise CannotRunError(
                f"the certificate names {name}, which is outside the current folder: a check runs only what is inside"
            )
    return specification


def _read_reduced_mesh(content: object) -> dict[str, int] | None:
    """The mesh for which a configuration was reduced."""
    if content is None:
        return None
    return dict(make_axes(mesh=_typed(content, dict, "reduce")).sizes)


def _is_plain(part: str) -> bool:
    return part.isdecimal() or (part.isidentifier() and not part.startswith("_") and part != "auto_map")


def _axes(content: dict[str, Any]) -> Axes:
    mesh = _field(content, "mesh", dict)
    axes = make_axes(mesh=mesh, data_axes=[_typed(x, str, "data_axes") for x in _field(content, "data_axes", list)])
    if axes.size > _MOST:
        raise CannotRunError(f"the certificate's mesh has {axes.size} ranks; it must have at most {_MOST}")
    return axes


def _claims(findings: list[Any]) -> dict[Key, Claim]:
    claims = {}
    for entry in findings:
        content = _typed(entry, dict, "a finding")
        bound = content.get("false_accept")
        if bound is not None and not (_is_number(bound) and 0 <= bound <= 1 and math.isfinite(bound)):
            raise CannotRunError("the certificate's false_accept must be a probability or null")
        key = Key(
            _count(content, "step", least=1) - 1,
            _member(Phase, _field(content, "phase", str), "phase"),
            _field(content, "name", str),
            _count(content, "call", least=1) - 1,
        )
        if key in claims:
            raise CannotRunError(f"the certificate has {key} twice")
        claims[key] = Claim(
            verdict=_member(Verdict, _field(content, "verdict", str), "verdict"),
            cause=read_cause(_field(content, "cause", object)),
            allowed=_field(content, "allowed", str),
            false_accept=None if bound is None else float(bound),
        )
    if not claims:
        raise CannotRunError("the certificate has no findings: nothing was compared")
    return claims


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _field(content: Mapping[str, Any], name: str, kind: type[_T]) -> _T:
    if name not in content:
        raise CannotRunError(f"the certificate has no {name}")
    return _typed(content[name], kind, name)


def _typed(value: object, kind: type[_T], name: str) -> _T:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise CannotRunError(f"the certificate's {name} must be of type {kind.__name__}, not {type(value).__name__}")
    return value


def _count(content: Mapping[str, Any], name: str, *, least: int) -> int:
    value = _field(content, name, int)
    if not least <= value <= _MOST:
        raise CannotRunError(f"the certificate's {name} is {value}; it must lie between {least} and {_MOST}")
    return value


def _texts(content: dict[str, Any], name: str) -> dict[str, str]:
    return {key: _typed(value, str, name) for key, value in content.items()}


def _member(kind: type[_T], value: str, name: str) -> _T:
    try:
        return kind(value)  # type: ignore[call-arg]
    except ValueError as error:
        raise CannotRunError(f"the certificate's {name} is {value!r}, which is none") from error
