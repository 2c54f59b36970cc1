"""The sample that `make test` runs of tests with many alike cases."""

from types import SimpleNamespace

from tests.conftest import SAMPLED, choose_left_out
from tests.source_tree import ROOT


def test_one_in_so_many_cases_stays_and_other_tests_all():
    (name, part), *_ = SAMPLED.items()
    items = [SimpleNamespace(nodeid=f"{name}[{case}]") for case in range(10)]
    others = [SimpleNamespace(nodeid=f"{name}_else[{case}]") for case in range(10)]
    left_out = list(choose_left_out([*items, *others]))
    assert len(items) - len(left_out) == -(-10 // part)
    assert not any(one in left_out for one in others)
    again = list(choose_left_out([*others, *reversed(items)]))
    assert [one.nodeid for one in again] == [one.nodeid for one in left_out]


def test_every_sampled_test_is_there():
    for name in SAMPLED:
        file, _, function = name.partition("::")
        assert f"def {function}(" in (ROOT / file).read_text(), name
