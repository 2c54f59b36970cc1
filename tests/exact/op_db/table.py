"""Every op of the database judged, and the table of them in docs/exact-ops.md."""

import sys
from collections import Counter
from contextlib import contextmanager
from unittest import mock

import torch
from tests.exact.op_db.categories import ORACLES
from tests.exact.op_db.judge import judge
from torch.testing._internal.common_methods_invocations import op_db

from shardproof.exact.engine.dispatch import Dispatcher

HEAD = """# Which ops are exact

Every op of PyTorch's op database (`torch.testing._internal.common_methods_invocations.op_db`, torch {version}) that
takes floating tensors, forward and, where PyTorch has one, backward, judged by `python -m tests.exact.op_db`, which
writes this file; `tests/exact/test_op_db.py` judges them again.

**{exact} of {total} are exact ({share:.0%}), {refused} are refused with an error, {wrong} are wrong or rounded.**
{unsampled} others have no sample with floating tensors and finite numbers.

An op is judged at two primes on samples whose numbers are multiples of 1/16 (as residues as large as any). *rational*:
every element of every result and gradient is the residue of the number that PyTorch's own float64 run gives.
*order*: results and gradients are those of PyTorch's own op on the operands' places in the keyed order.
*oracle*: the op is made of an oracle, so that its digits are not PyTorch's; shapes, dtypes and whole numbers are, the
same numbers in another memory layout give the same digits, the backward is linear, and tests/exact/rules compares the
formulas with Python's integers and fractions.

| op | outcome | how, or why not |
|---|---|---|
"""


def every_verdict(most=3):
    """Of each op of the database that may take float64 tensors; and the ATen ops that exact ones consisted of."""
    verdicts, seen = [], set()
    for op in op_db:
        if torch.float64 in op.dtypes:
            with ops_seen() as here:
                verdicts.append(judge(op, most=most))
            seen |= here if verdicts[-1].outcome == "exact" else set()
    return verdicts, seen


@contextmanager
def ops_seen():
    """Collects the names of the ATen ops that exact arithmetic carries out."""
    found, carry_out = set(), Dispatcher.carry_out

    def noting(self, op, *args, **kwargs):
        found.add(str(op).removeprefix("aten."))
        return carry_out(self, op, *args, **kwargs)

    with mock.patch.object(Dispatcher, "carry_out", noting):
        yield found


def count(verdicts):
    """How many have each outcome."""
    return Counter(v.outcome for v in verdicts)


def share(verdicts):
    """Exact ones among those that could be judged."""
    counts = count(verdicts)
    return counts["exact"] / (counts["exact"] + counts["refused"] + counts["wrong"])


def _why(verdict):
    if verdict.outcome == "exact":
        kind = f": {ORACLES[verdict.name]}" if verdict.how == "oracle" else ""
        return f"{verdict.how}{kind}{', backward too' if verdict.backward else ''}"
    return (
        verdict.how.split(", at ")[0]
        .split(", in module")[0]
        .split(" is used at")[0]
        .split(", first used at")[0]
        .replace("|", "/")[:220]
    )


def render(verdicts):
    """The file's text."""
    judged = sorted((v for v in verdicts if v.outcome), key=lambda v: (v.outcome, v.name))
    counts = count(judged)
    head = HEAD.format(
        version=torch.__version__.split("+")[0],
        exact=counts["exact"],
        refused=counts["refused"],
        wrong=counts["wrong"],
        total=len(judged),
        share=share(judged),
        unsampled=len(verdicts) - len(judged),
    )
    return head + "".join(f"| `{v.name}` | {v.outcome} | {_why(v)} |\n" for v in judged)


def say(verdicts):
    """The share, in a line."""
    counts = count(verdicts)
    line = f"exact {counts['exact']}, refused {counts['refused']}, wrong {counts['wrong']}: {share(verdicts):.1%} exact"
    print(line, file=sys.stderr)
