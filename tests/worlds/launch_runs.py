"""What torchrun starts in the tests: several functions of `rank_code` in the runs of one launched program."""

import sys

import rank_code

from shardproof.errors import CannotRunError
from shardproof.worlds.launched_runs import launched_runs
from shardproof.worlds.simulated import SimulatedWorld


def lead(runs, name, values):
    """What rank 0 does: twice the same, the second time after one device's part, for which nobody is waited for."""
    if name == "again":  # after a failed run
        try:
            runs.run(rank_code.raise_on, 1)
        except CannotRunError as error:
            print(f"failed: {error}"[:60])
        name = "every_collective"
        values = [3]
    fn = getattr(rank_code, name)
    found = [runs.run(fn, *values), runs.run(fn, *values)]
    expected = SimulatedWorld(size=runs.size).run(fn, *values)
    return all(
        result[key].equal(wanted[key])
        for results in found
        for result, wanted in zip(results, expected, strict=True)
        for key in wanted
    )


def main(name, *args):
    try:
        with launched_runs(timeout=5) as runs:
            if not runs.speaks:
                assert runs.follow() in (True, False)
                return
            equal = lead(runs, name, [int(value) for value in args])
            runs.publish(equal)
    except CannotRunError as error:
        print(f"shardproof: error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"bitwise the simulated world's: {equal}")


main(*sys.argv[1:])
