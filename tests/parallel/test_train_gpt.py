"""The training example under torchrun: the same curve on 1, 2 and 4 ranks; a rank killed, and resumed on any number."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shardproof.parallel.checkpoint import latest_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.processes]

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "train_gpt.py"
SIZES = {"batch": 2, "length": 16, "layers": 1, "width": 16, "heads": 4, "print-every": 1, "save-every": 5}
TINY = ["--dtype", "float64", *(f"--{name}={value}" for name, value in SIZES.items())]

# In float64 two orders of summation differ by some 1e-15 in a loss of 5.5, which training then amplifies. Measured:
# none of the 12 decimals printed over 100 steps of this size, 7e-12 over 200 of the example's own. A learning rate that
# is wrong by a millionth parts the curves by 1e-6.
BOUND = 1e-10


def command(ranks, *arguments):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    return [sys.executable, *launcher, str(SCRIPT), *TINY, *map(str, arguments)]


@pytest.fixture
def text(tmp_path):
    """The sources change while tests run beside an editor; this file does not."""
    (tmp_path / "text.md").write_bytes((ROOT / "README.md").read_bytes())
    return ["--text", tmp_path / "text.md"]


def losses_of(output):
    return {int(step): float(loss) for step, loss in re.findall(r"^step +(\d+)  loss ([\d.]+)$", output, re.MULTILINE)}


def train(ranks, *arguments):
    done = subprocess.run(command(ranks, *arguments), capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    assert f" {ranks} ranks, from step " in done.stdout
    return losses_of(done.stdout)


def distance(one, other):
    assert one.keys() == other.keys()
    return max(abs(one[step] - other[step]) for step in one)


def test_the_curve_is_the_same_on_any_number_of_ranks(text):
    one, two, four = (train(ranks, "--steps", 20, *text) for ranks in (1, 2, 4))
    assert list(one) == list(range(1, 21))
    assert one[20] < one[1] - 0.2  # it learns
    assert max(distance(one, two), distance(one, four)) <= BOUND
    assert distance(one, train(1, "--steps", 20, "--lr", "0.001000001", *text)) > BOUND  # the bound tells


def kill_one_rank(arguments, *, after):
    """Start two ranks, kill the second when step `after` is printed; what was printed, and what torchrun said."""
    launched = subprocess.Popen(command(2, *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    printed = ""
    for line in launched.stdout:
        printed += line
        if line.startswith(f"step {after:5} "):
            ranks = [int(pid) for pid in Path(f"/proc/{launched.pid}/task/{launched.pid}/children").read_text().split()]
            os.kill(ranks[-1], signal.SIGKILL)
            break
    rest, _ = launched.communicate(timeout=100)
    assert len(ranks) == 2
    assert wait_until_gone(ranks)
    return losses_of(printed + rest), launched.returncode


def wait_until_gone(pids):
    for _ in range(100):
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return True
        time.sleep(0.1)
    return False


def test_a_killed_rank_ends_the_run_and_it_resumes_on_any_number_with_the_same_curve(text, tmp_path):
    save = ["--save", tmp_path / "two"]
    before, code = kill_one_rank(["--steps", 100_000, *save, *text], after=12)
    assert code != 0
    done = int(latest_checkpoint(tmp_path / "two").name.removeprefix("step-"))
    assert done >= 10
    assert max(before) >= 12
    until = max(done + 10, *before)
    uninterrupted = train(2, "--steps", until, *text)
    assert {step: uninterrupted[step] for step in before} == before
    expected = {step: uninterrupted[step] for step in range(done + 1, until + 1)}
    for ranks in (1, 4):
        copy = shutil.copytree(tmp_path / "two", tmp_path / str(ranks))
        assert distance(train(ranks, "--steps", until, "--save", copy, "--resume", *text), expected) <= BOUND
    assert train(2, "--steps", until, *save, "--resume", *text) == expected  # digit for digit


def test_what_does_not_go_on_is_refused_in_one_line(text, tmp_path):
    train(1, "--steps", 1, "--save", tmp_path / "saved", *text)
    for arguments, said in [
        (["--resume", "--width", 20], "was saved as"),
        (["--resume", "--seed", 1], "was trained with other text, --seed or --batch"),
        ([], "has checkpoints: --resume, or give another folder"),
    ]:
        again = command(1, "--steps", 2, "--save", tmp_path / "saved", *arguments, *text)
        done = subprocess.run(again, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stdout == ""
        assert re.fullmatch(rf"train_gpt: error: .*{said}.*\n", done.stderr)
