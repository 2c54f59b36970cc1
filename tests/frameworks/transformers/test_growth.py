"""Which dims grow with which fields, and over which ranks a dim may be split."""

from fractions import Fraction
from itertools import permutations

import pytest
from torch import nn

from shardproof.frameworks.transformers.dividing import shrink
from shardproof.frameworks.transformers.growth import find_splits, list_shared, measure

ENTRIES = {"vocab_size": 96, "hidden_size": 64, "head_dim": 16, "num_attention_heads": 8, "num_key_value_heads": 2}


def make(values):
    """Projections whose heads have a size of their own, or share the width."""
    sizes = ENTRIES | values
    model = nn.Module()
    model.q_proj = nn.Linear(sizes["hidden_size"], 8 * sizes["head_dim"], bias=False)
    model.k_proj = nn.Linear(sizes["hidden_size"], 2 * sizes["head_dim"], bias=False)
    model.lm_head = nn.Linear(sizes["hidden_size"], sizes["vocab_size"], bias=False)
    return model


def measured(make=make, entries=ENTRIES, splits=((2,),)):
    model = make({})
    places = {(name, dim): splits for name, one in model.named_parameters() for dim in range(one.ndim)}
    found = measure(entries, model, make, places)
    return {field.name: field for field in found.fields}, [*found.shared, *found.dims.values()]


def test_each_dim_grows_with_its_fields_so_many_times():
    fields, dimensions = measured()
    grown = {(one.full, tuple(one.factors.items())) for one in dimensions}
    assert grown == {
        (8, ()),
        (2, ()),
        (64, (("hidden_size", 1),)),
        (128, (("head_dim", 8),)),
        (32, (("head_dim", 2),)),
        (96, (("vocab_size", 1),)),
    }
    assert {name: field.modulus for name, field in fields.items()} == dict.fromkeys(fields, 2)
    assert next(iter(fields)) == "hidden_size"  # on which most depends


def test_the_order_of_the_fields_is_that_which_leaves_fewest_parameters():
    model = make({})
    places = {(name, dim): ((8,),) for name, one in model.named_parameters() for dim in range(one.ndim)}
    found = measure(ENTRIES, model, make, places)
    sizes = found.choose_sizes()
    assert found.count_parameters(sizes) == sum(one.numel() for one in make(sizes).parameters())
    orders = [shrink(order, [*found.shared, *found.dims.values()]) for order in permutations(found.fields)]
    assert found.count_parameters(sizes) == min(map(found.count_parameters, orders))
    assert len(set(map(found.count_parameters, orders))) > 1


def test_a_width_that_the_heads_share_changes_by_whole_heads():
    def shared(values):
        return make({**values, "head_dim": (ENTRIES | values)["hidden_size"] // 8})

    fields, dimensions = measured(shared, {name: value for name, value in ENTRIES.items() if name != "head_dim"})
    assert fields["hidden_size"].modulus == 8
    grown = {(one.full, *one.factors.values()) for one in dimensions if one.factors}
    assert grown == {(64, 1), (16, Fraction(1, 4)), (96, 1)}


def test_a_width_that_must_be_a_multiple_of_the_heads_changes_by_it():
    def strict(values):
        if (ENTRIES | values)["hidden_size"] % 8:
            raise ValueError("not a multiple")
        return make(values)

    assert measured(strict)[0]["hidden_size"].modulus == 8


def test_parts_of_a_sum_keep_its_remainder():
    def summed(values):
        sizes = {"kv_lora_rank": 32, "qk_rope_head_dim": 16} | values
        model = nn.Module()
        model.kv = nn.Linear(4, sum(sizes.values()), bias=False)
        return model

    fields, _ = measured(summed, {"kv_lora_rank": 32, "qk_rope_head_dim": 16, "num_attention_heads": 2}, ((8,),))
    assert {name: field.modulus for name, field in fields.items()} == {"kv_lora_rank": 8, "qk_rope_head_dim": 8}


def test_a_field_that_no_parameter_grows_with_is_no_field():
    assert "intermediate_size" not in measured(entries=ENTRIES | {"intermediate_size": 256})[0]


def test_what_ranks_share_are_heads_and_experts():
    entries = {"num_experts": 8, "num_experts_per_tok": 2, "n_group": 1, "num_hidden_layers": 9, "hidden_size": 64}
    assert list_shared(entries) == {"num_experts": 8, "num_experts_per_tok": 2}


class Plan:
    """What `OwnPlan` resolves to."""

    def __init__(self, **styles):
        self.styles = styles

    def resolve(self, _model, _mesh):
        return self.styles


@pytest.mark.parametrize(
    ("style", "rows", "columns"),
    [
        ("colwise", ((2,), (2, 4), (4,)), ()),
        ("rowwise", ((4,),), ((2,),)),
        ("replicated_with_grad_allreduce", ((4,),), ()),
        ("some_other", ((2,), (2, 4), (4,)), ((2,),)),
    ],
)
def test_a_plan_splits_a_dim_over_tp_and_fsdp_the_first_dim_after_it(style, rows, columns):
    model = nn.Module()
    model.up = nn.Linear(8, 8, bias=False)
    found = find_splits(model, {"dp": 4, "tp": 2}, Plan(up=style))
    assert found == {("up.weight", 0): rows, ("up.weight", 1): columns}


def test_code_of_the_users_may_split_every_dim_over_every_axis():
    model = nn.Linear(8, 8, bias=False)
    every = ((2,), (2, 4), (4,), (4, 2), (8,))
    assert find_splits(model, {"dp": 4, "tp": 2}, None) == {("weight", 0): every, ("weight", 1): every}
