"""Reduce-scatter among threads: SUM, AVG and PREMUL_SUM, also into a part of the operand; others say so."""

import pytest
import torch
import torch.distributed as dist

from shardproof.errors import CannotRunError
from shardproof.exact import ExactArithmetic
from shardproof.worlds.threaded import ThreadedWorld


def scatter(comm, op, *, inside=False, exact=None):
    """Rank r gives 10 r, 10 r + 1, ...: two elements a rank."""
    operand = torch.arange(2 * comm.size, dtype=torch.float64) + 10 * comm.rank
    if exact is None:
        result = operand.chunk(comm.size)[comm.rank] if inside else torch.empty(2, dtype=torch.float64)
        dist.reduce_scatter_single(result, operand, op=op)
        return result.tolist()
    with exact.joined():
        result = operand.chunk(comm.size)[comm.rank] if inside else torch.empty(2, dtype=torch.float64)
        dist.reduce_scatter_single(result, operand, op=op)
        return exact.digits(result).tolist()


SUMS = [[30, 33], [36, 39], [42, 45]]


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(
    ("op", "factor"),
    [(dist.ReduceOp.SUM, 1), (dist.ReduceOp.AVG, 1 / 3), (dist.ReduceOp.PREMUL_SUM(0.5), 0.5)],
)
def test_the_result_may_lie_inside_the_operand(op, factor, inside):
    ranks = ThreadedWorld(size=3).run(lambda comm: scatter(comm, op, inside=inside))
    torch.testing.assert_close(torch.tensor(ranks), factor * torch.tensor(SUMS, dtype=torch.float32))


def test_in_exact_arithmetic_too():
    exact = ExactArithmetic(seed=1)
    ranks = ThreadedWorld(size=3).run(lambda comm: scatter(comm, dist.ReduceOp.AVG, inside=True, exact=exact))
    assert ranks == [[x // 3 for x in row] for row in SUMS]


def test_another_reduction_says_what_is_simulated():
    with pytest.raises(CannotRunError, match="reduce-scatter by MAX is not simulated; SUM, AVG, PREMUL_SUM are"):
        ThreadedWorld(size=2).run(lambda comm: scatter(comm, dist.ReduceOp.MAX))
