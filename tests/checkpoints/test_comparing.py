"""Checkpoints of one model saved by different ranks are equal; what is not equal is not."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.checkpoints.saving import make_model, save_grid, save_indexed, save_one, save_ranks, take_rank

from shardproof.checkpoints import Settings, compare_paths

MODEL = make_model()
SAVERS = {
    "one file": lambda path, model: save_one(path.with_suffix(".safetensors"), model),
    "index": save_indexed,
    "2 ranks": lambda path, model: save_ranks(path, model, 2),
    "4 ranks": lambda path, model: save_ranks(path, model, 4),
    "2 x 2": lambda path, model: save_grid(path, model, 2, 2),
    "4 x 2, the model's numbers": lambda path, model: save_grid(path, model, 4, 2, local=False),
    "1 x 4": lambda path, model: save_grid(path, model, 1, 4),
}


@pytest.mark.parametrize("actual", SAVERS)
@pytest.mark.parametrize("expected", SAVERS)
def test_one_model_is_equal_however_it_is_saved(tmp_path, actual, expected):
    a, e = SAVERS[actual](tmp_path / "a", MODEL), SAVERS[expected](tmp_path / "e", MODEL)
    compared = compare_paths(a, e)
    assert {row.name for row in compared.rows} == set(MODEL)
    assert [(row.name, row.told) for row in compared.rows if row.status != "passed"] == []
    assert all(row.comparison.outcome == "exact" for row in compared.rows)
    assert compared.equal


@pytest.mark.parametrize("name", MODEL)
@pytest.mark.parametrize("saver", SAVERS)
def test_one_element_that_differs_is_found_in_every_tensor(tmp_path, saver, name):
    other = MODEL | {name: MODEL[name].clone()}
    other[name].view(-1)[-1] += 1
    a, e = SAVERS[saver](tmp_path / "a", other), SAVERS["2 ranks"](tmp_path / "e", MODEL)
    compared = compare_paths(a, e)
    assert [row.name for row in compared.rows if row.status != "passed"] == [name]
    assert not compared.equal


def test_the_worst_element_is_told_by_its_index_in_the_full_tensor(tmp_path):
    other = MODEL | {"layers.2.down.weight": MODEL["layers.2.down.weight"].clone()}
    other["layers.2.down.weight"][5, 17] += 3
    compared = compare_paths(save_ranks(tmp_path / "a", other, 2), save_ranks(tmp_path / "e", MODEL, 4))
    (row,) = [row for row in compared.rows if row.status == "failed"]
    assert row.comparison.worst.index == (5, 17)
    assert row.layouts == ("split on dim 1 by 2 ranks", "split on dim 1 by 4 ranks")


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("last", [1, 3])
def test_replicas_that_differ_are_found_on_any_rank(tmp_path, ranks, last):
    folder = save_ranks(tmp_path / "a", MODEL, 4)
    path = folder / f"rank_{last}.safetensors"
    held = load_file(path)
    held["norm.weight"][3] += 1
    save_file(held, path)
    compared = compare_paths(folder, save_ranks(tmp_path / "e", MODEL, ranks))
    (row,) = [row for row in compared.rows if row.status != "passed"]
    assert (row.name, row.status) == ("norm.weight", "failed")
    assert row.told == f"replicas differ in actual: rank {last} holds other values than the first that has it"


@pytest.mark.parametrize("name", ["norm.weight", "layers.1.up.weight"])
def test_a_tensor_that_one_rank_lacks_is_named(tmp_path, name):
    folder = save_ranks(tmp_path / "a", MODEL, 4)
    held = load_file(folder / "rank_2.safetensors")
    del held[name]
    save_file(held, folder / "rank_2.safetensors")
    compared = compare_paths(folder, save_ranks(tmp_path / "e", MODEL, 2))
    (row,) = [row for row in compared.rows if row.status != "passed"]
    assert (row.name, row.status) == (name, "failed")
    assert row.told == "a shard is missing: rank 2 of actual has none, the others have"


def test_tensors_that_ranks_hold_alone_are_not_missing(tmp_path):
    experts = {f"experts.{i}.weight": torch.full((4, 2), float(i)) for i in range(4)}
    for rank in range(2):
        folder = tmp_path / "a"
        folder.mkdir(exist_ok=True)
        own = {name: experts[name] for i, name in enumerate(experts) if i // 2 == rank}
        save_file(take_rank(MODEL, rank, 2) | own, folder / f"tp{rank}.safetensors")
    compared = compare_paths(folder, save_one(tmp_path / "e", MODEL | experts))
    assert compared.equal, str(compared)


def test_tolerances_reach_the_comparison(tmp_path):
    a = save_ranks(tmp_path / "a", {"up.weight": torch.ones(8, 2) + 0.5}, 2)
    e = save_ranks(tmp_path / "e", {"up.weight": torch.ones(8, 2)}, 4)
    assert not compare_paths(a, e).equal
    assert not compare_paths(a, e, Settings(rtol=0.0, atol=0.4)).equal
    assert compare_paths(a, e, Settings(rtol=0.0, atol=0.5)).equal


def test_the_compiled_kernel_says_the_same(tmp_path):
    other = {name: tensor + (tensor > 1) for name, tensor in MODEL.items()}
    paths = save_ranks(tmp_path / "a", other, 2), save_ranks(tmp_path / "e", MODEL, 4)
    eager, compiled = (compare_paths(*paths, Settings(kernel=kernel)) for kernel in ("eager", "compiled"))
    assert eager == compiled
    assert eager.counts["failed"] > 5


def test_progress_counts_tensors(tmp_path):
    told = []
    path = save_one(tmp_path / "a", {"w": torch.ones(2), "v": torch.ones(2)})
    compare_paths(path, path, progress=lambda _, done, total: told.append((done, total)))
    assert told == [(0, 2), (1, 2), (2, 2)]


def test_rows_have_the_order_of_the_expected_file_and_then_what_is_extra(tmp_path):
    one = torch.ones(1)
    a, e = save_one(tmp_path / "a", {"x": one, "b": one}), save_one(tmp_path / "e", {"b": one, "m": one})
    compared = compare_paths(a, e)
    assert [(row.name, row.status) for row in compared.rows] == [("b", "passed"), ("m", "failed"), ("x", "failed")]
    assert [row.told for row in compared.rows][1:] == ["missing: only expected has it", "extra: only actual has it"]


def test_a_tensor_of_an_unknown_dtype_is_skipped_and_said_to_be_unreadable(tmp_path, monkeypatch):
    monkeypatch.delitem(
        __import__("shardproof.checkpoints.safetensors_files").checkpoints.safetensors_files._DTYPES, "F32"
    )
    path = save_one(tmp_path / "a", {"w": torch.ones(1), "v": torch.ones(1, dtype=torch.int8)})
    compared = compare_paths(path, path)
    rows = {row.name: row for row in compared.rows}
    assert (rows["w"].status, rows["w"].unreadable, rows["v"].status) == ("skipped", True, "passed")
    assert "dtype F32 is not supported" in rows["w"].reason
    assert not compared.equal
