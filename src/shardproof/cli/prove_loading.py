"""`shardproof prove hf:... --loading`: load a model sharded from a checkpoint, save it again, compare the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardproof.cli.output import Exit, ProofFormat, write_result
from shardproof.cli.prove_suggest import require_own_plan
from shardproof.errors import CannotRunError

if TYPE_CHECKING:
    from pathlib import Path

    from shardproof.frameworks.specification import Specification
    from shardproof.frameworks.transformers.loading import Loading


def prove_loading(
    specification: Specification, devices: int, output_format: ProofFormat, output: Path | None, *, others: bool
) -> Exit:
    """Check loading, and write what was found: a line for each parameter that is not right.

    Args:
        specification: of an hf: model with its own plan.
        devices: how many ranks.
        output_format: text.
        output: a file, or standard output.
        others: whether options were given that are for a proof.

    Raises:
        CannotRunError: the model cannot be loaded, or the options do not fit.
    """
    from shardproof.frameworks.transformers import MOST_MEMORY
    from shardproof.frameworks.transformers.loading import check_loading

    require_own_plan(specification, "--loading")
    if others or output_format is not ProofFormat.text or specification.plan or specification.plan_set:
        raise CannotRunError(
            "--loading loads the model by its own plan on one axis tp, and writes text: leave out --mesh, --plan, "
            "--plan-set, --plan-drop, --reduce, --numeric, --suggest, --repro, --html and --format"
        )
    found = check_loading(
        specification.step.removeprefix("hf:"),
        specification.settings,
        devices,
        full_size=specification.full_size,
        most_memory=MOST_MEMORY if specification.memory is None else int(specification.memory * 2**30),
    )
    write_result(render_loading(found), output)
    return Exit.of(found.ok)


def render_loading(found: Loading) -> str:
    """What was found, in text."""
    head = "LOADED" if found.ok else "NOT LOADED AS ON A SINGLE DEVICE"
    lines = [f"{head}: {found.model}, {found.tensors} tensors, {found.split} of them split, {found.devices} ranks"]
    if found.ok:
        lines.append("Loaded sharded and saved again, each element is where it belongs, once.")
    lines += [f"  {one.name} ({one.where}): {one.said}" for one in found.misplaced]
    return "\n".join(lines)
