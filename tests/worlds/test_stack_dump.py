"""Where a process stands, from what the interpreter writes of it."""

import subprocess
import sys

from shardproof.worlds.stack_dump import ask_for_stack, find_position

STACKS = """\
Thread 0x1 (most recent call first):
  File "/lib/python3/threading.py", line 5 in wait

Current thread 0x2 (most recent call first):
  File "/venv/torch/distributed/c10d.py", line 70 in all_reduce
  File "/home/me/layers.py", line 12 in forward
  File "/home/me/main.py", line 3 in <module>
"""


def test_the_innermost_frame_and_the_users_own():
    assert find_position(STACKS) == "all_reduce at layers.py:12"


def test_what_is_no_stack_has_no_place():
    assert find_position("Segmentation fault\n") == ""


def test_a_process_says_where_it_sleeps_and_goes_on(tmp_path):
    script = tmp_path / "sleeper.py"
    script.write_text(
        "import sys\nfrom shardproof.worlds.stack_dump import dump_stack_when_signalled\n"
        "def rest():\n    print(1, flush=True); sys.stdin.read(1)\ndump_stack_when_signalled()\nrest()\n"
    )
    log = tmp_path / "log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr
        )
    with process:
        process.stdout.readline()
        assert ask_for_stack(process.pid, log) == "rest at sleeper.py:4"
        process.communicate(b".")
    assert process.returncode == 0
