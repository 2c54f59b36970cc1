"""Tests run on a mutant, in a process forked from one that has imported PyTorch: half a second instead of three.

The file on disk stays as it is: in the forked process an import of the module gets the mutant's source.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Fate = Literal["killed", "survived", "timed out"]

# Libraries that the tests import, and that don't care which program they serve.
WARM = ("torch", "numpy", "hypothesis", "greenlet", "safetensors", "sympy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tests:
    """Tests of one module.

    Attributes:
        module: its dotted name.
        path: of its file.
        arguments: for pytest.
    """

    module: str
    path: Path
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """The tests on the module as it is: `seconds` that they take, and the end of what they print if they fail."""

    passed: bool
    seconds: float
    printed: str


def run_baseline(tests):
    """Run the tests on the module as it is: once to see which libraries they import, once more for the time."""
    with tempfile.TemporaryDirectory() as folder:
        log, modules = Path(folder, "log"), Path(folder, "modules")
        first = _start(tests, None, log, modules)
        if _wait(first, deadline=None) != "survived":
            return Baseline(passed=False, seconds=0.0, printed=log.read_text()[-2000:])
        for name in json.loads(modules.read_text()):
            if name.partition(".")[0] in WARM:
                importlib.import_module(name)
        started = time.monotonic()
        passed = _wait(_start(tests, None, log), deadline=None) == "survived"
        return Baseline(passed=passed, seconds=time.monotonic() - started, printed=log.read_text()[-2000:])


def run_sources(tests, sources, *, timeout, jobs):
    """Run the tests on each source in place of the module's own, some at a time; yields fates in the sources' order.

    Args:
        tests: to be run, until the first failure.
        sources: of the module, one a mutant.
        timeout: seconds after which a run is ended.
        jobs: runs at a time.
    """
    waiting, running, done = list(enumerate(sources)), {}, {}
    log = Path(os.devnull)
    following = 0
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                number, source = waiting.pop(0)
                running[number] = (_start(tests, source, log), time.monotonic() + timeout)
            for number, (process, deadline) in list(running.items()):
                fate = _look(process, deadline)
                if fate is not None:
                    done[number] = fate
                    del running[number]
            while following in done:
                yield done.pop(following)
                following += 1
            time.sleep(0.01)
    finally:
        for process, _ in running.values():
            _end(process)


def _start(tests, source, log, modules=None):
    """Fork; the child runs the tests and exits with pytest's code. Returns its process id."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    code = 70
    try:
        code = _run_here(tests, source, log, modules)
    finally:
        os._exit(code)


def _run_here(tests, source, log, modules):
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.dont_write_bytecode = True
    import hypothesis
    import pytest

    # The same examples for each mutant, and none of them remembered for the next.
    hypothesis.settings.register_profile("mutation", database=None, derandomize=True)
    hypothesis.settings.load_profile("mutation")
    quiet = [
        "-W",
        "ignore::pytest.PytestAssertRewriteWarning",
    ]  # hypothesis comes before pytest
    arguments = ["-x", "-q", "-n0", "-p", "no:cacheprovider", "--tb=short", *quiet, *tests.arguments]
    code = int(pytest.main(arguments, plugins=[] if source is None else [_Finder(tests, source)]))
    if modules is not None:
        modules.write_text(json.dumps([name for name, module in sys.modules.items() if module is not None]))
    sys.stdout.flush()
    return code


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the mutant instead of the module; a plugin of pytest, whose own finder would otherwise come first."""

    def pytest_configure(self):
        sys.meta_path.insert(0, self)

    def __init__(self, tests, source):
        self._tests, self._source = tests, source

    def find_spec(self, fullname, _path, _target=None):
        if fullname != self._tests.module:
            return None
        path = str(self._tests.path)
        loader = _Loader(fullname, path)
        loader.source = self._source
        return importlib.util.spec_from_file_location(fullname, path, loader=loader)


class _Loader(importlib.machinery.SourceFileLoader):
    source = ""

    def get_code(self, _fullname):
        return compile(self.source, self.path, "exec", dont_inherit=True)


def _wait(process, deadline):
    while True:
        fate = _look(process, deadline)
        if fate is not None:
            return fate
        time.sleep(0.01)


def _look(process, deadline):
    """The fate of a run, or None while it goes on; one past its deadline is ended, with what it has started."""
    ended, status = os.waitpid(process, os.WNOHANG)
    if ended:
        return "survived" if status == 0 else "killed"
    if deadline is not None and time.monotonic() > deadline:
        _end(process)
        return "timed out"
    return None


def _end(process):
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
