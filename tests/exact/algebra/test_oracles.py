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


def test_two_exact_arithmetics_of_a_seed_share_their_tables_while_one_is_alive():
    field = Field(10007)
    first, again, other = oracles_of(field, 1), oracles_of(field, 1), oracles_of(field, 2)
    assert first is again
    assert first is not other
    assert not torch.equal(first.permutation("gelu"), other.permutation("gelu"))
    table = first.exp().clone()
    del first, again
    assert torch.equal(oracles_of(field, 1).exp(), table)  # made anew, and the same
