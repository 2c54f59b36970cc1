"""Traffic adds up in the order of the calls, and is counted as the transport carries it out."""

from collections import Counter
from dataclasses import replace

import pytest
from tests.parallel.ranks import alone

from shardproof.parallel.traffic import Traffic, count_calls


def test_a_second_layers_backward_comes_first():
    first = Traffic(forward=("all_gather",), backward=("reduce_scatter",))
    second = Traffic(forward=("all_reduce",), backward=("all_gather",))
    both = first + second
    assert both.forward == ("all_gather", "all_reduce")
    assert both.backward == ("all_gather", "reduce_scatter")


ALL = ("all_gather", "reduce_scatter", "all_reduce", "all_reduce_max", "all_to_all")


@pytest.mark.parametrize(
    ("size", "by_exchange", "calls"),
    [
        (1, True, {}),
        (2, True, {"alltoall_base_": 4, "allreduce_": 1}),
        (4, True, {"alltoall_base_": 5, "allreduce_": 1}),
        (4, False, {"_allgather_base_": 1, "_reduce_scatter_base_": 1, "allreduce_": 2, "alltoall_base_": 1}),
    ],
)
def test_calls_are_those_of_the_transport(size, by_exchange, calls):
    with alone(size) as axis:
        assert count_calls(ALL, replace(axis, by_exchange=by_exchange)) == Counter(calls)
