"""Values through `pack` and `unpack`."""

import subprocess
import sys
import threading
import traceback

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


def make_adder(amount):
    class Adder:
        def __call__(self, x):
            return x + amount

    return Adder()


@pytest.mark.parametrize("value", [lambda x: x + 3, make_adder(3)], ids=["lambda", "class in a function"])
def test_what_is_not_at_the_top_of_a_module_travels_by_value(value):
    back = unpack(pack(value))
    assert back is not value
    assert back(4) == 7


def test_what_travels_by_value_keeps_its_lines():
    def fail():
        def inner():
            return [1 / x for x in (1, 0)]

        return inner()

    with pytest.raises(ZeroDivisionError) as caught:
        unpack(pack(fail))()
    lines = [(line.filename, line.line) for line in traceback.extract_tb(caught.tb)[1:3]]
    assert lines == [(__file__, "return inner()"), (__file__, "return [1 / x for x in (1, 0)]")]


@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: lambda: value], ids=["itself", "in a closure"])
def test_what_cannot_travel_is_refused(wrap):
    with pytest.raises(CannotRunError, match=r"cannot send a value .* make it where it is used"):
        pack(wrap(threading.Lock()))


SCRIPT = """
import sys, threading
from shardproof.worlds.spawned import SpawnedWorld
print("runs", file=sys.stderr if __name__ == "__main__" else sys.stdout)
factor = {held}
class Scaled:
    def times(self, rank):
        return rank * factor()
def fn(comm):
    return Scaled().times(comm.rank + 1)
if __name__ == "__main__":
    print(SpawnedWorld(size=2).run(fn))
"""


def run_script(directory, text, how):
    script = directory / "script.py"
    script.write_text(text)
    given = {"file": [str(script)], "command line": ["-c", text], "stdin": ["-"]}[how]
    done = subprocess.run(
        [sys.executable, *given], input=text if how == "stdin" else None, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr.split("\n")[-2] * done.returncode


@pytest.mark.processes
@pytest.mark.parametrize("how", ["file", "command line", "stdin"])
def test_functions_and_classes_of_a_script_travel_by_value(tmp_path, how):
    assert run_script(tmp_path, SCRIPT.format(held="lambda: 5"), how) == "[5, 10]\n"


@pytest.mark.processes
def test_a_script_with_what_has_no_value_to_send_runs_again_in_each_rank(tmp_path):
    text = SCRIPT.format(held="lambda lock=threading.Lock(): 5")
    assert run_script(tmp_path, text, "file") == "[5, 10]\n"
    assert "cannot send a value to another process" in run_script(tmp_path, text, "command line")


@pytest.mark.processes
def test_a_script_that_another_library_has_bound_to_the_name_of_spawned_scripts(tmp_path):
    # As `multiprocess` does when it is imported.
    text = 'import sys\nsys.modules["__mp_main__"] = sys.modules["__main__"]\n' + SCRIPT.format(held="lambda: 5")
    assert run_script(tmp_path, text, "file") == "[5, 10]\n"
