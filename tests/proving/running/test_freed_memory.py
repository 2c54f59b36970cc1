"""Freed memory is used again inside, and given back to the system after it."""

import os
import subprocess
import sys
import weakref
from pathlib import Path

import pytest

from shardproof.proving.running import freed_memory

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")

CODE = """
import torch
from pathlib import Path
from shardproof.proving.running.freed_memory import freed_memory_reused

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

# Every other block is freed, so that the C library holds pieces between those that live on.
with freed_memory_reused():
    blocks = [torch.ones(25_000) for _ in range(16_000)]
    before = held()
    del blocks[::2]
    kept = held()
print(before, kept, held())
"""


def test_pieces_of_freed_memory_are_given_back_if_they_are_much():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    before, kept, after = map(int, done.stdout.split())
    assert before > 16e8
    assert kept > 0.9 * before  # else the C library did it by itself
    assert after < 0.7 * before


def test_what_only_holds_itself_is_freed_where_much_is_held(monkeypatch):
    class Held:
        pass

    freed = []
    for much in (1 << 60, 0):
        monkeypatch.setattr(freed_memory, "_MUCH", much)
        one = Held()
        one.itself = one
        weakref.finalize(one, freed.append, much)
        del one
        freed_memory.free_cycles()
    assert freed[-1] == 0
    assert len(freed) == 2  # what was not freed where little is held is freed then


REUSED = """
import resource, sys, threading, torch
from contextlib import nullcontext
from shardproof.proving.running.freed_memory import freed_memory_reused

def take():
    for _ in range(10):
        torch.ones(10_000_000)

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

take()
with freed_memory_reused() if sys.argv[1] == "reused" else nullcontext():
    take()
    before = faults()
    for _ in range(5):
        thread = threading.Thread(target=take)
        thread.start()
        thread.join()
    print(faults() - before)
"""


def count_faults(how, **environment):
    command = [sys.executable, "-c", REUSED, how]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **environment})
    return int(done.stdout)


def test_memory_that_was_freed_is_taken_again_by_another_thread_without_a_page_fault():
    pages = 50 * 10_000_000 * 4 // 4096
    assert count_faults("reused") < 0.4 * pages
    assert count_faults("as usual") > 0.8 * pages
    assert count_faults("reused", MALLOC_TRIM_THRESHOLD_="131072") > 0.8 * pages  # as the user has set it
