"""Planted damages, each named rightly by a whole comparison of ranks' files; and what is right, not named at all."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.checkpoints.saving import make_model, save_grid, save_one, save_ranks

from shardproof.checkpoints import Settings, compare_paths
from shardproof.checkpoints.damage import Kind

MODEL = make_model()
UP, DOWN, NORM, EMBED = "layers.1.up.weight", "layers.1.down.weight", "layers.2.norm.weight", "embed.weight"
OTHER = make_model(seed=1)


def edit(name, change):
    """A damage: the model in which one tensor is what `change` makes of it."""
    return lambda model: model | {name: change(model[name].clone())}


def set_part(name, part, values):
    def change(tensor):
        tensor[part] = values(tensor) if callable(values) else values
        return tensor

    return edit(name, change)


def drop(*names):
    return lambda model: {name: tensor for name, tensor in model.items() if name not in names}


def exchange(one, other):
    return lambda model: model | {one: model[other], other: model[one]}


def interleave(tensor):
    return tensor.view(3, 2, 4, -1).transpose(1, 2).reshape(tensor.shape)


def cut_contiguously(tensor):
    """Packed sections of 12 and 12 rows by 2 ranks: each rank's part is put behind the other's."""
    return tensor.view(2, 2, 6, -1).transpose(0, 1).reshape(tensor.shape)


def cut_heads_contiguously(tensor):
    """Query, key and value of 12, 6 and 6 rows by 2 ranks."""
    q, k, v = tensor.split([12, 6, 6])
    return torch.cat([part.chunk(2)[rank] for rank in range(2) for part in (q, k, v)])


def of_other(name, rows):
    return set_part(name, rows, lambda _: OTHER[name][rows])


# The damage, the tensors that must be named, and the sentence of the first of them.
PLANTED = {
    "rows permuted": (
        edit(UP, lambda t: t[[*range(5), 7, 5, 6, *range(8, 24)]]),
        {UP: Kind.PERMUTED},
        "permuted: the same rows in another order, 3 of 24 moved",
    ),
    "columns permuted": (
        edit(DOWN, lambda t: t[:, [1, 4, 0, 3, 2, *range(5, 24)]]),
        {DOWN: Kind.PERMUTED},
        "permuted: the same columns in another order, 4 of 24 moved",
    ),
    "shards exchanged": (
        edit(UP, lambda t: t.view(4, 6, -1)[[3, 1, 2, 0]].reshape(t.shape)),
        {UP: Kind.BLOCKS_SWAPPED},
        "blocks swapped: the blocks of 6 rows are those of expected in the order 3, 1, 2, 0; shards are put together",
    ),
    "halves exchanged": (
        edit(DOWN, lambda t: t.roll(12, 1)),
        {DOWN: Kind.BLOCKS_SWAPPED},
        "blocks swapped: the blocks of 12 columns are those of expected in the order 1, 0",
    ),
    "shifted": (
        edit(UP, lambda t: t.roll(-1, 0)),
        {UP: Kind.SHIFTED},
        "shifted: the same rows, moved by 1 around the end",
    ),
    "reversed": (edit(EMBED, lambda t: t.flip(0)), {EMBED: Kind.REVERSED}, "reversed: the same rows"),
    "rotary format": (
        edit(UP, interleave),
        {UP: Kind.INTERLEAVED},
        "interleaved: rows are in another order, as by view(3, 2, 4).transpose(1, 2)",
    ),
    "gate and up cut contiguously": (
        edit(UP, cut_contiguously),
        {UP: Kind.REPACKED},
        "split at another place: packed sections of 12, 12 rows, which 2 ranks split each by itself",
    ),
    "query, key and value cut contiguously": (
        edit(UP, cut_heads_contiguously),
        {UP: Kind.REPACKED},
        "split at another place: packed sections of 12, 6, 6 rows, which 2 ranks split each by itself",
    ),
    "transposed": (
        lambda model: model | {UP: model[UP].t().contiguous()},
        {UP: Kind.TRANSPOSED},
        "transposed: actual is expected with rows and columns exchanged",
    ),
    "a shard of zeros": (
        set_part(UP, slice(12, 18), 0.0),
        {UP: Kind.SHARD_ZERO},
        "shard missing: rows 12 to 17 are zero, the others are equal; shard 2 of 4 was not written",
    ),
    "a shard of NaN": (
        set_part(UP, slice(0, 12), float("nan")),
        {UP: Kind.SHARD_NAN},
        "shard not written: rows 0 to 11 are NaN",
    ),
    "a shard twice": (
        set_part(DOWN, (slice(None), slice(6, 12)), lambda t: t[:, :6].clone()),
        {DOWN: Kind.SHARD_DOUBLED},
        "shard doubled: columns 6 to 11 hold the values of columns 0 to 5",
    ),
    "a stale shard": (
        of_other(UP, slice(6, 12)),
        {UP: Kind.SHARD_STALE},
        "shard stale: only rows 6 to 11 differ, the others are equal bit for bit; shard 1 of 4 may be of another step",
    ),
    "a scaled shard": (
        set_part(UP, slice(6, 12), lambda t: t[6:12] * 4),
        {UP: Kind.SHARD_SCALED},
        "shard scaled: rows 6 to 11 are 4 times what they should be",
    ),
    "padded by zeros": (
        edit(EMBED, lambda t: torch.cat([t, torch.zeros(8, 8)])),
        {EMBED: Kind.PADDED},
        "padded: 56 rows where 48 are expected; the first 48 are equal, and the others are all zero",
    ),
    "padded by other numbers": (
        edit(EMBED, lambda t: torch.cat([t, torch.ones(8, 8)])),
        {EMBED: Kind.PADDED},
        "padded: 56 rows where 48 are expected; the first 48 are equal, and the others are not all zero",
    ),
    "cut off": (
        edit(EMBED, lambda t: t[:40]),
        {EMBED: Kind.TRUNCATED},
        "truncated: 40 rows where 48 are expected; those that are there are equal",
    ),
    "scaled": (edit(UP, lambda t: t * 2), {UP: Kind.SCALED}, "scaled: every element is 2 times what it should be"),
    "scaled by a third": (edit(UP, lambda t: t / 3), {UP: Kind.SCALED}, "scaled: every element is 0.333333 times"),
    "negated": (edit(DOWN, lambda t: -t), {DOWN: Kind.NEGATED}, "negated: every element has the other sign"),
    "one less": (edit(NORM, lambda t: t - 1), {NORM: Kind.OFFSET}, "offset: every element is 1 too small"),
    "rounded": (
        edit(UP, lambda t: t.bfloat16().float()),
        {UP: Kind.ROUNDED},
        "rounded: actual is expected rounded to bfloat16",
    ),
    "never loaded": (edit(UP, torch.zeros_like), {UP: Kind.ZERO}, "zero: every element is zero"),
    "NaN here and there": (
        edit(UP, lambda t: t.where(t < 1, float("nan"))),
        {UP: Kind.NOT_FINITE},
        "not finite: ",
    ),
    "one element": (set_part(UP, (3, 4), 9.0), {UP: Kind.FEW}, "1 of 192 elements differs, the others are equal"),
    "another tensor": (lambda model: model | {UP: OTHER[UP]}, {UP: Kind.DIFFERS}, "differs: 192 of 192 elements"),
    "layers exchanged": (
        exchange(UP, "layers.2.up.weight"),
        {UP: Kind.EXCHANGED, "layers.2.up.weight": Kind.EXCHANGED},
        "exchanged: it holds the values of layers.2.up.weight, and that holds its values",
    ),
    "a layer twice": (
        lambda model: model | {UP: model["layers.2.up.weight"]},
        {UP: Kind.COPIED},
        "copied: it holds the values of layers.2.up.weight, which holds them too",
    ),
    "layers in a ring": (
        lambda model: model | {f"layers.{i}.norm.weight": model[f"layers.{(i + 1) % 4}.norm.weight"] for i in range(4)},
        {f"layers.{i}.norm.weight": Kind.MISNAMED for i in range(4)},
        "misnamed: it holds what expected has as layers.1.norm.weight",
    ),
    "absent": (drop(NORM), {NORM: Kind.ABSENT}, "missing: only expected has it"),
    "extra": (
        lambda model: model | {"head.weight": OTHER[NORM]},
        {"head.weight": Kind.EXTRA},
        "extra: only actual has it",
    ),
    "renamed": (
        lambda model: {("new" if name == NORM else name): tensor for name, tensor in model.items()},
        {NORM: Kind.RENAMED, "new": Kind.EXTRA},
        "renamed: actual has it as new; give --rename",
    ),
    "tied in actual": (
        lambda model: model | {"head.weight": model["norm.weight"]},
        {"head.weight": Kind.TIED},
        "tied: only actual has it, with the values of norm.weight, which both have",
    ),
    "dtype": (
        edit(NORM, lambda t: t.double()),
        {NORM: Kind.DTYPE},
        "dtype: float64 where float32 is expected; values of different dtypes are compared with --cast",
    ),
    "reshaped": (
        edit(NORM, lambda t: t.view(2, 4)),
        {NORM: Kind.RESHAPED},
        "reshaped: shape [2, 4] where [8] is expected, with the same values in the same order",
    ),
    "other shape": (edit(NORM, lambda t: torch.ones(3)), {NORM: Kind.SHAPE}, "shape: shape [3] where [8] is expected"),
}


@pytest.mark.parametrize("kind", PLANTED)
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_planted_damage_is_named(tmp_path, kind, ranks):
    damage, wanted, sentence = PLANTED[kind]
    if kind == "transposed":  # the ranks split the dim that holds the same as before
        a = save_one(tmp_path / "a", damage(MODEL))
    else:
        a = save_ranks(tmp_path / "a", damage(MODEL), ranks)
    compared = compare_paths(a, save_ranks(tmp_path / "e", MODEL, 4))
    found = {row.name: row.damage and row.damage.kind for row in compared.rows if row.status != "passed"}
    assert found == wanted, str(compared)
    told = next(row.told for row in compared.rows if row.name == next(iter(wanted)))
    assert told.startswith(sentence)
    assert "\n" not in told


def test_at_least_24_damages_are_planted():
    assert len(PLANTED) >= 24


def move_slightly(tensor):
    return tensor * (1 + 3e-7 * torch.rand(tensor.shape, generator=torch.Generator().manual_seed(0)))


RIGHT = {
    "equal": lambda model: model,
    "rounding": lambda model: {name: move_slightly(tensor) for name, tensor in model.items()},
    "zeros that are equal": lambda model: model | {UP: torch.zeros(24, 8)},
}


@pytest.mark.parametrize("kind", RIGHT)
@pytest.mark.parametrize("ranks", [2, 4])
def test_what_is_right_is_not_named(tmp_path, kind, ranks):
    model = MODEL | {UP: torch.zeros(24, 8)} if kind.startswith("zeros") else MODEL
    compared = compare_paths(
        save_ranks(tmp_path / "a", RIGHT[kind](MODEL), ranks), save_grid(tmp_path / "e", model, 2, 2)
    )
    assert compared.equal, str(compared)
    assert {row.damage for row in compared.rows} == {None}
    assert {row.finding for row in compared.rows} == ({"rounding"} if kind == "rounding" else {"equal"})


def test_tensors_of_other_seeds_are_explained_by_nothing(tmp_path):
    compared = compare_paths(save_ranks(tmp_path / "a", OTHER, 2), save_ranks(tmp_path / "e", MODEL, 4))
    assert {row.damage.kind for row in compared.rows} == {Kind.DIFFERS}


def test_a_tensor_that_is_no_longer_tied_is_named(tmp_path):
    model = MODEL | {"head.weight": MODEL[EMBED]}
    a = save_ranks(tmp_path / "a", model | {"head.weight": OTHER[EMBED]}, 2)
    compared = compare_paths(a, save_ranks(tmp_path / "e", model, 4))
    (row,) = [row for row in compared.rows if row.status != "passed"]
    assert (row.name, row.damage.kind, row.damage.other) == ("head.weight", Kind.UNTIED, EMBED)


def test_a_tensor_that_is_tied_and_not_saved_is_named(tmp_path):
    a = save_one(tmp_path / "a", MODEL)
    compared = compare_paths(a, save_one(tmp_path / "e", MODEL | {"head.weight": MODEL[EMBED]}))
    (row,) = [row for row in compared.rows if row.status != "passed"]
    assert (row.damage.kind, row.damage.side, row.damage.other) == (Kind.TIED, "expected", EMBED)


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_a_rank_with_the_file_of_another_is_found_in_every_tensor(tmp_path, rank):
    folder = save_ranks(tmp_path / "a", MODEL, 4)
    (folder / "rank_2.safetensors").unlink()
    (folder / "rank_2.safetensors").hardlink_to(folder / f"rank_{rank}.safetensors")
    compared = compare_paths(folder, save_ranks(tmp_path / "e", MODEL, 2))
    kinds = {row.damage.kind for row in compared.rows if row.status != "passed"}
    assert kinds == {Kind.SHARD_DOUBLED}
    assert compared.counts["failed"] == 1 + 3 * 4


def test_a_rank_of_another_step_is_found_in_every_tensor(tmp_path):
    folder = save_ranks(tmp_path / "a", MODEL, 4)
    other = save_ranks(tmp_path / "o", OTHER, 4)
    held = load_file(other / "rank_2.safetensors") | {
        name: tensor for name, tensor in load_file(folder / "rank_2.safetensors").items() if "norm" in name
    }
    save_file(held, folder / "rank_2.safetensors")
    compared = compare_paths(folder, save_ranks(tmp_path / "e", MODEL, 2))
    failed = [row for row in compared.rows if row.status != "passed"]
    assert {row.damage.kind for row in failed} == {Kind.SHARD_STALE}
    assert all("shard 2 of 4" in row.told for row in failed)


def test_ranks_exchanged_are_found_in_every_tensor(tmp_path):
    folder = save_ranks(tmp_path / "a", MODEL, 4)
    for one, other in (("rank_0", "x"), ("rank_3", "rank_0"), ("x", "rank_3")):
        (folder / f"{one}.safetensors").rename(folder / f"{other}.safetensors")
    compared = compare_paths(folder, save_ranks(tmp_path / "e", MODEL, 2))
    failed = [row for row in compared.rows if row.status != "passed"]
    assert {(row.damage.kind, row.damage.order) for row in failed} == {(Kind.BLOCKS_SWAPPED, (3, 1, 2, 0))}


def test_stages_exchanged_are_layers_exchanged(tmp_path):
    folder = save_grid(tmp_path / "a", {n: t for n, t in MODEL.items() if n.startswith("layers")}, 2, 2)
    for rank in range(2):
        first, last = folder / f"mp_rank_{rank:02d}_000", folder / f"mp_rank_{rank:02d}_001"
        first.rename(folder / "x")
        last.rename(first)
        (folder / "x").rename(last)
    model = {name: tensor for name, tensor in MODEL.items() if name.startswith("layers")}
    compared = compare_paths(folder, save_ranks(tmp_path / "e", model, 4))
    assert {row.damage.kind for row in compared.rows} == {Kind.EXCHANGED}


def test_nothing_is_looked_for_where_that_is_not_wanted(tmp_path):
    a = save_one(tmp_path / "a", MODEL | {UP: -MODEL[UP]})
    compared = compare_paths(a, save_one(tmp_path / "e", MODEL), Settings(explain=False))
    (row,) = [row for row in compared.rows if row.status != "passed"]
    assert (row.damage, row.finding, row.told) == (None, "differs", None)
