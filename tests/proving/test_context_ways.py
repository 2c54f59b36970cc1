"""Sequences split over ranks in every way: right ones are proved, simulated and on processes; reported bugs found."""

import pytest
from benchmarks.mutants.models.context import LENGTH, Context, ContextLines, Sizes, zigzag
from benchmarks.mutants.models.context_attention import Mask
from benchmarks.mutants.models.context_ways import WAYS, AttentionLines, exchange_functionally, exchange_lists
from tests.proving.planted_bugs import ON_PROCESSES, bugs_numbered, require_killed, require_same_on_processes

from shardproof.proving.prove import prove
from shardproof.report.text import render_text

BUGS = bugs_numbered(194, *range(164, 182))
WHOLE, WINDOW = Sizes(places=LENGTH), Sizes(mask=Mask(window=5))
LISTS = ContextLines(attention=AttentionLines(by=exchange_lists))
FUNCTIONAL = ContextLines(attention=AttentionLines(exchange=exchange_functionally))
OTHERS = {
    "Ulysses, functional": (Context(way="Ulysses", lines=FUNCTIONAL), {"cp": 2}),
    "Ulysses, lists": (Context(way="Ulysses", lines=LISTS), {"cp": 2}),
    "Ulysses, fewer keys than ranks": (Context(way="Ulysses", sizes=Sizes(kv_heads=2)), {"cp": 4}),
    "gathered keys, head and tail": (Context(way="gathered keys", order=zigzag), {"cp": 2}),
    "ring, head and tail": (Context(way="ring", order=zigzag, sizes=WHOLE), {"cp": 4}),
    "ring, sinks and windows": (Context(way="ring", sizes=Sizes(sinks=True, mask=Mask(window=5))), {"cp": 2}),
    "Ulysses, sinks": (Context(way="Ulysses", sizes=Sizes(sinks=True)), {"cp": 2}),
    "gathered keys, the first tokens in every window": (
        Context(way="gathered keys", sizes=Sizes(places=LENGTH, mask=Mask(window=3, first=2))),
        {"cp": 2},
    ),
    "gathered keys, padding": (Context(way="gathered keys", padded=True), {"cp": 2}),
    "blocks in order, padding": (Context(way="blocks in order", padded=True), {"cp": 2}),
    "Ulysses, columns and rows": (Context(way="Ulysses"), {"cp": 2, "tp": 2}),
    "ring, columns and rows": (Context(way="ring"), {"cp": 2, "tp": 2}),
    "gathered keys, rows": (Context(way="gathered keys", rows=4), {"dp": 2, "cp": 2}),
    "ring, FSDP2 over both": (Context(way="ring", rows=4, sizes=WHOLE, sharded=True), {"dp": 2, "cp": 2}),
}


def run(context, mesh, **settings):
    return prove(context.make_step(), candidate=context.train, mesh=mesh, trials=1, **settings)


@pytest.mark.parametrize(("ranks", "spawn"), [(2, False), (4, False), (2, ON_PROCESSES)])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_is_proved_with_documents_over_the_edges_of_shards(way, ranks, spawn):
    proof = run(Context(way=way, sizes=WINDOW if way == "neighbour's keys" else Sizes()), {"cp": ranks}, spawn=spawn)
    assert proof.ok, render_text(proof)
    assert {one.key.name for one in proof.findings} >= {"embed.weight", "layers.0.attention.k.weight", "head.weight"}


@pytest.mark.parametrize("spawn", [False, ON_PROCESSES])
@pytest.mark.parametrize("name", OTHERS)
def test_masks_orders_and_meshes_are_proved(name, spawn):
    proof = run(*OTHERS[name], spawn=spawn)
    assert proof.ok, render_text(proof)


@pytest.mark.parametrize("name", BUGS)
def test_a_bug_of_split_sequences_is_killed_at_its_place_and_for_its_reason(name):
    require_killed(BUGS[name])


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("name", ["M164", "M168", "M170", "M173", "M177", "M181"])
def test_processes_say_the_same_of_a_bug(name):
    require_same_on_processes(BUGS[name])
