"""A request says which runs to take; each seed has an exact arithmetic of its own."""

from tests.proving import steps

from shardproof.proving.records import Phase, Precision
from shardproof.proving.running.request import RunContext, RunRequest
from shardproof.worlds.transport import pack, unpack

REQUEST = RunRequest(
    mesh={"dp": 2, "tp": 3},
    data_axes=("dp",),
    seeds=(3, 4),
    native=(Precision.OWN,),
    cuts=frozenset({(Phase.OUTPUT, "up", 0)}),
)


def test_the_mesh_as_numbers():
    assert REQUEST.size == 6
    assert (REQUEST.axes.sizes, REQUEST.axes.data, REQUEST.axes.shares) == ({"dp": 2, "tp": 3}, ("dp",), 2)


def test_an_arithmetic_for_each_seed():
    first, second = REQUEST.make_arithmetics()
    again, _ = REQUEST.make_arithmetics()
    assert first is not again
    assert first.prime == again.prime
    assert first.prime != second.prime


def test_a_request_travels_to_another_process():
    assert unpack(pack(REQUEST)) == REQUEST


def test_a_recorder_beats_as_its_context_does():
    beats = []
    context = RunContext(
        step=steps.make_step(), request=REQUEST, heartbeat=lambda: beats.append("beat"), arithmetics=[]
    )
    recorder = context.make_recorder()
    assert recorder.exact is None
    recorder.heartbeat()
    assert beats == ["beat"]
