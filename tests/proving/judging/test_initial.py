"""Initial values: those of one device are proved, the ranks' own are said, repeated and diverging ones are wrong."""

import pytest
import torch
from tests.proving.judging.cases.draws import drawn

from shardproof.proving.cause import Cause, CauseKind
from shardproof.proving.findings import Verdict
from shardproof.proving.judging.initial import find_faults, find_other_spread, judge_initial
from shardproof.proving.judging.layout import find_layout

ADDRESSES = torch.arange(1.0, 9.0, dtype=torch.float64).view(4, 2)
WHOLE = drawn(4, 2, seed=0)
HALVES, REPLICAS = {0: ADDRESSES[:2], 1: ADDRESSES[2:]}, {0: ADDRESSES, 1: ADDRESSES}
PADDED = {0: ADDRESSES[:3], 1: torch.cat([ADDRESSES[3:], torch.zeros(2, 2, dtype=torch.float64)])}


def judge(*ranks, places=HALVES, whole=WHOLE):
    layout = find_layout({"w": ADDRESSES}, {"w": places})
    (finding,) = judge_initial({"w": whole}, [{"w": one} for one in ranks], layout)
    return finding


def test_the_values_of_one_device_are_proved_for_all_parameters_together():
    finding = judge(WHOLE[:2], WHOLE[2:])
    assert (finding.key.name, finding.verdict, finding.elements) == ("all parameters", Verdict.PROVED, 8)
    assert (finding.false_accept, finding.cause, finding.root) == (0.0, None, False)


def test_what_padding_holds_is_of_no_interest():
    finding = judge(WHOLE[:3], torch.cat([WHOLE[3:], torch.full((2, 2), 7.0)]), places=PADDED)
    assert finding.verdict is Verdict.PROVED


@pytest.mark.parametrize(
    ("ranks", "places", "verdict", "kind", "wrong"),
    [
        ((WHOLE[:2], drawn(2, 2, seed=1)), HALVES, Verdict.DRAWN, CauseKind.INITIAL_OWN, (1,)),
        ((drawn(2, 2, seed=1), drawn(2, 2, seed=1)), HALVES, Verdict.WRONG, CauseKind.INITIAL_REPEATED, (0, 1)),
        ((torch.ones(2, 2), torch.ones(2, 2)), HALVES, Verdict.WRONG, CauseKind.INITIAL_CONSTANT, (0, 1)),
        ((WHOLE[:2], WHOLE[:2]), HALVES, Verdict.DRAWN, CauseKind.INITIAL_OWN, (1,)),  # cut from it, and not drawn
        ((WHOLE, drawn(4, 2, seed=1)), REPLICAS, Verdict.WRONG, CauseKind.INITIAL_REPLICAS_DIFFER, (1,)),
        ((drawn(4, 2, seed=1),) * 2, REPLICAS, Verdict.DRAWN, CauseKind.INITIAL_OWN, (0, 1)),
        ((WHOLE[:2].T[:1], WHOLE[2:]), HALVES, Verdict.WRONG, CauseKind.INITIAL_MISSHAPEN, ()),
    ],
)  # fmt: skip
def test_others_are_said_with_their_ranks(ranks, places, verdict, kind, wrong):
    finding = judge(*[one.double() for one in ranks], places=places)
    assert (finding.key.name, finding.verdict, finding.cause) == ("w", verdict, Cause(kind=kind))
    assert (finding.ranks, finding.root) == (wrong, verdict is Verdict.WRONG)


def uniform(bound):
    return lambda *shape, seed: (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1) * bound


def sparse(*shape, seed):
    """Half zeros, as a pruned or a sparse initialisation has."""
    return drawn(*shape, seed=seed) * (drawn(*shape, seed=seed + 1000) > 0)


DISTRIBUTIONS = {"normal": drawn, "uniform": uniform(0.1), "sparse": sparse}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("rows", [1, 2, 10, 40, 200])
def test_numbers_of_the_same_distribution_are_of_the_same_spread(name, rows):
    draw = DISTRIBUTIONS[name]
    for seed in range(20):
        shards = [draw(rows, 32, seed=3 * seed + rank) for rank in range(2)]
        assert find_other_spread(shards, draw(2 * rows, 32, seed=100 + seed)) is None


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("factor", [2**0.5, 0.5**0.5, 2.0])
def test_a_fan_taken_from_the_shard_spreads_the_numbers_otherwise(name, factor):
    draw = DISTRIBUTIONS[name]
    for seed in range(10):
        shards = [factor * draw(32, 32, seed=3 * seed + rank) for rank in range(2)]
        cause = find_other_spread(shards, draw(64, 32, seed=100 + seed))
        assert cause.kind is CauseKind.INITIAL_SPREAD
        assert float(cause.factor) == pytest.approx(factor, rel=0.15)


def test_another_mean_and_a_constant_on_one_side_are_told_whatever_the_constant():
    shards = [drawn(32, 32, seed=rank) for rank in range(2)]
    full, half = drawn(64, 32, seed=9), torch.full((32, 32), 0.5)
    assert find_other_spread([one + 0.5 for one in shards], full).kind is CauseKind.INITIAL_MEAN
    assert find_other_spread([half, half], torch.full((64, 32), 0.25)).kind is CauseKind.INITIAL_MEAN
    assert find_other_spread([half, half], full).kind is CauseKind.INITIAL_CONSTANT
    assert find_other_spread(shards, torch.ones(64, 32)).kind is CauseKind.INITIAL_CONSTANT
    assert find_other_spread([half, half], torch.full((64, 32), 0.5)) is None
    assert find_other_spread([torch.zeros(0)], full) is None


def alternating(*pattern, count=200, mean=0.0, scale=1.0):
    """The same few numbers over and over."""
    return torch.tensor(pattern).repeat(count // len(pattern)) * scale + mean


@pytest.mark.parametrize(("mean", "kind"), [(0.49, None), (-0.49, None), (0.51, CauseKind.INITIAL_MEAN)])
def test_means_may_be_five_standard_errors_apart(mean, kind):
    """Of 200 numbers on either side with a deviation of 1 the standard error is a tenth."""
    found = find_other_spread([alternating(1.0, -1.0, mean=mean)], alternating(1.0, -1.0))
    assert (found and found.kind) == kind


@pytest.mark.parametrize(
    ("pattern", "least"),
    [
        ((1.0, -1.0), 1.288),  # of a kurtosis of 1, and taken as 1.8: 5 * sqrt(0.8 / 4 / 100) of the larger one
        ((1.0, 0.0, 0.0, -1.0), 4 / 3),  # of a kurtosis of 2
        ((1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0), 1.764),  # of 4
    ],
)
def test_deviations_may_be_five_standard_errors_apart(pattern, least):
    expected = alternating(*pattern)
    for factor in (least - 0.01, 1 / (least - 0.01)):
        assert find_other_spread([expected * factor], expected) is None
    for factor in (least + 0.01, 1 / (least + 0.01)):
        assert find_other_spread([expected * factor], expected).kind is CauseKind.INITIAL_SPREAD
    assert find_other_spread([expected * 2], expected).factor == 2


def test_one_number_is_no_constant():
    two = torch.tensor([1.0, -1.0])
    assert find_other_spread([two[:1]], two) is None
    assert find_other_spread([two], two[:1]) is None
    assert find_other_spread([torch.ones(2)], two).kind is CauseKind.INITIAL_CONSTANT
    assert find_other_spread([two], two[:0]) is None


def test_shards_of_two_numbers_are_repeated_and_of_one_are_constant():
    whole = alternating(0.5, 0.25, count=8).view(4, 2)
    for values, kind in (((0.5, 0.125), CauseKind.INITIAL_REPEATED), ((0.375, 0.375), CauseKind.INITIAL_CONSTANT)):
        shard = torch.tensor([values, values], dtype=torch.float64)
        assert judge(shard, shard, whole=whole.double()).cause.kind is kind


def test_a_rank_may_lack_a_parameter():
    layout = find_layout({"w": ADDRESSES}, {"w": {1: ADDRESSES}})
    (finding,) = judge_initial({"w": WHOLE}, [{}, {"w": drawn(4, 2, seed=1)}], layout)
    assert (finding.verdict, finding.ranks) == (Verdict.DRAWN, (1,))


def test_replicas_count_once():
    one = drawn(4, 4, seed=0)
    assert find_other_spread([one] * 1000, drawn(4, 4, seed=1)) is None


def test_only_parameters_that_differ_are_named():
    layout = find_layout(
        {"w": ADDRESSES, "b": -ADDRESSES[0]}, {"w": HALVES, "b": dict.fromkeys(range(2), -ADDRESSES[0])}
    )
    bias = drawn(2, seed=3)
    ranks = [{"w": one, "b": bias} for one in (WHOLE[:2], WHOLE[2:])]
    assert [one.key.name for one in judge_initial({"w": WHOLE, "b": drawn(2, seed=4)}, ranks, layout)] == ["b"]


def test_shards_that_dtensor_has_drawn_may_start_alike():
    alike = drawn(2, 2, seed=1)
    layout = find_layout({"w": ADDRESSES}, {"w": HALVES})
    for by_dtensor, verdict, kind in (
        ((), Verdict.WRONG, CauseKind.INITIAL_REPEATED),
        (("w",), Verdict.DRAWN, CauseKind.INITIAL_BY_DTENSOR),
    ):
        (finding,) = judge_initial({"w": WHOLE}, [{"w": alike}] * 2, layout, by_dtensor)
        assert (finding.verdict, finding.cause.kind) == (verdict, kind)


def test_of_what_dtensor_has_drawn_the_spread_is_compared():
    addresses = torch.arange(1.0, 801.0, dtype=torch.float64).view(40, 20)
    layout = find_layout({"w": addresses}, {"w": {0: addresses[:20], 1: addresses[20:]}})
    whole, alike = {"w": drawn(40, 20, seed=0)}, drawn(20, 20, seed=1)
    for factor, kind in ((1, CauseKind.INITIAL_BY_DTENSOR), (2, CauseKind.INITIAL_SPREAD)):
        (finding,) = judge_initial(whole, [{"w": factor * alike}] * 2, layout, ("w",))
        assert finding.cause.kind is kind


def test_without_a_layout_repeated_shards_and_another_spread_are_all_that_can_be_told():
    alike, apart = drawn(20, 20, seed=1), drawn(20, 20, seed=2)
    whole = {"w": drawn(40, 20, seed=0)}
    (finding,) = find_faults(whole, [{"w": alike, "x": alike}, {"w": alike, "x": alike}], ["w", "x"], ())
    assert (finding.key.name, finding.verdict, finding.cause.kind) == ("w", Verdict.WRONG, CauseKind.INITIAL_REPEATED)
    assert find_faults(whole, [{"w": alike}, {"w": alike}], ["w"], ("w",), by_dtensor=("w",)) == ()
    assert find_faults(whole, [{"w": alike}, {"w": apart}], ["w"], ("w",)) == ()
    wide = [{"w": 2 * alike}, {"w": 2 * apart}]
    (finding,) = find_faults(whole, [one | {"x": alike} for one in wide], ["w", "x"], ("w", "x"))
    assert (finding.verdict, finding.cause.kind) == (Verdict.WRONG, CauseKind.INITIAL_SPREAD)
    assert find_faults(whole, wide, ["w"], ()) == ()  # given and scaled, not drawn
