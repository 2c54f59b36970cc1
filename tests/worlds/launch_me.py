"""What torchrun starts in the tests: per-rank code in a launched world, as a command would run it."""

import sys
import warnings

import message_code
import rank_code

from shardproof.errors import CannotRunError
from shardproof.worlds.make import make_world
from shardproof.worlds.simulated import SimulatedWorld


def main(name, *args):
    warnings.simplefilter("error")
    module = rank_code if hasattr(rank_code, name) else message_code
    fn, values = getattr(module, name), [int(value) for value in args]
    world = make_world("launched", timeout=5)
    try:
        results = world.run(fn, *values)
    except CannotRunError as error:
        print(f"shardproof: error: {error}", file=sys.stderr)
        sys.exit(2)
    if not world.speaks:
        assert results == []
        return
    expected = SimulatedWorld(size=world.size).run(fn, *values)
    equal = all(
        actual.keys() == wanted.keys() and all(actual[key].equal(wanted[key]) for key in wanted)
        for actual, wanted in zip(results, expected, strict=True)
    )
    print(f"{len(results)} ranks, bitwise the simulated world's: {equal}")


main(*sys.argv[1:])
