"""A walkthrough of two steps, made up: no step is taken."""

import torch

from shardproof.byhand.walkthrough import Section, StepReport
from shardproof.comparison import compare
from shardproof.worlds.ledger import Entry, Message

NUMBERS = ("3.1.1", "3.1.2", "3.2.1", "3.2.2", "4.1", "5.1", "5.2", "5.3")


def make_line(name, difference=0.0):
    return compare(torch.tensor([1.0 + difference]), torch.tensor([1.0]), name=name)


def make_report(step=1, *, loss=0.5, differences=None, entries=None, messages=None, sign_flips=0):
    """A report with a line `x<section>` in each section, off by `differences[section]`, and what was communicated."""
    sections = tuple(
        Section(
            number=number,
            comparisons=(make_line(f"x{number}", (differences or {}).get(number, 0.0)),),
            entries=tuple((entries or {}).get(number, ())),
            messages=tuple((messages or {}).get(number, ())),
            sign_flips=sign_flips,
        )
        for number in NUMBERS
    )
    return StepReport(step=step, out=torch.zeros(1, 2), loss=loss, sections=sections)


def make_entry(section, size, collective="all_gather", tensor="h1"):
    return Entry(section=section, collective=collective, tensor=tensor, bytes_per_rank=size)


def make_message(section, size, tensor="h1[0]", source=0, destination=1):
    return Message(section=section, tensor=tensor, source=source, destination=destination, bytes=size)
