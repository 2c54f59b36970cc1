"""Heartbeats written through mapped memory, read back from the files."""

import torch

from shardproof.worlds.call import call_all_reduce, call_receive, call_send
from shardproof.worlds.heartbeats import HeartbeatWriter, RankStatus, create_heartbeat_files, read_heartbeats

NONE = {"sent": (0, 0), "received": (0, 0)}


def test_each_stage_of_a_rank_is_read_back(tmp_path):
    create_heartbeat_files(tmp_path, 2)
    writer = HeartbeatWriter(tmp_path, 1)
    assert read_heartbeats(tmp_path, 2) == (RankStatus(entered=0, left=0, call="", **NONE),) * 2

    writer.join()
    joined = read_heartbeats(tmp_path, 2)
    assert joined[1] == RankStatus(entered=1, left=1, call="", **NONE)
    assert joined[0] == RankStatus(entered=0, left=0, call="", **NONE)

    writer.announce(call_all_reduce(torch.ones(2), name="x"))
    (_, inside) = read_heartbeats(tmp_path, 2)
    assert inside == RankStatus(entered=2, left=1, call="all_reduce 'x' (float32 [2])", **NONE)
    assert inside.waits
    writer.announce(None)
    writer.beat()
    assert read_heartbeats(tmp_path, 2)[1] == RankStatus(entered=2, left=2, call="", beats=1, **NONE)
    assert not read_heartbeats(tmp_path, 2)[1].waits


def test_a_name_longer_than_the_file_is_cut(tmp_path):
    create_heartbeat_files(tmp_path, 1)
    writer = HeartbeatWriter(tmp_path, 0)
    writer.join()
    writer.announce(call_all_reduce(torch.ones(2), name="x" * 2000))
    (status,) = read_heartbeats(tmp_path, 1)
    assert status.call.startswith("all_reduce 'xxx")
    assert len((tmp_path / "rank-0").read_bytes()) == 512 + 2 * 8  # and the counts of messages to and from one rank


def test_messages_are_counted_by_rank_and_direction(tmp_path):
    create_heartbeat_files(tmp_path, 2)
    writer = HeartbeatWriter(tmp_path, 1)
    writer.join()
    send = call_send(torch.ones(2), to=0, name="h", rank=1, size=2)
    for call in (send, send, call_receive(torch.ones(2), source=0, name="g", rank=1, size=2)):
        writer.announce(call)
        inside = read_heartbeats(tmp_path, 2)[1]
        assert (inside.waits, inside.peer, inside.sends, inside.call) == (True, 0, call.sends, str(call))
        writer.announce(None)
    after = read_heartbeats(tmp_path, 2)[1]
    assert after == RankStatus(entered=1, left=1, call="", sent=(2, 0), received=(1, 0))
    assert not after.waits
