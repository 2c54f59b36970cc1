"""Proofs made up of a few findings, for the renderers."""

from shardproof.proving.findings import Finding, Native, Numbers, Proof, Rounding, Verdict
from shardproof.proving.records import Key, Phase

ROUNDED = Numbers(exact=False, approximate=True, maxdiff=1e-7, error=2e-7, noise=1e-7, scale=1.0)


def finding(name="w", verdict=Verdict.PROVED, *, phase=Phase.GRADIENT, step=0, **changes):
    return Finding(key=Key(step, phase, name), verdict=verdict, **changes)


def proof(*findings, **changes):
    settings = {"mesh": {"tp": 2}, "data_axes": (), "trials": 2, "primes": (101, 103), "seeds": (0, 1), "probes": "x"}
    return Proof(findings=findings, **(settings | changes))


FLOAT32 = Native(dtype="float32", collectives=3)
NEAR = Rounding(maxdiff=1e-15, noise=1e-15, agrees=True)
