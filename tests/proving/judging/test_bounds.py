"""Bounds over segments and trials: the worst segment so far counts, and trials are added until they suffice."""

import pytest
import torch

from shardproof.exact import NoBound
from shardproof.proving.axes import Axes
from shardproof.proving.findings import Unbounded
from shardproof.proving.judging.alignment import Alignment
from shardproof.proving.judging.bounds import (
    VoidTrials,
    bound_of_trials,
    choose_cuts,
    count_missing_trials,
    find_unbounded,
    list_trials,
    over_segments,
)
from shardproof.proving.judging.layout import find_layout
from shardproof.proving.judging.outcomes import Outcome, VoidHeld
from shardproof.proving.records import Key, Phase, Recorded, Records

UP, DOWN = (Key(0, Phase.OUTPUT, name) for name in ("up", "down"))
UP_GRADIENT = Key(0, Phase.OUTPUT_GRADIENT, "up")
GRADIENT, UPDATE, NEXT = Key(0, Phase.GRADIENT, "w"), Key(0, Phase.UPDATE, "w"), Key(1, Phase.OUTPUT, "up")


def outcome(chance=1e-6, **changes):
    return (
        Outcome(equal=True, chance=chance, **changes) if "equal" not in changes else Outcome(chance=chance, **changes)
    )


VOID = {0: VoidHeld(actual=torch.tensor([True, False]), expected=torch.tensor([False, False]))}


def chances(outcomes, cuts=frozenset(), *, fresh=True):
    return [one.chance for one in over_segments(outcomes, cuts, fresh=fresh).values()]


# Segments -------------------------------------------------------------------------------------------------------------


def test_a_tensor_has_the_chance_of_the_worst_segment_before_it():
    outcomes = {UP: outcome(1e-3), UPDATE: outcome(1e-5), NEXT: outcome(1e-6)}
    cuts = frozenset({(Phase.OUTPUT, "up", 0)})
    assert chances(outcomes, cuts) == [1e-3, 1e-3, 1e-3]
    assert chances(outcomes) == [1e-3, 1e-5, 1e-5]  # nothing was cut inside the step: its output ends no segment


@pytest.mark.parametrize(
    ("key", "ends", "ends_with_cuts"),
    [
        (UPDATE, True, True),
        (Key(0, Phase.STATE, "w/exp_avg"), True, True),
        (GRADIENT, False, True),
        (Key(0, Phase.CLIPPED, "w"), False, True),
        (UP_GRADIENT, False, True),
        (DOWN, False, False),
        (Key(0, Phase.LOSS, "loss"), False, False),
    ],
)
def test_what_ends_a_segment(key, ends, ends_with_cuts):
    outcomes = {key: outcome(0.5), NEXT: outcome(0.25)}
    assert chances(outcomes)[1] == (0.5 if ends else 0.25)
    assert chances(outcomes, frozenset({(Phase.OUTPUT, "up", 0)}))[1] == (0.5 if ends_with_cuts else 0.25)
    assert chances(outcomes, fresh=False) == [0.5, 0.25]


def test_a_later_worse_segment_counts_and_a_better_one_does_not_help():
    steps = [Key(step, Phase.UPDATE, "w") for step in range(4)]
    outcomes = {key: outcome(chance) for key, chance in zip(steps, [1e-6, 1e-4, 1e-5, 1e-3], strict=True)}
    assert chances(outcomes) == [1e-6, 1e-4, 1e-4, 1e-3]


def test_the_first_reason_of_a_segment_before_stays():
    lost = [Unbounded(reason=reason, at=key) for reason, key in ((NoBound.SOFTMAX, UP), (NoBound.DEPTH, GRADIENT))]
    outcomes = {
        DOWN: outcome(1e-6),
        UP: outcome(1.0, unbounded=lost[0]),
        GRADIENT: outcome(1.0, unbounded=lost[1]),
        UPDATE: outcome(1e-5),
    }
    cuts = frozenset({(Phase.OUTPUT, "up", 0)})
    assert [one.unbounded for one in over_segments(outcomes, cuts, fresh=True).values()] == [None, *[lost[0]] * 3]
    assert [one.unbounded for one in over_segments(outcomes, cuts, fresh=False).values()] == [None, *lost, None]


def test_the_last_trial_with_a_reason_has_it_and_void_in_all_is_one():
    first, last = (
        outcome(1.0, unbounded=Unbounded(reason=reason, at=UP)) for reason in (NoBound.DEGREE, NoBound.DEPTH)
    )
    none = VoidTrials()
    assert find_unbounded([first, last, outcome(1e-6)], none).reason is NoBound.DEPTH
    assert find_unbounded([outcome(1e-6)], none) is None
    void = outcome(void=VOID)
    assert find_unbounded([void, void], VoidTrials(count=2, at=UPDATE)) == Unbounded(reason=NoBound.VOID, at=UPDATE)
    assert find_unbounded([void, outcome(1e-6)], VoidTrials(count=1, at=UPDATE)) is None


# Cuts -----------------------------------------------------------------------------------------------------------------


def uncut(*keys, shape=(2, 2), ranks=2, parts=None, axes=None):
    """Both sides of a run: on each rank the full tensor, or its own part of it."""
    full = torch.arange(torch.Size(shape).numel()).view(shape)
    here = [(parts or {}).get(rank, lambda whole: whole) for rank in range(ranks)]
    return Alignment(
        reference=Records(tensors={key: Recorded(stored=full) for key in keys}),
        ranks=[Records(tensors={key: Recorded(stored=part(full)) for key in keys}) for part in here],
        layout=find_layout({"w": torch.ones(1, dtype=torch.float64)}, {}),
        axes=axes or Axes(sizes={"tp": ranks}),
    )


def test_right_activations_with_right_gradients_are_cut():
    outcomes = {UP: outcome(), UP_GRADIENT: outcome(), DOWN: outcome()}
    cuts = choose_cuts(uncut(UP, UP_GRADIENT, DOWN, GRADIENT), outcomes)
    assert cuts.keys() == {(Phase.OUTPUT, "up", 0), (Phase.OUTPUT, "down", 0)}


def test_a_cut_numbers_each_ranks_elements_as_in_the_full_tensor():
    columns = {rank: lambda whole, at=rank: whole[:, at : at + 1] for rank in range(2)}
    (numbers,) = choose_cuts(uncut(UP, parts=columns), {UP: outcome()}).values()
    assert [numbers[rank].tolist() for rank in range(2)] == [[[0], [2]], [[1], [3]]]
    (numbers,) = choose_cuts(uncut(UP), {UP: outcome()}).values()
    assert numbers[0] is numbers[1]  # one tensor for replicas
    assert numbers[0].tolist() == [[0, 1], [2, 3]]


def test_ranks_that_hold_the_same_shard_share_one_tensor_of_numbers():
    columns = {rank: lambda whole, at=rank % 2: whole[:, at : at + 1] for rank in range(4)}
    alignment = uncut(UP, ranks=4, parts=columns, axes=Axes(sizes={"cp": 2, "tp": 2}))
    (numbers,) = choose_cuts(alignment, {UP: outcome()}).values()
    assert [numbers[rank].tolist() for rank in range(4)] == [[[0], [2]], [[1], [3]]] * 2
    assert len({id(one) for one in numbers.values()}) == 2
    assert all(one.is_contiguous() for one in numbers.values())


def test_an_activation_that_lies_otherwise_in_another_step_is_not_cut():
    both = uncut(UP, NEXT)
    for rank, records in enumerate(both.ranks):
        full = records.tensors[UP].values
        records.tensors[UP] = Recorded(stored=full[:, rank : rank + 1])
        records.tensors[NEXT] = Recorded(stored=full[rank : rank + 1])
    assert choose_cuts(both, {UP: outcome(), NEXT: outcome()}) == {}


@pytest.mark.parametrize("key", [UP, UP_GRADIENT, NEXT])
@pytest.mark.parametrize("change", [None, {"equal": False}, {"partial_over": ("tp",)}, {"void": VOID}])
def test_one_that_is_wrong_or_partial_or_void_or_not_compared_in_any_step_is_not_cut(key, change):
    outcomes = {UP: outcome(), UP_GRADIENT: outcome(), NEXT: outcome(), DOWN: outcome()}
    if change is None:
        del outcomes[key]
    else:
        outcomes[key] = outcome(**change)
    assert choose_cuts(uncut(UP, UP_GRADIENT, NEXT, DOWN), outcomes).keys() == {(Phase.OUTPUT, "down", 0)}


def test_another_call_of_the_module_is_a_cut_of_its_own():
    again = Key(0, Phase.OUTPUT, "up", 1)
    cuts = choose_cuts(uncut(UP, again), {UP: outcome(), again: outcome(equal=False)})
    assert cuts.keys() == {(Phase.OUTPUT, "up", 0)}


def test_a_scalar_is_no_boundary():
    assert choose_cuts(uncut(UP, shape=()), {UP: outcome()}) == {}


# Trials ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chance", "taken", "wanted", "missing"),
    [
        (2.0**-10, 1, 2.0**-40, 3),
        (2.0**-10, 3, 2.0**-40, 1),
        (2.0**-10, 4, 2.0**-40, 0),
        (2.0**-10, 1, 2.0**-39, 3),
        (2.0**-10, 1, 2.0**-41, 4),
        (0.5, 2, 2.0**-10, 8),
        (1.0, 3, 1e-12, 0),  # none is derived
        (0.0, 1, 1e-12, 0),  # certain
        (0.999, 3, 1e-12, 61),  # no more than 64 in all
    ],
)
def test_as_many_trials_as_the_bound_needs(chance, taken, wanted, missing):
    assert count_missing_trials([{GRADIENT: outcome(chance)}] * taken, wanted) == missing


def test_the_worst_tensor_decides_and_a_difference_ends_it():
    trial = {GRADIENT: outcome(2.0**-20), UPDATE: outcome(2.0**-8)}
    assert count_missing_trials([trial], 2.0**-40) == 4
    assert count_missing_trials([trial | {UP: outcome(equal=False)}], 2.0**-40) == 0


def test_trials_before_count_with_their_own_chance():
    assert count_missing_trials([{GRADIENT: outcome(1.0)}, {GRADIENT: outcome(2.0**-10)}], 2.0**-20) == 1


@pytest.mark.parametrize(
    ("void", "bound"),
    [(0, 1e-18), (1, 3e-12), (2, 3e-6), (3, 1.0)],
)
def test_a_trial_with_a_void_element_counts_for_nothing_and_which_ones_have_one_is_a_choice(void, bound):
    assert bound_of_trials([outcome(1e-6)] * 3, void) == pytest.approx(bound)


def test_the_trials_with_the_largest_chances_are_those_that_count():
    assert bound_of_trials([outcome(1e-6), outcome(1e-2), outcome(1e-4)], 1) == pytest.approx(3 * 1e-2 * 1e-4)


def test_a_probability_is_never_above_one():
    assert bound_of_trials([outcome(0.5)] * 3, 2) == 1.0


def void_at(*elements, rank=0):
    mask = torch.zeros(4, dtype=torch.bool)
    mask[list(elements)] = True
    return outcome(void={rank: VoidHeld(actual=mask, expected=torch.zeros_like(mask))})


def lost(trials):
    return {key: void.count for key, _, void in list_trials(trials)}


def test_trials_are_lost_to_the_element_that_is_void_most_often():
    assert lost([{UPDATE: void_at(0)}, {UPDATE: void_at(1)}, {UPDATE: void_at(2)}]) == {UPDATE: 1}
    assert lost([{UPDATE: void_at(0)}, {UPDATE: void_at(1)}, {UPDATE: void_at(1, 2)}]) == {UPDATE: 2}
    assert lost([{UPDATE: void_at(0)}, {UPDATE: void_at(0, rank=1)}]) == {UPDATE: 1}


def test_what_follows_an_update_loses_the_trials_that_the_update_loses():
    trials = [{GRADIENT: outcome(), UPDATE: void_at(3), NEXT: outcome()}, {UPDATE: void_at(3), NEXT: outcome()}]
    assert lost(trials) == {GRADIENT: 0, UPDATE: 2, NEXT: 2}
    (*_, (_, _, void)) = list_trials(trials)
    assert void.at == UPDATE
    assert lost([{GRADIENT: void_at(0), NEXT: outcome()}]) == {GRADIENT: 1, NEXT: 0}  # not drawn anew: it stays void


def test_what_has_another_shape_in_each_trial_is_counted_by_its_shape():
    mask = torch.ones(2, 3, dtype=torch.bool)
    other = outcome(void={0: VoidHeld(actual=mask, expected=mask)})
    assert lost([{UP: void_at(0)}, {UP: other}]) == {UP: 1}


def test_trials_with_void_elements_are_made_up_for():
    trials = [{GRADIENT: outcome(1e-6)}, {GRADIENT: outcome(1e-6, void=VOID)}]
    assert count_missing_trials(trials, 1e-5) == 0
    assert count_missing_trials(trials, 1e-11) == 1
