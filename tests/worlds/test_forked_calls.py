"""Calls in forked processes: their results in order, their errors in one line, and nothing left running."""

import os
import signal
import sys
import threading
import time

import pytest
import torch

from shardproof.errors import CannotRunError
from shardproof.worlds.forked_calls import call_side_by_side

pytestmark = pytest.mark.processes


def scale(tensor, factor):
    return os.getpid(), torch.get_num_threads(), tensor * factor


def test_results_come_in_order_from_processes_of_their_own():
    found = call_side_by_side(scale, [(torch.arange(3), 2), (torch.ones(1), 3)], purpose="numbers")
    assert [values.tolist() for _, _, values in found] == [[0, 2, 4], [3]]
    assert len({pid for pid, _, _ in found} | {os.getpid()}) == 3
    assert {threads for _, threads, _ in found} == {1}


def meet(folder, name, other):
    (folder / name).touch()
    until = time.monotonic() + 60
    while not (folder / other).exists():
        assert time.monotonic() < until
        time.sleep(0.01)
    return name


def test_they_run_at_the_same_time(tmp_path):
    assert call_side_by_side(meet, [(tmp_path, "a", "b"), (tmp_path, "b", "a")], purpose="meeting") == ["a", "b"]


def fail(folder, how):
    (folder / f"{os.getpid()}").touch()
    if how == "raise":
        raise OverflowError("more than it can hold")
    if how == "refuse":
        raise CannotRunError("give fewer")
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exit":
        os._exit(3)
    time.sleep(600)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("raise", "OverflowError: more than it can hold ("),
        ("refuse", "give fewer"),
        ("kill", "a process for trials was ended by SIGKILL: it may have had too little memory"),
        ("exit", "a process for trials ended with exit code 3 before it had a result"),
    ],
)
def test_an_error_ends_the_others(how, said, tmp_path):
    with pytest.raises(CannotRunError) as caught:
        call_side_by_side(fail, [(tmp_path, "wait"), (tmp_path, how)], purpose="trials")
    assert str(caught.value).startswith(said)
    if how == "raise":
        assert any("in fail" in note for note in caught.value.__notes__)
    for file in tmp_path.iterdir():
        with pytest.raises(ProcessLookupError):
            os.kill(int(file.name), 0)


def test_what_cannot_travel_starts_nothing():
    lock = threading.Lock()
    with pytest.raises(CannotRunError, match="cannot send a value"):
        call_side_by_side(lambda: lock, [(), ()], purpose="nothing")


def say(text):
    print(text)
    print(text, file=sys.stderr)


def test_what_they_print_is_printed_here(capfd):
    call_side_by_side(say, [("hello",)], purpose="words")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("hello\n", "hello\n")
