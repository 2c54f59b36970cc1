"""The oracles' tables against their definitions, and look-ups against Python's indexing."""

import pytest
import torch

from shardproof.exact.algebra.blocks import block_size
from shardproof.exact.algebra.field import Field
from shardproof.exact.algebra.oracles import Oracles, oracles_of

PRIMES = (101, 1009, 10007)


def oracles(prime, key=0):
    return Oracles(field=Field(prime), key=key)


def everything(field):
    return torch.arange(-field.half, field.half + 1, dtype=torch.float64)


def values(o, table):
    """{x: table(x)} in Python's integers."""
    x = everything(o.field)
    return dict(zip(x.long().tolist(), o.look_up(table, x).tolist(), strict=True))


@pytest.mark.parametrize("prime", PRIMES)
def test_permutations_are_permutations_with_inverses(prime):
    o = oracles(prime)
    residues = set(everything(o.field).long().tolist())
    for table, inverse in (
        (o.permutation("f"), o.permutation_inverse("f")),
        (o.fixing_zero("f"), o.fixing_zero_inverse("f")),
    ):
        f, g = values(o, table), values(o, inverse)
        assert set(f.values()) == residues
        assert all(g[f[x]] == x for x in residues)
    assert values(o, o.fixing_zero("f"))[0] == 0
    assert sum(x == y for x, y in values(o, o.permutation("f")).items()) < 10


@pytest.mark.parametrize("prime", PRIMES)
def test_parity(prime):
    o = oracles(prime)
    odd, even = values(o, o.odd("g")), values(o, o.even("g", at_zero=1))
    assert all(odd[-x] == -odd[x] for x in odd)
    assert len(set(odd.values())) == prime
    assert all(even[-x] == even[x] for x in even)
    assert even[0] == 1
    assert len({even[x] for x in even if x > 0}) == prime // 2
    assert not all(even[-x] == -even[x] for x in even)


@pytest.mark.parametrize("prime", [*PRIMES, 2097169])
def test_reciprocals(prime):
    o = oracles(prime)
    inverse = values(o, o.reciprocal())
    assert inverse[0] == 0
    assert all((x * int(y) - 1) % prime == 0 for x, y in inverse.items() if x)


@pytest.mark.parametrize("prime", PRIMES)
def test_exp_and_log(prime):
    o = oracles(prime)
    exp, log = values(o, o.exp()), values(o, o.log())
    assert exp[0] == 1
    assert all((exp[-x] * exp[x] - 1) % prime == 0 for x in exp)
    assert 0 not in exp.values()
    assert -1 not in exp.values()
    twice = {x for x in exp if log[exp[x]] != x}
    assert len(twice) == 2  # the pair that there is no room for
    assert log[0] != log[0]
    assert log[1] == 0


def test_names_keys_and_primes_give_other_tables_and_the_same_ones_give_the_same():
    table = oracles(1009).permutation("f")
    assert torch.equal(table, oracles(1009).permutation("f"))
    for other in (oracles(1009).permutation("g"), oracles(1009, key=1).permutation("f")):
        assert (table == other).double().mean() < 0.01


def test_tables_are_the_same_on_every_machine():
    """Pinned: a candidate on another machine must draw the same oracle."""
    assert oracles(101).permutation("gelu none")[:6].tolist() == [16, -41, -2, -27, 28, -13]


@pytest.mark.parametrize("large", [False, True])
def test_look_ups_keep_the_layout_and_find_what_indexing_finds(large):
    o = oracles(10007)
    table = o.permutation("f")
    side = int((2 * block_size()) ** 0.5) if large else 6
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-o.field.half, o.field.half + 1, (side, side), generator=generator).double()
    for given in (x, x.T, x[::2], x[:, 1::2], x[:, :1].expand(side, side), x[0, 0], x[:0], x.view(1, side, side, 1)):
        found = o.look_up(table, given)
        assert torch.equal(found, table[(given + o.field.half).long()].double())
        assert found.dtype == torch.float64
    assert o.look_up(table, x.T).stride() == x.T.stride()
    assert not torch.equal(o.look_up(table, x), o.look_up(o.permutation("g"), x))


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), float("-inf"), 51.0, -51.0, torch.finfo(torch.float64).min]
)
def test_what_is_no_residue_is_refused(value):
    o = oracles(101)
    with pytest.raises(FloatingPointError, match="no residue"):
        o.look_up(o.exp(), torch.tensor([1.0, value], dtype=torch.float64))


def test_two_exact_arithmetics_of_a_seed_share_their_tables():
    field = Field(10007)
    first, again, other = oracles_of(field, 1), oracles_of(field, 1), oracles_of(field, 2)
    assert first is again
    assert first is not other
    assert not torch.equal(first.permutation("gelu"), other.permutation("gelu"))
    table = first.exp().clone()
    del first, again
    oracles_of.cache_clear()
    assert torch.equal(oracles_of(field, 1).exp(), table)  # made anew, and the same


# Table by table -------------------------------------------------------------------------------------------------------


def full(table):
    return table.long().tolist()


def test_a_function_is_random_but_at_zero_and_no_permutation():
    o = oracles(1009)
    found = values(o, o.function("f"))
    assert found[0] == 0
    assert {abs(y) <= 504 for y in found.values()} == {True}
    assert 550 < len(set(found.values())) < 720  # of 1009 draws about 1 - 1/e are different
    assert min(found.values()) < -490
    assert max(found.values()) > 490


def test_a_permutation_that_fixes_zero_fixes_little_else():
    o = oracles(1009)
    found = values(o, o.fixing_zero("f"))
    assert found[0] == 0
    assert sum(x == y for x, y in found.items()) < 8
    assert sum((x > 0) == (y > 0) for x, y in found.items()) < 600


@pytest.mark.parametrize("at_zero", [0, 1, -7])
def test_an_even_function_has_the_value_given_at_zero(at_zero):
    o = oracles(101)
    found = values(o, o.even("f", at_zero=at_zero))
    assert found[0] == at_zero
    assert values(o, o.even("f", at_zero=3))[0] == 3  # another table, not the first one's
    assert min(found.values()) < -30
    assert max(found.values()) > 30


def test_an_odd_permutation_takes_both_signs_on_either_side():
    found = values(o := oracles(1009), o.odd("f"))
    assert 200 < sum(y > 0 for x, y in found.items() if x > 0) < 304


@pytest.mark.parametrize("prime", PRIMES)
def test_exp_takes_every_pair_of_inverses_and_the_leftover_is_known_to_log(prime):
    o = oracles(prime)
    exp, log = values(o, o.exp()), values(o, o.log())
    everything = set(range(-(prime // 2), prime // 2 + 1))
    assert set(exp.values()) == everything - {0, -1}
    (leftover,) = {x for x in exp if x > 0 and log[exp[x]] != x}
    assert log[-1] == leftover
    assert {x for x in exp if log[exp[x]] != x} == {leftover, -leftover}
    same = [x for x in exp if x > 0 and x != leftover and {exp[x], exp[-x]} == {exp[leftover], exp[-leftover]}]
    assert len(same) == 1  # one other pair has the leftover's values
    assert all(log[exp[x]] == x for x in exp if abs(x) != leftover)


def test_the_leftover_and_the_directions_of_exp_are_random():
    leftovers, directions = set(), []
    for key in range(12):
        o = oracles(101, key=key)
        exp, log = values(o, o.exp()), values(o, o.log())
        leftovers.add(log[-1])
        directions.append(exp[1])
    assert len(leftovers) > 6
    assert len(set(directions)) > 6


def test_log_has_no_value_at_zero_and_only_there():
    o = oracles(101)
    log = o.log()
    assert log.isnan().nonzero().tolist() == [[50]]


def test_a_table_is_made_once_and_in_float32():
    o = oracles(101)
    for table in (
        lambda: o.permutation("f"),
        lambda: o.permutation_inverse("f"),
        lambda: o.function("f"),
        lambda: o.fixing_zero("f"),
        lambda: o.fixing_zero_inverse("f"),
        lambda: o.odd("f"),
        lambda: o.even("f", at_zero=0),
        lambda: o.gate(at_zero=0),
        o.reciprocal,
        o.exp,
        o.log,
    ):
        assert table() is table()
        assert table().dtype == torch.float32
        assert table().shape == (101,)
    tables = list(o._tables.values())
    assert len(tables) == 11
    assert not any(torch.equal(a, b) for i, a in enumerate(tables) for b in tables[:i])


def test_every_kind_of_table_is_the_same_on_every_machine():
    """Pinned: a candidate on another machine must draw the same oracles."""
    o = Oracles(field=Field(13), key=3)
    found = {
        "permutation": o.permutation("f"),
        "function": o.function("f"),
        "fixing zero": o.fixing_zero("f"),
        "odd": o.odd("f"),
        "even": o.even("f", at_zero=1),
        "reciprocal": o.reciprocal(),
        "exp": o.exp(),
    }
    assert {name: full(table) for name, table in found.items()} == PINNED


def test_a_table_depends_on_key_prime_and_name():
    first = oracles(101).permutation("f")
    assert not torch.equal(first, oracles(101, key=1).permutation("f"))
    assert not torch.equal(first, oracles(101).permutation("g"))
    assert not torch.equal(first, oracles(103).permutation("f")[:101])


# Look-ups -------------------------------------------------------------------------------------------------------------


def test_the_edges_of_the_field_are_found_and_what_is_beyond_is_refused():
    o = oracles(101)
    table = o.permutation("f")
    assert o.look_up(table, torch.tensor([-50.0, 50.0])).tolist() == [table[0], table[100]]
    for beyond in (-51.0, 51.0):
        with pytest.raises(FloatingPointError, match="no residue"):
            o.look_up(table, torch.tensor([0.0, beyond]))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 51.0, -51.0])
def test_what_is_no_residue_is_refused_by_looking_where_a_cpu_does_not_miss(value, monkeypatch):
    monkeypatch.setattr("shardproof.exact.algebra.oracles._NAN_MISSES", False)
    o = oracles(101)
    assert o.look_up(o.exp(), torch.tensor([50.0, -50.0], dtype=torch.float64)).shape == (2,)
    with pytest.raises(FloatingPointError, match="no residue"):
        o.look_up(o.exp(), torch.tensor([1.0, value], dtype=torch.float64))


@pytest.mark.parametrize("shape", [(3,), (40,), (5, 9), (9, 5)])
def test_a_look_up_in_blocks_finds_the_same(shape, monkeypatch):
    o = oracles(1009)
    table = o.permutation("f")
    x = torch.randint(-504, 505, shape, generator=torch.Generator().manual_seed(0)).double()
    whole = o.look_up(table, x.t() if x.ndim == 2 else x)
    monkeypatch.setattr("shardproof.exact.algebra.blocks._ELEMENTS_A_THREAD", 7)
    cut = o.look_up(table, x.t() if x.ndim == 2 else x)
    assert torch.equal(whole, cut)
    assert whole.stride() == cut.stride()


def test_oracles_of_three_seeds_stay_and_others_go_with_their_last_user():
    field = Field(103)
    first, second = oracles_of(field, 5), oracles_of(field, 6)
    assert oracles_of(Field(103), 5) is first
    assert oracles_of(Field(107), 5) is not first
    assert (first.field, first.key) == (field, 5)
    first.exp(), second.exp()
    del second
    for key in (7, 8, 9):
        oracles_of(field, key)
    assert oracles_of(field, 5) is first  # it has a user
    assert oracles_of(field, 6)._tables == {}
    assert oracles_of(field, 9) is oracles_of(field, 9)


PINNED = {
    "permutation": [-5, 2, 4, -6, -1, 0, 1, 3, -4, -2, 5, 6, -3],
    "function": [-1, 4, 1, -1, -6, -4, 0, 4, 4, -6, 5, -6, 1],
    "fixing zero": [6, 5, 1, -6, 4, 3, 0, 2, -5, -4, -3, -2, -1],
    "odd": [-5, 2, 1, 3, -4, -6, 0, 6, 4, -3, -1, -2, 5],
    "even": [0, -1, -6, 4, 2, -5, 1, -5, 2, 4, -6, -1, 0],
    "reciprocal": [2, 5, 3, 4, 6, -1, 0, 1, -6, -4, -3, -5, -2],
    "exp": [-2, -5, -4, 2, 6, -3, 1, 4, -2, -6, 3, 5, 6],
}


@pytest.mark.parametrize("at_zero", [0, 1])
def test_a_gate_and_that_of_the_negative_add_up_to_one(at_zero):
    o = oracles(1009)
    found = values(o, o.gate(at_zero=at_zero))
    assert found[0] == at_zero
    assert all((found[x] + found[-x]) % 1009 == 1 for x in found if x)
    assert len({y for x, y in found.items() if x}) == 1008  # one of each but (1 + 0) / 2
    assert values(o, o.gate(at_zero=1 - at_zero))[5] == found[5]
