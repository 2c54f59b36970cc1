"""A made-up proof with evidence: `up` is split by rows, its weight's gradient lacks an all-reduce."""

import torch
from tests.report.proofs import FLOAT32, ROUNDED, finding, proof

from shardproof.proving.cause import Cause, CauseKind, Mend
from shardproof.proving.evidence import Activation, Agreement, Evidence, Sample, ShardMap
from shardproof.proving.findings import Sharding, Verdict
from shardproof.proving.records import CollectiveCall, Key, Phase

MISSING = Cause(kind=CauseKind.MISSING_ALL_REDUCE, axes=("tp",), mend=Mend.ALL_REDUCE_GRADIENT)
ROWS = ShardMap(shape=(4, 3), boxes={0: (((0, 2),), ((0, 3),)), 1: (((2, 4),), ((0, 3),))})
WHOLE = ShardMap(shape=(4, 3), boxes={0: (((0, 4),), ((0, 3),)), 1: (((0, 4),), ((0, 3),))})
WRONG = finding(
    "up.weight", Verdict.WRONG, cause=MISSING, root=True, differing=2, elements=12, ranks=(1,), numbers=ROUNDED,
    source_line="model.py:7 in forward", probed=12,
)  # fmt: skip
NEW = finding("up.weight", Verdict.WRONG, phase=Phase.UPDATE, numbers=ROUNDED)
RIGHT = finding("down.bias", false_accept=1e-9, numbers=ROUNDED)
LOSS = finding("loss", phase=Phase.LOSS, numbers=ROUNDED)


def call(location, kind="AllReduce SUM", shapes=((4, 3),)):
    return CollectiveCall(step=0, location=location, kind=kind, ranks=(0, 1), shapes=shapes, dtype="float32")


def evidence(**changes):
    sample = Sample(
        rank=1, shape=(1, 2), expected=torch.zeros(1, 2), actual=torch.tensor([[0.0, 1.5]]),
        differs=torch.tensor([[False, True]]),
    )  # fmt: skip
    settings = {
        "activations": (
            Activation(key=Key(0, Phase.OUTPUT, "up"), agreement=Agreement.EQUAL, shards=ROWS),
            Activation(key=Key(0, Phase.OUTPUT, "down"), agreement=Agreement.PARTIAL, shards=WHOLE),
            Activation(key=Key(0, Phase.OUTPUT_GRADIENT, "up"), agreement=Agreement.NOT_COMPARED),
        ),
        "parameters": {"up.weight": ROWS},
        "collectives": (call("in down"), call("after output gradient up"), call("after loss loss", shapes=((),))),
        "samples": {WRONG.key: (sample,)},
    }
    return Evidence(**(settings | changes))


def shown(*findings, **changes):
    settings = {"native": FLOAT32, "sharding": Sharding(parameters=2, split=1), "evidence": evidence()}
    return proof(*(findings or (LOSS, WRONG, RIGHT, NEW)), **(settings | changes))
