"""`shardproof prove --repro DIR`: a script without shardproof that shows what is wrong, and a report, in a folder."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from shardproof.errors import CannotRunError
from shardproof.tensorfiles import printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from shardproof.frameworks.specification import Specification
    from shardproof.proving.findings import Proof
    from shardproof.proving.running.target import ProofTarget


def make_folder(folder: Path) -> None:
    """Make the folder that the script will be written into, before the work starts.

    Raises:
        CannotRunError: it cannot be made.
    """
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise CannotRunError(f"--repro {printable(folder)}: {error.strerror}") from error


def write_reproduction(folder: Path, target: ProofTarget, proof: Proof) -> None:
    """Write the script and the report of a proof; where no script would show what is wrong, say so on stderr."""
    from shardproof.frameworks.transformers import OwnPlan, make_reproduction, save_reproduction
    from shardproof.report.first_causes import list_first_causes

    assert isinstance(target.parallelize, OwnPlan)
    said = [f"{one.group.title}: {one.group.first.verdict}. {one.cause}" for one in list_first_causes(proof)]
    try:
        made = make_reproduction(target.step, target.parallelize, proof.devices, proof.roots, said)
    except CannotRunError as error:
        print(printable(error), file=sys.stderr)
        return
    save_reproduction(made, folder)


def write_crash(folder: Path, specification: Specification, error: CannotRunError, ranks: int) -> None:
    """Write the script of code that fails on ranks; nothing for another error."""
    from shardproof.frameworks.transformers import (
        OwnPlan,
        ShardedCrashError,
        make_reproduction,
        save_reproduction,
    )

    crashes = [one for one in _list_causes(error) if isinstance(one, ShardedCrashError)]
    if crashes:
        target = specification.load()
        assert isinstance(target.parallelize, OwnPlan)
        said = [printable(" ".join(str(crashes[0]).split()))]
        save_reproduction(make_reproduction(target.step, target.parallelize, ranks, (), said), folder)


def _list_causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
