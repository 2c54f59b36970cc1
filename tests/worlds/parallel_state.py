"""A module that keeps what a rank is in every way in which Python code does: changed in place and bound anew."""

import functools
import itertools
from collections import Counter, OrderedDict, deque
from types import SimpleNamespace

import numpy as np
import torch

RANK = None
WORK = {}
GROUPS = {"tp": {"rank": None}}
ORDER = OrderedDict(a=1, b=2)
LOG = []
SEEN = set()
QUEUE = deque([0])
COUNTS = Counter()
NAMESPACE = SimpleNamespace(rank=None)
GENERATOR = torch.Generator().manual_seed(5)
BYTES = bytearray(b"....")


class Context:
    """A singleton with state in the class and in the instance."""

    rank = None
    ranks_of = {}

    def __init__(self):
        self.history = []

    def name(self):
        return "original"


class Slotted:
    __slots__ = ("rank", "unset")

    def __init__(self):
        self.rank = None


CONTEXT = Context()
SLOTTED = Slotted()


def counted():
    counted.calls += 1
    return counted.calls


counted.calls = 0


def remember(value, memory=[]):  # noqa: B006 - the idiom is what is tested
    memory.append(value)
    return list(memory)


def make_once():
    value = None

    def once(new):
        nonlocal value
        value = value if value is not None else new
        return value

    return once


once = make_once()


@functools.lru_cache
def cached_rank():
    return torch.distributed.get_rank()


def set_rank(rank):
    """Change everything, for one rank."""
    global RANK  # noqa: PLW0603
    RANK = rank
    GROUPS["tp"]["rank"] = rank
    ORDER.move_to_end("a" if rank % 2 else "b")
    LOG.append(rank)
    SEEN.add(rank)
    QUEUE.appendleft(rank)
    COUNTS[rank] += 1
    NAMESPACE.rank = rank
    BYTES[0] = rank
    Context.rank = rank
    Context.ranks_of[rank] = True
    CONTEXT.history.append(rank)
    SLOTTED.rank = rank
    SLOTTED.unset = rank
    globals()[f"only_on_{rank}"] = rank


def state():
    """What a rank sees."""
    return {
        "RANK": RANK,
        "GROUPS": GROUPS["tp"]["rank"],
        "ORDER": list(ORDER),
        "LOG": list(LOG),
        "SEEN": sorted(SEEN),
        "QUEUE": list(QUEUE),
        "COUNTS": dict(COUNTS),
        "NAMESPACE": NAMESPACE.rank,
        "BYTES": BYTES[0],
        "class": Context.rank,
        "class dict": list(Context.ranks_of),
        "instance": list(CONTEXT.history),
        "slot": (SLOTTED.rank, getattr(SLOTTED, "unset", None)),
        "new name": sorted(name for name in globals() if name.startswith("only_on_")),
    }


# What cannot be taken apart.
NUMBERS = itertools.count()
TABLE = torch.zeros(3)
ARRAY = np.zeros(3)
ITERATOR = iter([1, 2, 3])
STREAM = (number for number in range(10))
INSEPARABLE = {
    "NUMBERS": lambda: next(NUMBERS),
    "TABLE": lambda: TABLE.add_(1),
    "ARRAY": lambda: ARRAY.fill(1),
    "ITERATOR": lambda: next(ITERATOR),
    "STREAM": lambda: next(STREAM),
}
