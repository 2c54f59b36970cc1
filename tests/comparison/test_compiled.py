"""The compiled kernel does the work when it can, and says so when it cannot; what both kernels import and hold."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from shardproof.comparison import compare, compiled, pair

no_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ["c++", "g++", "clang++"])), reason="no C++ compiler on this machine"
)


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@no_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_compiled_kernel_is_what_answers(dtype, monkeypatch):
    def refuse(*_):
        raise AssertionError

    monkeypatch.setattr(pair, "stream", refuse)
    assert not compare(torch.ones(9, dtype=dtype), torch.zeros(9, dtype=dtype), kernel="compiled").exact
    with pytest.raises(AssertionError):
        compare(torch.ones(9, dtype=dtype), torch.zeros(9, dtype=dtype))


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.ones(8, 8).t(),
        lambda: torch.ones(8, dtype=torch.float16),
        lambda: torch.ones(8, dtype=torch.int32),
    ],
    ids=["transposed", "float16", "int32"],
)
def test_other_tensors_go_to_the_eager_kernel_without_a_warning(make):
    assert compare(make(), make(), kernel="compiled").exact


@pytest.mark.parametrize("failing", [False, True])
def test_without_a_working_compiler_it_warns_and_the_eager_kernel_answers(monkeypatch, tmp_path, failing):
    if failing:
        broken = tmp_path / "c++"
        broken.write_text("#!/bin/sh\necho out of order >&2\nexit 1\n")
        broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    compiled._build.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="out of order" if failing else "no C\\+\\+ compiler"):
            found = compare(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]), kernel="compiled")
    finally:
        compiled._build.cache_clear()
    assert (found.maxdiff, found.worst.index) == (2.0, (1,))


@no_compiler
def test_ranges_of_several_threads_are_put_together_in_order(monkeypatch):
    monkeypatch.setattr(compiled, "_RANGE_ELEMENTS", 100)
    expected = torch.randn(12345)
    actual = expected.clone()
    actual[[50, 7000, 12000]] += 8
    actual[9999] = float("inf")
    expected[[1, 11111]] = float("nan")
    found = compare(actual, expected, equal_nan=True, kernel="compiled")
    assert (found.worst.index, found.nan_expected, found.inf_actual) == ((1,), 2, 1)
    assert repr(found) == repr(compare(actual, expected, equal_nan=True))
    actual[[1, 11111]] = float("nan")
    found = compare(actual, expected, equal_nan=True, kernel="compiled")
    assert (found.worst.index, found.nan_actual) == ((9999,), 2)
    assert found == compare(actual, expected, equal_nan=True)


def test_importing_it_loads_no_compiler_stack():
    code = (
        "import sys, torch; before = set(sys.modules); import shardproof.comparison; print(*set(sys.modules) - before)"
    )
    new = run_python(code).split()
    assert new
    assert all(name.startswith("shardproof") for name in new)


# VmHWM and not ru_maxrss, which a process inherits from the one that started it.
PEAK = """
import torch
from shardproof.comparison import compare
kernel, layout, dtype = {kernel!r}, {layout!r}, torch.{dtype}
torch.set_num_threads(2)
def read_kib(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key))
def make(fill):
    if layout == "transposed":
        return torch.full((5_000, 5_000), fill, dtype=dtype).t()
    if layout == "sliced":
        return torch.full((25_000_000, 2), fill, dtype=dtype)[:, 0]
    return torch.full((25_000_000,), fill, dtype=dtype)
a, e = make(1), make(1)
a[1:2] = 2
compare(torch.ones(9, dtype=dtype), torch.ones(9, dtype=dtype), kernel=kernel)
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
before = read_kib("VmRSS")
assert not compare(a, e, kernel=kernel).exact
{plant}
print(read_kib("VmHWM") - before)
"""
needs_proc = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from /proc")


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize("dtype", ["float32", "int16", "complex64"])
@pytest.mark.parametrize("layout", ["plain", "transposed", "sliced"])
def test_extra_memory_stays_below_64_mib(layout, dtype):
    assert int(run_python(PEAK.format(kernel="eager", layout=layout, dtype=dtype, plant=""))) < 64 * 1024


@pytest.mark.slow
@needs_proc
@no_compiler
def test_extra_memory_of_the_compiled_kernel_stays_below_64_mib():
    assert int(run_python(PEAK.format(kernel="compiled", layout="plain", dtype="float32", plant=""))) < 64 * 1024


@pytest.mark.slow
@needs_proc
def test_a_full_size_temporary_would_show():
    code = PEAK.format(kernel="eager", layout="plain", dtype="float32", plant="(a - e).max()")
    assert int(run_python(code)) > 90 * 1024
