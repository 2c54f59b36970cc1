"""Memory does not grow with the checkpoints, whether they are equal, or what happened is looked for."""

import pytest
import torch
from benchmarks.measure import peak_extra_mib
from safetensors.torch import save_file
from tests.checkpoints.saving import save_ranks

MIB = 1 << 20
TENSOR_MIB, ALLOWED_MIB = 64, 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Checkpoints of one tensor that is split on each dim, much larger than what may be used."""
    folder = tmp_path_factory.mktemp("large")
    rows = torch.randn(TENSOR_MIB * MIB // 4 // 1024, 1024)
    sides = {"a": rows, "equal": rows, "moved": rows.roll(rows.shape[0] // 2, 0), "scaled": rows * 2}
    for ranks, (side, tensor) in zip((2, 4, 4, 4), sides.items(), strict=True):
        save_ranks(folder / side, {"up.weight": tensor, "down.weight": tensor}, ranks)
    save_file({"up.weight": rows, "down.weight": rows.clone()}, folder / "whole")
    return folder


def measure(folder, actual, expected, code="pass"):
    prepare = (
        "import torch; from pathlib import Path; from shardproof.checkpoints import compare_paths\n"
        "from shardproof.checkpoints.values import compare\n"
        "compare({'w': torch.randn(99, 9)}, {'w': torch.randn(99, 9)})"
    )
    run = f"compared = compare_paths(Path({str(folder / actual)!r}), Path({str(folder / expected)!r})); {code}"
    return peak_extra_mib(prepare, run)


@pytest.mark.slow
@pytest.mark.parametrize("actual", ["equal", "moved", "scaled", "whole"])
def test_it_is_bounded(folder, actual):
    failed = 0 if actual in ("equal", "whole") else 2
    assert measure(folder, actual, "a", f"assert compared.counts['failed'] == {failed}") < ALLOWED_MIB


@pytest.mark.slow
def test_a_comparison_that_holds_a_tensor_is_noticed(folder):
    held = f"from safetensors.torch import load_file; held = load_file({str(folder / 'whole')!r})['up.weight'].clone()"
    assert measure(folder, "equal", "a", held) > TENSOR_MIB
