"""Each condition of a reduction, on models in which it holds and on models in which it does not."""

from types import SimpleNamespace

import pytest
from torch import nn

from shardproof.errors import CannotRunError
from shardproof.frameworks.transformers.conditions import check_counts, check_dims, check_layers, check_plan
from shardproof.frameworks.transformers.layer_kinds import describe_layers
from shardproof.frameworks.transformers.layers import KeptLayers


def model(*sizes):
    built = nn.Module()
    for number, size in enumerate(sizes):
        setattr(built, f"norm{number}", nn.LayerNorm(size, bias=False))
    return built


def dims(*sizes, full, splits=((4,),)):
    return check_dims(model(*full), model(*sizes), {(f"norm{number}.weight", 0): splits for number in range(len(full))})


def test_dims_that_divide_alike_and_differ_hold():
    division, roles = dims(8, 12, full=(64, 96))
    assert (division.name, roles.name) == ("division", "roles")
    assert "2 dims" in division.checked
    assert "2 of them smaller" in division.checked


@pytest.mark.parametrize(
    ("reduced", "full", "said"),
    [
        ((4,), (64,), "condition division: dim 0 of norm0.weight is 64 at full size and 4 reduced, which 4 ranks"),
        ((10,), (64,), "condition division: dim 0 of norm0.weight is 64 at full size and 10 reduced"),
        ((8, 8), (64, 96), "condition roles: dim 0 of norm1.weight and dim 0 of norm0.weight differ .* both 8 reduced"),
        ((8, 8), (64,), "condition layers: norm1.weight is not a parameter of both"),
    ],
)
def test_dims_that_do_not_are_one_line(reduced, full, said):
    with pytest.raises(CannotRunError, match=said):
        dims(*reduced, full=full)


def test_heads_and_experts_are_those_of_the_full_configuration():
    condition = check_counts({"num_attention_heads": 8}, SimpleNamespace(num_attention_heads=8), {"dp": 2, "tp": 4})
    assert "num_attention_heads 8; mesh dp 2 x tp 4" in condition.meaning
    with pytest.raises(CannotRunError, match="condition counts: num_attention_heads is 8, and 4 once it is reduced"):
        check_counts({"num_attention_heads": 8}, SimpleNamespace(num_attention_heads=4), {"tp": 4})


def stack(*layers):
    built = nn.Module()
    built.layers = nn.ModuleList(layers)
    return built


def test_layers_are_of_the_kinds_that_were_kept():
    kinds = describe_layers(nn.ModuleList([nn.Linear(64, 64), nn.Linear(64, 64), nn.LayerNorm(64)]), None)
    kept = KeptLayers(count=3, kept=(0, 2))
    full, reduced = stack(nn.Linear(64, 64), nn.LayerNorm(64)), stack(nn.Linear(8, 8), nn.LayerNorm(64))
    assert "of 3 layers the 2 kinds" in check_layers(kinds, kept, full, reduced).meaning
    with pytest.raises(CannotRunError, match=r"layer 2 of 3 is of a kind that .* cannot give layer 1 of 2"):
        check_layers(kinds, kept, full, stack(nn.Linear(8, 8), nn.Linear(8, 8)))
    with pytest.raises(CannotRunError, match="layer 0 of 3"):
        check_layers(kinds, kept, stack(nn.Linear(32, 64), nn.LayerNorm(64)), reduced)


class Plan:
    """Has the styles that a model names."""

    def resolve(self, model, _mesh):
        return model.styles


def test_the_plan_is_the_same_for_every_layer():
    full = SimpleNamespace(styles={"layers.0.up": "colwise", "layers.1.up": "colwise"})
    (condition,) = check_plan(Plan(), full, SimpleNamespace(styles={"layers.0.up": "colwise"}), {"tp": 2})
    assert "1 entries" in condition.checked
    with pytest.raises(CannotRunError, match=r"condition plan: layers.\*.up=rowwise is an entry of only one"):
        check_plan(
            Plan(), SimpleNamespace(styles={"layers.0.up": "colwise", "layers.1.up": "rowwise"}), full, {"tp": 2}
        )


def test_code_of_the_users_and_a_mesh_without_tp_have_no_plan():
    assert check_plan(None, model(4), model(4), {"tp": 2}) == ()
    assert check_plan(Plan(), model(4), model(4), {"dp": 2}) == ()
