"""A layout says what sizes do not show; a malformed one is one line."""

import json

import pytest
import torch
from safetensors.torch import save_file
from tests.checkpoints.saving import make_model, save_grid, save_one

from shardproof.checkpoints import Settings, compare_paths, read_layout
from shardproof.checkpoints.damage import Kind
from shardproof.checkpoints.layout import Replicated, Split
from shardproof.checkpoints.layout_file import parse_layout
from shardproof.errors import CannotRunError

MODEL = make_model()
QKV = torch.randn(32, 8)  # 8 query heads, 4 key heads, 4 value heads, of 2 rows each


def save_packed(folder, ranks, sections, tensor=QKV, *, name="qkv.weight", dim=0):
    """Each rank has its share of each section."""
    folder.mkdir()
    parts = tensor.split(sections, dim)
    for rank in range(ranks):
        shares = torch.cat([part.chunk(ranks, dim)[rank] for part in parts], dim)
        save_file({name: shares.contiguous()}, folder / f"rank_{rank}.safetensors")
    return folder


def with_layout(tmp_path, document):
    (tmp_path / "layout.json").write_text(json.dumps(document))
    return Settings(layout=read_layout(tmp_path / "layout.json"))


@pytest.mark.parametrize("sections", [[8, 4, 4], [16, 8, 8]])
@pytest.mark.parametrize("name", ["qkv.*", "*"])
def test_packed_query_key_and_value_of_2_and_4_ranks_are_equal(tmp_path, sections, name):
    paths = save_packed(tmp_path / "a", 2, [16, 8, 8]), save_packed(tmp_path / "e", 4, [16, 8, 8])
    settings = with_layout(tmp_path, {"tensors": {name: {"split": 0, "sections": sections}}})
    assert compare_paths(*paths, settings).equal
    (row,) = compare_paths(*paths).rows
    assert row.status == "failed"


@pytest.mark.parametrize("dim", [0, 1])
def test_packed_gate_and_up_are_equal_to_one_file(tmp_path, dim):
    tensor = QKV if dim == 0 else QKV.t().contiguous()
    actual = save_packed(tmp_path / "a", 4, [16, 16], tensor, dim=dim)
    expected = save_one(tmp_path / "e", {"qkv.weight": tensor})
    settings = with_layout(tmp_path, {"tensors": {"qkv.weight": {"split": dim, "sections": 2}}})
    assert compare_paths(actual, expected, settings).equal
    (row,) = compare_paths(actual, expected).rows
    assert (row.damage.kind, row.damage.ranks) == (Kind.REPACKED, 4)


def test_a_contiguous_cut_is_named_where_the_layout_says_packed(tmp_path):
    (tmp_path / "a").mkdir()
    for rank in range(2):
        save_file({"qkv.weight": QKV.chunk(2)[rank].contiguous()}, tmp_path / "a" / f"rank_{rank}.safetensors")
    settings = with_layout(tmp_path, {"tensors": {"qkv.weight": {"split": 0, "sections": [8, 4, 4]}}})
    (row,) = compare_paths(tmp_path / "a", save_packed(tmp_path / "e", 4, [16, 8, 8]), settings).rows
    assert (row.damage.kind, row.damage.ranks) == (Kind.REPACKED, 2)
    assert row.told.startswith("split at another place: packed sections of 16, 8, 8 rows, which 2 ranks split")


def test_groups_of_one_side_are_put_in_the_order_of_sections(tmp_path):
    q, k, v = QKV.split([16, 8, 8])
    grouped = torch.cat(
        [torch.cat([q[4 * g : 4 * g + 4], k[2 * g : 2 * g + 2], v[2 * g : 2 * g + 2]]) for g in range(4)]
    )
    (tmp_path / "a").mkdir()
    for rank in range(2):
        save_file({"qkv.weight": grouped.chunk(2)[rank].contiguous()}, tmp_path / "a" / f"tp{rank}.safetensors")
    entry = {"split": 0, "sections": [8, 4, 4]}
    settings = with_layout(
        tmp_path, {"tensors": {"qkv.*": entry}, "actual": {"tensors": {"qkv.*": entry | {"groups": 4}}}}
    )
    assert compare_paths(tmp_path / "a", save_one(tmp_path / "e", {"qkv.weight": QKV}), settings).equal


def test_padding_of_the_vocabulary_is_left_out(tmp_path):
    vocabulary = torch.randn(50, 4)
    for side, padded, ranks in (("a", 52, 2), ("e", 56, 4)):
        (tmp_path / side).mkdir()
        full = torch.cat([vocabulary, torch.full((padded - 50, 4), float(padded))])
        for rank in range(ranks):
            save_file({"embed": full.chunk(ranks)[rank].contiguous()}, tmp_path / side / f"tp{rank}.safetensors")
    settings = with_layout(tmp_path, {"tensors": {"embed": {"split": 0, "size": 50}}})
    assert compare_paths(tmp_path / "a", tmp_path / "e", settings).equal
    (row,) = compare_paths(tmp_path / "a", tmp_path / "e").rows
    assert row.damage.kind is not None
    assert row.status == "failed"


def test_layers_of_interleaved_stages_are_stated(tmp_path):
    order = [0, 2, 1, 3]  # the first stage has layers 0 and 2
    stages = {
        name.replace(f"layers.{order[i]}.", f"layers.{i}.") if name.startswith("layers") else name: tensor
        for i in range(4)
        for name, tensor in MODEL.items()
        if name.startswith(f"layers.{order[i]}.") or not name.startswith("layers")
    }
    paths = save_grid(tmp_path / "a", stages, 2, 2), save_one(tmp_path / "e", MODEL)
    settings = with_layout(tmp_path, {"actual": {"layers": [[0, 2], [1, 3]]}})
    assert compare_paths(*paths, settings).equal
    kinds = {row.damage.kind for row in compare_paths(*paths).rows if row.status == "failed"}
    assert kinds == {Kind.EXCHANGED}


def test_replicated_is_taken_at_its_word(tmp_path):
    (tmp_path / "a").mkdir()
    for rank in range(2):
        save_file({"w": torch.full((2,), float(rank))}, tmp_path / "a" / f"tp{rank}.safetensors")
    settings = with_layout(tmp_path, {"tensors": {"w": "replicated"}})
    (row,) = compare_paths(tmp_path / "a", tmp_path / "a", settings).rows
    assert row.damage.kind is Kind.REPLICAS_DIFFER
    assert compare_paths(tmp_path / "a", tmp_path / "a").equal


def test_every_entry_is_read():
    layout = parse_layout(
        {
            "tensors": {"a": "replicated", "b": {"split": 1, "sections": [2, 1, 1], "groups": 1, "size": 9}},
            "expected": {"tensors": {"a": {"split": 0, "sections": 3}}, "layers": [[0], [1]]},
        }
    )
    assert layout.actual.find("a") == Replicated()
    assert layout.actual.find("b") == Split(dim=1, sections=(2, 1, 1), groups=1, size=9)
    assert layout.expected.find("a") == Split(dim=0, sections=3)
    assert (layout.actual.layers, layout.expected.layers) == (None, ((0,), (1,)))
    assert layout.actual.find("c") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no layout"),
        ("[" * 100_000, "is no layout"),
        ("[]", "is a JSON object"),
        ('{"tensor": {}}', "a layout has 'tensor'; known are actual, expected, layers, tensors"),
        ('{"actual": {"actual": {}}}', "\"actual\" has 'actual'; known are layers, tensors"),
        ('{"tensors": {"w": "split"}}', 'w: give "replicated" or'),
        ('{"tensors": {"w": {"split": -1}}}', '"split" is the dim'),
        ('{"tensors": {"w": {"split": true}}}', '"split" is the dim'),
        ('{"tensors": {"w": {"dim": 0}}}', "w has 'dim'; known are groups, sections, size, split"),
        ('{"tensors": {"w": {"split": 0, "sections": []}}}', '"sections" is a number of equal sections'),
        ('{"tensors": {"w": {"split": 0, "sections": [1, 0]}}}', '"sections" is a number of equal sections'),
        ('{"tensors": {"w": {"split": 0, "size": 0}}}', '"size" is a whole number'),
        ('{"tensors": {"w": {"split": 0, "groups": "4"}}}', '"groups" is a whole number'),
        ('{"layers": [1]}', '"layers" is a list of the numbers of layers for each stage'),
        ('{"layers": 1}', '"layers" is a list of the numbers of layers for each stage'),
        ('{"layers": [[1], [1]]}', '"layers" names a layer twice'),
        ('{"tensors": {"w": "replicated", "w": "replicated"}}', "'w' is there twice"),
    ],
    ids=range(17),
)
def test_a_malformed_layout_is_one_line(tmp_path, text, words):
    (tmp_path / "l.json").write_text(text)
    with pytest.raises(CannotRunError, match="is no layout") as caught:
        read_layout(tmp_path / "l.json")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_layout_that_is_not_there_or_fits_no_tensor_is_refused(tmp_path):
    with pytest.raises(CannotRunError, match="is no layout: needed is a JSON file"):
        read_layout(tmp_path / "missing.json")
    path = save_one(tmp_path / "m", MODEL)
    settings = with_layout(tmp_path, {"tensors": {"*.qvk": "replicated"}})
    with pytest.raises(CannotRunError, match=r"the layout's pattern '\*\.qvk' matches no tensor"):
        compare_paths(path, path, settings)
