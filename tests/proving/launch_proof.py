"""What torchrun starts in the tests: a proof whose ranks are the launched processes, beside the simulated one."""

import sys

import steps

import shardproof as sp
from shardproof.errors import CannotRunError
from shardproof.worlds.launched import LaunchedWorld


def main(name, *options):
    settings = {"parallelize": getattr(steps, name, None), "trials": 2}
    step = steps.step
    if name == "training":
        settings = {"candidate": steps.make_training(forget=options), "trials": 2}
        step = steps.make_step_of_four_rows()
    try:
        proof = sp.prove(step, launched=True, timeout=10, **settings)
    except CannotRunError as error:
        print(f"shardproof: error: {error}", file=sys.stderr)
        sys.exit(2)
    world = LaunchedWorld()
    if world.speaks:
        print(f"{'PROVED' if proof.ok else 'WRONG'}, as simulated: {proof == sp.prove(step, devices=2, **settings)}")
    sys.exit(0 if proof.ok else 1)


main(*sys.argv[1:])
