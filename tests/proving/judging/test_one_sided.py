from types import SimpleNamespace

from shardproof.exact.algebra.chosen_sides import ChoicePlace, ChosenSides
from shardproof.proving.cause import Cause, CauseKind
from shardproof.proving.findings import Verdict
from shardproof.proving.judging.one_sided import Choices, conclude_one_sided
from shardproof.proving.records import Key, Phase

FIRST, SECOND = ({"first": True, "second": False}, {"first": False, "second": True})
PLACE = ChoicePlace(line="ring.py:7 in merge", call=1, function="maximum")


def both(*sides, primes=1):
    """The choices of each side at one place; one device's first."""
    reference, *ranks = (
        SimpleNamespace(choices={} if one is None else {PLACE: ChosenSides(**({"equal": False} | one))})
        for one in sides
    )
    return SimpleNamespace(reference=reference, ranks=ranks, primes=(0,) * primes)


def choices(*trials):
    found = Choices()
    for one in trials:
        found.add(one)
    return found


def test_one_side_alone_is_vacuous_and_says_which():
    (finding,) = conclude_one_sided(choices(both(None, FIRST, FIRST)))
    assert finding.verdict is Verdict.VACUOUS
    assert finding.key == Key(0, Phase.SELECTION, "ring.py:7 in merge", 1)
    assert finding.cause == Cause(kind=CauseKind.ONE_SIDED, operands=("the first operand of maximum", "second"))
    assert finding.source_line == PLACE.line
    (other,) = conclude_one_sided(choices(both(SECOND, None)))
    assert other.cause.operands == ("the second operand of maximum", "first")


def test_ranks_and_trials_count_together():
    assert conclude_one_sided(choices(both(None, FIRST, SECOND))) == ()
    assert conclude_one_sided(choices(both(None, FIRST), both(None, SECOND))) == ()
    assert conclude_one_sided(choices(both(None, None))) == ()


def test_an_operand_that_belongs_to_the_other_is_no_finding_once_trials_have_told():
    equal = FIRST | {"equal": True}
    assert conclude_one_sided(choices(both(None, equal), both(None, FIRST, primes=4)))
    assert conclude_one_sided(choices(both(None, equal), both(None, FIRST, primes=5))) == ()
    assert conclude_one_sided(choices(both(None, FIRST, primes=9)))


def test_a_line_has_one_finding_for_all_of_its_calls():
    again = ChoicePlace(line=PLACE.line, call=3, function="maximum")
    sides = both(None, FIRST)
    sides.ranks[0].choices[again] = ChosenSides(first=True, second=False, equal=False)
    assert [one.key.call for one in conclude_one_sided(choices(sides))] == [1]
