"""Collectives: their names, and the bytes that at least pass through a rank."""

import pytest
from tests.report.page.shown import call

from shardproof.report.page.traffic import count_bytes, merge_traffic, name_family, say_bytes


@pytest.mark.parametrize(
    ("kind", "family"),
    [("AllReduce SUM", "all-reduce"), ("all_gather_into_tensor", "all-gather"),
     ("_reduce_scatter_base_", "reduce-scatter"),
     ("AllToAllBase", "all-to-all"), ("recv_", "receive"), ("Frobnicate", "Frobnicate")],
)  # fmt: skip
def test_a_collective_has_the_name_of_the_field(kind, family):
    assert name_family(kind) == family


@pytest.mark.parametrize(
    ("kind", "shapes", "elements"),
    [
        ("AllReduce SUM", ((12,),), 12),  # 2 (N-1)/N
        ("AllGather", ((6,), (6,), (6,)), 6),  # two results, one operand: the other rank's part
        ("all_gather_into_tensor", ((6,),), 6),
        ("ReduceScatter SUM", ((6,), (6,), (6,)), 6),
        ("reduce_scatter_tensor sum", ((12,),), 6),
        ("AllToAll", ((6,), (6,)), 3),
        ("Send", ((5,),), 5),
    ],
)
def test_bytes_are_those_of_a_ring(kind, shapes, elements):
    assert count_bytes(call("in up", kind, shapes)) == elements * 4


def test_bytes_have_units():
    assert [say_bytes(n) for n in (0, 999, 2304, 1.5e9)] == ["0 B", "999 B", "2.3 kB", "1.5 GB"]


def test_calls_of_one_kind_are_told_together():
    first, other = merge_traffic([call("in up"), call("in up"), call("in up", "AllGather", ((6,),) * 3)])
    assert (first.kind, first.count, first.size) == ("all-reduce", 2, "96 B")
    assert (other.kind, other.count) == ("all-gather", 1)
