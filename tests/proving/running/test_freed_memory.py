"""Freed memory is given back to the system."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")

CODE = """
import torch
from pathlib import Path
from shardproof.proving.running.freed_memory import give_back_freed_memory

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

# Every other block is freed, so that the C library holds pieces between those that live on.
blocks = [torch.ones(25_000) for _ in range(16_000)]
before = held()
del blocks[::2]
kept = held()
give_back_freed_memory()
print(before, kept, held())
"""


def test_pieces_of_freed_memory_are_given_back_if_they_are_much():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    before, kept, after = map(int, done.stdout.split())
    assert before > 16e8
    assert kept > 0.9 * before  # else the C library did it by itself
    assert after < 0.7 * before
