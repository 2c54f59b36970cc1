"""Threads: another thread may run but not touch residues, unless it joins."""

import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from shardproof.exact import ExactArithmetic, ExactArithmeticError


def run_in_thread(work):
    """What a thread returns or raises."""
    found = []

    def run():
        try:
            found.append(work())
        except Exception as error:  # noqa: BLE001
            found.append(error)

    thread = threading.Thread(target=run, name="helper")
    thread.start()
    thread.join()
    return found[0]


def test_a_thread_may_run_but_not_touch_residues():
    x = torch.randn(3)
    profile = threading.getprofile()
    with ExactArithmetic(seed=1):
        y = x * 3
        assert torch.equal(run_in_thread(lambda: torch.arange(3) + 1), torch.arange(3) + 1)
        error = run_in_thread(lambda: y.relu())
        assert isinstance(error, ExactArithmeticError)
        assert "helper" in str(error)
        assert "test_threads.py" in str(error)
    assert threading.getprofile() is profile
    assert torch.equal(run_in_thread(lambda: x.relu()), x.relu())


def test_a_thread_may_join_and_then_compute_exactly():
    x = nn.Parameter(torch.randn(3))
    with ExactArithmetic(seed=1, check=True) as exact:

        def join():
            with exact.joined():
                return exact.digits(F.gelu(x * 3).sum())

        assert torch.equal(run_in_thread(join), exact.digits(F.gelu(x * 3).sum()))
        with pytest.raises(ExactArithmeticError, match="inside exact arithmetic"), exact.joined():
            pass
    assert x.dtype == torch.float32


def test_another_thread_cannot_enter_at_the_same_time():
    def enter():
        with ExactArithmetic(seed=2):
            pass

    with ExactArithmetic(seed=1):
        error = run_in_thread(enter)
    assert isinstance(error, ExactArithmeticError)
    assert "one runs at a time" in str(error)
    assert run_in_thread(enter) is None
