"""Tags: what is known of a storage, for as long as it lives."""

import torch
from tests.exact.engine.probes import drawn

from shardproof.exact.algebra.degree import CONSTANT, VARIABLE
from shardproof.exact.engine.tags import REAL, Tag, TagStore, union


def test_a_degree_goes_through_in_place_writes_into_views(exact):
    x = drawn(3)
    total = torch.zeros(2, 3)
    total[0].add_((x * x * x).detach())
    assert exact.bound(total).per_trial >= exact.bound(x * x * x).per_trial > exact.bound(x).per_trial


def test_a_storage_that_is_gone_does_not_lend_its_tag_to_another():
    store = TagStore()
    for i in range(10_000):
        x = torch.empty(4)
        assert store.get(x) is None, i
        store.set(x, Tag(degree=VARIABLE))
        assert store.get(x[1:]).degree == VARIABLE
        del x


def test_a_union_is_what_holds_of_every_part():
    a, b = Tag(degree=VARIABLE, roots=True), Tag(real=True, void=True, symbols=True)
    both = union([a, b])
    assert (both.real, both.roots, both.void, both.symbols) == (False, False, True, True)
    assert both.degree == VARIABLE | CONSTANT
    assert union([]) is REAL
    assert union([a, a]) == a
