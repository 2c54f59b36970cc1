"""Mutates files and runs their tests on each mutant; see docs/testing.md. Needs the extra `mutate`."""

import argparse
import os
import signal
import sys
import time

from tests.mutation.mutants import draw_sample, make_mutants
from tests.mutation.results import Result, read_reasons, read_results, write_page, write_results
from tests.mutation.runs import run_baseline, run_sources
from tests.mutation.targets import PACKAGE, find_test, list_targets, make_tests

WANTED = 0.9


def main():
    """Exit code 0 if at least 90% of each file's mutants that are another program are noticed, 1 if not, 2 if a test
    cannot be run.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("files", nargs="*", metavar="FILE", help="below src/shardproof: exact/algebra/bound.py [all]")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="mutants at a time [one a core]")
    parser.add_argument("--sample", type=int, metavar="N", help="so many mutants of each file, drawn at random [all]")
    arguments = parser.parse_args()
    files = arguments.files or list_targets()
    for file in files:
        if not (PACKAGE / file).is_file():
            parser.error(f"src/shardproof/{file} is not there")
        if not find_test(file).is_file():
            parser.error(f"{file} has no test of its own; write {find_test(file)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what runs is ended too
    share = 1.0
    for file in files:
        result = run_file(file, jobs=arguments.jobs, sample=arguments.sample)
        if result is None:
            return 2
        share = min(share, result.share(read_reasons().get(file, {})))
        write_results({**read_results(), file: result})
        write_page(read_results(), read_reasons())
    return int(share < WANTED)


def run_file(file, *, jobs, sample=None):
    """Run the tests of one file on its mutants; None where they do not pass on the file as it is."""
    tests = make_tests(file)
    baseline = run_baseline(tests)
    if not baseline.passed:
        print(f"{file}: its tests do not pass as it is\n{baseline.printed}")
        return None
    every = make_mutants(tests.path.read_text())
    mutants = draw_sample(every, sample, seed=file)
    print(f"{file}: {len(mutants)} of {len(every)} mutants, {baseline.seconds:.1f} s for its tests", flush=True)
    started = time.monotonic()
    fates = {"killed": 0, "timed out": 0, "survived": 0}
    survivors = []
    sources = [mutant.source for mutant in mutants]
    timeout = 5 * baseline.seconds + 10
    for mutant, fate in zip(mutants, run_sources(tests, sources, timeout=timeout, jobs=jobs), strict=True):
        fates[fate] += 1
        if fate == "survived":
            survivors.append(mutant.change)
            print(f"  survived: line {mutant.line}: {mutant.change}", flush=True)
    seconds = time.monotonic() - started
    told = ", ".join(f"{count} {fate}" for fate, count in fates.items())
    print(f"{file}: {told}; {seconds:.0f} s, {seconds / max(1, len(mutants)):.2f} s a mutant", flush=True)
    return Result(
        mutants=len(every),
        killed=fates["killed"],
        timed_out=fates["timed out"],
        survivors=tuple(survivors),
        seconds=round(seconds),
    )


if __name__ == "__main__":
    sys.exit(main())
