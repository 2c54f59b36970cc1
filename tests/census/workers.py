"""What the processes of a census do in its tests."""

import os
import time

from shardproof.census.results import Outcome, Result


def work(case):
    """Do what the name of the type says."""
    if case.kind == "slow":
        time.sleep(60)
    if case.kind == "dies":
        os._exit(7)
    if case.kind == "large":
        return _fill_memory(case)
    return Result(case=case, outcome=Outcome.PROVED, said=str(os.getpid()))


def _fill_memory(case):
    try:
        held = bytearray(3 << 30)
    except MemoryError:
        return Result(case=case, outcome=Outcome.MEMORY)
    return Result(case=case, outcome=Outcome.PROVED, said=str(len(held)))
