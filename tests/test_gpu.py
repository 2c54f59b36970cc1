"""`make bench-gpu` without a GPU: what it says, its code path with the device passed through, and ops that CUDA has."""

from functools import cache
from pathlib import Path

import pytest
import torch
import torchgen
import yaml
from benchmarks import gpu
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from shardproof.exact import ExactArithmetic

CPU = torch.device("cpu")
SMALL = gpu.Sizes(hidden=8, batch=4, small=8, rounds=1)
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "matmul", "mv", "addmv", "dot", "linear", "addbmm"}


def test_without_a_device_it_says_so_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main() == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "bench-gpu: no CUDA device is at hand; nothing was measured\n"


def test_a_device_is_passed_through_and_its_digits_are_the_cpus(capsys):
    assert gpu.measure(CPU, SMALL) == 0
    out = capsys.readouterr().out
    assert out.startswith("device: cpu; torch ")
    assert "exact: MLP 8-32-8, gelu, SGD" in out
    assert "layers: the same MLP, float32, one rank" in out
    assert out.endswith("digits that are not the CPU's: none\n")


def test_digits_that_differ_are_named_and_are_exit_code_1(monkeypatch, capsys):
    real = gpu.take_exact_step

    def off_by_one(device, sizes, mesh=None):
        found = real(device, sizes, mesh)
        if mesh is not None:
            found["gradient of up.weight"][0, 0] += 1
        return found

    monkeypatch.setattr(gpu, "take_exact_step", off_by_one)
    assert gpu.measure(CPU, SMALL) == 1
    assert capsys.readouterr().out.endswith("digits that are not the CPU's: gradient of up.weight\n")


def test_a_tensor_that_one_side_lacks_differs():
    digits = {"a": torch.ones(2), "b": torch.ones(2)}
    assert gpu.compare_digits(digits, digits) == []
    assert gpu.compare_digits({"a": digits["a"]}, digits) == ["b"]
    assert gpu.compare_digits(digits, {"a": digits["a"]}) == ["b"]


class Recorder(TorchDispatchMode):
    """Every op below exact arithmetic, with the dtypes of its tensors."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "aten":
            dtypes = {x.dtype for x in args if isinstance(x, torch.Tensor)}
            self.seen.setdefault(func.name().removeprefix("aten::"), set()).update(dtypes)
        return func(*args, **(kwargs or {}))


def take_steps():
    """A transformer block with AdamW and clipping; a convolution with pooling, and a top-k."""
    gpu.take_exact_step(CPU, SMALL)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Softplus())
    x, net = torch.randn(2, 2, 6, 6, dtype=torch.float64), net.double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    with ExactArithmetic(seed=1):
        out = net(x).topk(3, -1).values
        (out.sigmoid() * out.tanh() / out.square().sum().sqrt()).cumsum(-1).sum().backward()
        optimizer.step()


@cache
def functions_of_torch():
    path = Path(torchgen.__file__).parent / "packaged" / "ATen" / "native" / "native_functions.yaml"
    return {entry["func"].split("(")[0]: entry for entry in yaml.safe_load(path.read_text())}


def has_cuda_kernel(name):
    """Whether PyTorch has a kernel of an op for CUDA, or composes it of others, by its own table of functions."""
    entry = functions_of_torch()[name]
    if "structured_delegate" in entry:
        return has_cuda_kernel(entry["structured_delegate"])
    keys = ",".join(entry.get("dispatch", {"CompositeImplicitAutograd": ""}))
    return "CUDA" in keys or "Composite" in keys


def integer_products(seen):
    floating = {torch.float64, torch.float32}
    return {name for name, dtypes in seen.items() if name.split(".")[0].rstrip("_") in PRODUCTS and dtypes - floating}


def test_exact_arithmetic_uses_no_op_that_cuda_lacks():
    with Recorder() as recorder:
        take_steps()
    assert len(recorder.seen) > 90
    assert {"matmul", "index_select", "embedding_dense_backward"} <= recorder.seen.keys()
    lacking = {name for name in recorder.seen if not has_cuda_kernel(name)}
    assert lacking == set()
    assert integer_products(recorder.seen) == set()  # CUDA has none: residues are multiplied in float64


def test_an_op_that_cuda_lacks_and_a_product_of_integers_are_found():
    with Recorder() as recorder:
        torch.ones(2, 2, dtype=torch.int64) @ torch.ones(2, 2, dtype=torch.int64)
        torch.histogram(torch.ones(3), 2)
    assert not has_cuda_kernel("histogram.bin_ct")
    assert has_cuda_kernel("mm")
    assert has_cuda_kernel("sort.stable")
    assert integer_products(recorder.seen) == {"mm"}


@pytest.mark.parametrize("device", [CPU, torch.device("meta")])
def test_names_of_devices(device):
    assert gpu.describe_device(device) == device.type
