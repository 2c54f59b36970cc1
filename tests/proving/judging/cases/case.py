"""A case of the judge's table: a change to right records, what is said of it, and nearly the same change beside it."""

from dataclasses import dataclass

from tests.proving.judging.made_up import LOSS, TP, judged

from shardproof.proving.cause import Cause
from shardproof.proving.findings import Verdict

NOTHING = "no finding"


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is said of one tensor after a change, and after nearly the same one.

    `roots` are the first causes: the tensor itself if not given and it is not ok.
    """

    change: object
    key: object
    verdict: object
    cause: object = None
    roots: object = None
    twin: object
    twin_key: object = None
    twin_verdict: object = Verdict.PROVED
    twin_cause: object = None
    axes: object = TP
    judge: object = judged


def nothing(_draft):
    """A right sharding."""


def both(*changes):
    def change(draft):
        for one in changes:
            one(draft)

    return change


def change(name, *arguments, **which):
    """A method of the draft, with these arguments."""
    return lambda draft: getattr(draft, name)(*arguments, **which)


def in_runs(chosen, name, *arguments, **settings):
    return lambda draft: getattr(draft, name)(*arguments, runs=chosen(draft), **settings)


def wrong_loss(draft):
    draft.spoil(LOSS)


def assign(**fields):
    def change(draft):
        for name, value in fields.items():
            setattr(draft, name, value)

    return change


def of(kind, **parameters):
    return Cause(kind=kind, **parameters)


def about(kind, **parameters):
    return Cause(kind=kind, approximate=True, **parameters)


def off_by_one_element(tensor_key, ranks=(0, 1)):
    def change(draft):
        def how(values, run, _rank):
            moved = values.clone()
            moved.view(-1)[0] += 1
            return moved

        draft.change(tensor_key, how, ranks=ranks)

    return change
