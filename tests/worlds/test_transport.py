"""Values through `pack` and `unpack`."""

import subprocess
import sys

import pytest
import torch
from tests.worlds import rank_code

from shardproof.errors import CannotRunError
from shardproof.worlds.ledger import Entry
from shardproof.worlds.transport import pack, unpack

TENSORS = {
    "matrix": torch.randn(3, 4),
    "transposed": torch.randn(3, 4).T,
    "permuted": torch.randn(2, 3, 4).permute(2, 0, 1),
    "part": torch.randn(4, 6)[1:3, ::2],
    "expanded": torch.randn(3, 1).expand(3, 5),
    "scalar": torch.tensor(2.5, dtype=torch.float64),
    "empty": torch.empty(0, 3),
    "bfloat16": torch.randn(5).bfloat16(),
    "bool": torch.tensor([True, False]),
    "complex": torch.randn(2, 2, dtype=torch.complex64),
    "gradient": torch.randn(2, requires_grad=True),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensor_comes_back_bit_by_bit(name):
    tensor = TENSORS[name]
    back = unpack(pack(tensor))
    assert back.dtype == tensor.dtype
    assert torch.equal(back, tensor)
    assert not back.requires_grad
    if name in {"matrix", "transposed", "permuted"}:
        assert back.stride() == tensor.stride()


def test_a_view_travels_without_the_rest_of_its_storage():
    assert len(pack(torch.zeros(1_000_000)[:10])) < 2_000


def test_containers_values_and_functions_come_back():
    entry = Entry(section="1.1", collective="all_gather", tensor="x", bytes_per_rank=3)
    fn, (back, numbers) = unpack(pack((rank_code.echo, (entry, {"a": [1, 2.5, None]}))))
    assert fn is rank_code.echo
    assert back == entry
    assert numbers == {"a": [1, 2.5, None]}


def test_same_tensor_twice_stays_one():
    tensor = torch.ones(2)
    first, second = unpack(pack([tensor, tensor]))
    assert first is second


@pytest.mark.parametrize("value", [lambda comm: comm.rank, open(__file__)], ids=["closure", "file"])  # noqa: SIM115, PTH123
def test_what_cannot_travel_is_refused(value):
    with pytest.raises(CannotRunError, match="at the top of a module"):
        pack(value)
    if hasattr(value, "close"):
        value.close()


def test_function_of_the_command_line_is_refused():
    code = """
from shardproof.errors import CannotRunError
from shardproof.worlds.transport import pack
def fn(comm): pass
try:
    pack(fn)
except CannotRunError as error:
    print(error)
"""
    for arguments, stdin in ((["-c", code], None), (["-"], code)):
        done = subprocess.run([sys.executable, *arguments], input=stdin, capture_output=True, text=True, check=True)
        assert done.stdout.startswith("fn is defined on the command line or on stdin")
