"""`shardproof prove --suggest`: search for entries that would mend the plan of an hf: model, and say what was found."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from shardproof.errors import CannotRunError
from shardproof.proving.findings import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

    from shardproof.frameworks.specification import Specification
    from shardproof.frameworks.transformers import Suggestion
    from shardproof.proving.findings import Proof
    from shardproof.proving.running.target import ProofTarget


def require_own_plan(specification: Specification, option: str) -> None:
    """Refuse what needs the plan of an hf: model where there is none.

    Raises:
        CannotRunError: the step is the user's own, or is sharded by the user's own function.
    """
    own = specification.parallelize is None and specification.candidate is None
    if not (own and specification.step.startswith("hf:")):
        raise CannotRunError(f"{option} is for the plan of an hf: model; leave it out")


def suggest(
    proof: Proof,
    specification: Specification,
    target: ProofTarget,
    run: Callable[[Specification, int | None], tuple[ProofTarget, Proof]],
    tell: Callable[[str], None] | None,
) -> Suggestion | None:
    """Search for a mend; None where nothing is wrong.

    Args:
        proof: of the specification.
        specification: of an hf: model with its own plan.
        target: what was proved.
        run: makes the proof of a specification, with so many trials, or with as many as were asked for.
        tell: is called with a few words on each try.
    """
    from shardproof.frameworks.transformers import OwnPlan, Suggestion, find_mend

    if not _is_wrong(proof):
        return None

    def attempt(entries: Mapping[str, str]) -> Proof:
        if tell is not None:
            tell("with " + ", ".join(f"{name}: {style}" for name, style in entries.items()))
        return run(specification.with_entries(entries), 1)[1]

    def resolve(model: nn.Module, entries: Mapping[str, str]) -> Mapping[str, str]:
        assert isinstance(target.parallelize, OwnPlan)
        change = target.parallelize.change
        put = {**(change.put or {}), **entries}
        return replace(target.parallelize, change=replace(change, put=put)).resolve(model, proof.mesh)

    found = find_mend(proof, target.step, resolve, attempt)
    if found.proof is None:
        return found
    whole = run(specification.with_entries(found.entries), None)[1]
    return Suggestion(tried=found.tried) if _is_wrong(whole) else replace(found, proof=whole)


def _is_wrong(proof: Proof) -> bool:
    return any(one.verdict is Verdict.WRONG and one.failed for one in proof.findings)
