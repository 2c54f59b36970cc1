"""Results of functional collectives, which are written by a wait inside an op, are residues and no known numbers."""

import pytest
import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional

from shardproof import ExactArithmetic
from shardproof.worlds.threaded import ThreadedWorld

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

# Each gives rank `rank` of two something of what the two ranks hold, and what it should be of the whole.
COLLECTIVES = {
    "all-gather": (lambda own, group: functional.all_gather_single(own, 0, group), lambda x, _rank: x),
    "all-gather along columns": (
        lambda own, group: functional.all_gather_single(own, 1, group),
        lambda x, _rank: torch.cat((x[:2], x[2:]), 1),
    ),
    "all-reduce": (lambda own, group: functional.all_reduce(own, "sum", group), lambda x, _rank: x[:2] + x[2:]),
    "reduce-scatter": (
        lambda own, group: functional.reduce_scatter_single(own, "sum", 0, group),
        lambda x, rank: (x[:2] + x[2:])[rank : rank + 1],
    ),
    "all-to-all": (
        lambda own, group: functional.all_to_all_single(own, None, None, group),
        lambda x, rank: x[[rank, 2 + rank]],
    ),
    "broadcast": (lambda own, group: functional.broadcast(own, 1, group), lambda x, _rank: x[2:]),
}


def functions_of(x):
    """Numbers from outside are known, which relu goes by; residues are not what numbers are to tanh and sigmoid."""
    return torch.tanh(x / 30) + torch.relu(x) * torch.sigmoid(x)


def variables(exact):
    """X itself, and residues drawn for it."""
    return X.clone() * 1, exact.redraw(X.clone(), "x")


@pytest.mark.parametrize("known", [True, False], ids=["known", "variable"])
@pytest.mark.parametrize("name", COLLECTIVES)
def test_what_is_computed_of_a_result_is_what_one_device_computes(name, known):
    call, expected = COLLECTIVES[name]

    def run(comm):
        with exact.joined():
            own = variables(exact)[not known][2 * comm.rank : 2 * comm.rank + 2] * 1
            return exact.digits(functions_of(call(own, dist.group.WORLD)))

    exact = ExactArithmetic(seed=3)
    found = ThreadedWorld(size=2).run(run)
    with ExactArithmetic(seed=3) as alone:
        whole = variables(alone)[not known]
        for rank in range(2):
            assert torch.equal(found[rank], alone.digits(functions_of(expected(whole, rank))))
            assert not torch.equal(found[rank], alone.digits(functions_of(expected(whole * 2, rank))))
