import torch

from shardproof.exact.algebra.chosen_sides import ChoiceLog, ChoicePlace, ChosenSides, add_choices


def sides(first=False, second=False, equal=False):
    return ChosenSides(first=first, second=second, equal=equal)


def truth(*values):
    return torch.tensor(values, dtype=torch.bool)


def test_only_one_operand_was_chosen_or_both_or_neither():
    assert [sides(first=True).only, sides(second=True, equal=True).only] == [0, 1]
    assert [sides(first=True, second=True).only, sides(equal=True).only] == [None, None]


def test_sides_of_several_runs_add_up():
    one, other = (ChoicePlace(line="a.py:1 in f", call=call, function="maximum") for call in range(2))
    found = add_choices([{one: sides(first=True)}, {one: sides(second=True), other: sides(equal=True)}])
    assert found == {one: sides(first=True, second=True), other: sides(equal=True)}


def test_each_line_counts_its_calls():
    log = ChoiceLog()
    for takes in (True, False):
        log.add("maximum", truth(takes), truth(False), truth(True))
    log.add("minimum", truth(True), truth(False), truth(True))
    assert [(place.call, place.function) for place in log.found] == [(0, "maximum"), (1, "maximum"), (0, "minimum")]
    assert [one.only for one in log.found.values()] == [0, 1, 0]
    assert all("test_chosen_sides.py:" in place.line for place in log.found)


def test_what_does_not_count_and_equal_operands_choose_nothing():
    log = ChoiceLog()
    log.add("maximum", truth(True, False, True), truth(False, True, False), truth(True, True, False))
    assert list(log.found.values()) == [sides(first=True, equal=True)]
