"""The report line by line: the answer, first causes with what would mend them, what follows, what is drawn, bounds."""

from dataclasses import replace
from fractions import Fraction

import pytest
from tests.report.proofs import FLOAT32, NEAR, ROUNDED, finding, proof

from shardproof.exact import NoBound
from shardproof.proving.cause import Cause, CauseKind, Mend
from shardproof.proving.findings import Native, Sharding, Unbounded, Verdict
from shardproof.proving.records import CollectiveCall, Key, Phase
from shardproof.report.text import render_text

MISSING = Cause(kind=CauseKind.MISSING_ALL_REDUCE, axes=("tp",), mend=Mend.ALL_REDUCE_GRADIENT)
WRONG = finding(verdict=Verdict.WRONG, cause=MISSING, root=True)


def lines(*findings, **settings):
    return render_text(proof(*findings, **settings)).splitlines()


@pytest.mark.parametrize(
    ("verdict", "trials", "head"),
    [
        (Verdict.PROVED, 2, "PROVED: 1 tensors: 1 PROVED"),
        (Verdict.WRONG, 2, "NOT PROVED: 1 tensors: 1 WRONG"),
        (Verdict.ROUNDING, 0, "WITHIN ROUNDING, NOT PROVED: 1 tensors: 1 ROUNDING"),
        (Verdict.WRONG, 0, "NOT WITHIN ROUNDING: 1 tensors: 1 WRONG"),
    ],
)
def test_the_first_line_is_the_answer_and_numbers_are_never_called_a_proof(verdict, trials, head):
    found = lines(finding(verdict=verdict, root=not verdict.ok), trials=trials)
    assert found[0] == head
    assert ("Probed with: x." in found) is (trials > 0)


def test_the_second_line_has_the_mesh_and_the_primes():
    assert lines(finding())[1] == "2 ranks, 2 trials, primes 101, 103"
    assert lines(finding(), mesh={"dp": 2, "tp": 3})[1] == "6 ranks (dp 2 x tp 3), 2 trials, primes 101, 103"
    assert lines(finding(), trials=1, primes=(7,))[1] == "2 ranks, 1 trial, primes 7"
    assert lines(finding(), trials=0)[1] == "2 ranks, numbers only, no exact arithmetic"


def test_what_is_split_is_said_and_which_entries_of_the_plan_do_nothing():
    found = lines(finding(), sharding=Sharding(parameters=5, split=4))
    assert found[1] == "4 of 5 parameters split, 2 ranks, 2 trials, primes 101, 103"
    assert not any("do nothing" in line for line in found)
    found = lines(finding(), sharding=Sharding(parameters=5, split=0, unmatched=("up.*", "down\n")))
    assert "Plan entries that match no module, and do nothing: up.*, down\\n." in found


def test_an_axis_of_replicas_is_named_unless_it_is_a_finding():
    said = "Along rep nothing is split: its ranks hold and compute the same."
    sharding = Sharding(parameters=5, split=4, idle=("rep",))
    assert said in lines(finding(), sharding=sharding)
    cause = Cause(kind=CauseKind.NOTHING_SPLIT, axes=("rep",))
    assert said not in lines(finding("rep", Verdict.VACUOUS, phase=Phase.SHARDING, cause=cause), sharding=sharding)


def test_buffers_of_the_candidate_alone_are_listed():
    assert not any("Buffers" in line for line in lines(finding()))
    found = lines(finding(), own_buffers=tuple("abcdefgh"))
    assert "Buffers that only the candidate has, compared with nothing: a, b, c, d, e, f and 2 more." in found


@pytest.mark.parametrize("approximate", [False, True])
def test_a_first_cause_has_its_words_and_what_would_mend_it_in_numbers_too(approximate):
    found = lines(replace(WRONG, cause=replace(MISSING, approximate=approximate)))
    at = found.index("First causes:")
    about = "about " if approximate else ""
    assert found[at + 1 : at + 4] == [
        "  step 1, gradient: w: WRONG",
        f"    ranks hold partial values whose sum is {about}right: an all-reduce is missing.",
        "    An all-reduce of the gradient over tp is missing in the backward.",
    ]


def test_without_a_mend_nothing_is_advised():
    found = lines(replace(WRONG, cause=Cause(kind=CauseKind.SCALED, factor=Fraction(2))))
    assert "    2 times too large." in found
    assert not [line for line in found if "missing" in line]


def test_a_first_cause_says_what_is_known_of_it():
    known = replace(
        WRONG, verdict=Verdict.UNDECIDED, cause=None, rounding=NEAR, source_line="a.py:1 in f", differing=2,
        elements=9, ranks=(0, 3),
    )  # fmt: skip
    found = "\n".join(lines(known))
    assert "In float64 the largest difference is 1e-15, 1 times the noise." in found
    assert "The digits differ, float64 agrees" in found
    assert "Its module is called at a.py:1 in f." in found
    assert "2 of 9 elements differ, on rank 0, 3." in found


def test_equal_findings_of_numbered_tensors_are_one_line():
    found = lines(*(replace(WRONG, key=replace(WRONG.key, name=f"layers.{number}.w")) for number in range(3)))
    assert "  step 1, gradient: layers.*.w (3 tensors): WRONG" in found


def test_equal_findings_of_any_tensors_are_one_first_cause():
    place = Cause(kind=CauseKind.UNEXPLAINED, ranks=(0,), elements=4)
    first = replace(WRONG, cause=place, differing=4, elements=4, ranks=(0,), source_line="a.py:1 in f")
    found = lines(first, replace(first, key=replace(first.key, name="bias")))
    at = found.index("First causes:")
    assert found[at + 1 : at + 4] == [
        "  step 1, gradient: w, bias (2 tensors): WRONG",
        "    In the first, 4 elements differ on rank 0; no known relation explains it.",
        "    The first module is called at a.py:1 in f.",
    ]
    alone = lines(first)
    assert "    4 elements differ on rank 0; no known relation explains it." in alone
    assert "    Its module is called at a.py:1 in f." in alone
    assert "    4 of 4 elements differ, on rank 0." not in alone
    assert "    4 of 9 elements differ, on rank 0." in lines(replace(first, elements=9))


def test_a_difference_of_nothing_is_not_told_beside_another_cause():
    missing = replace(WRONG, cause=Cause(kind=CauseKind.FROZEN), rounding=replace(NEAR, maxdiff=0.0))
    assert not any("largest difference" in line for line in lines(missing))
    assert any("largest difference" in line for line in lines(replace(missing, rounding=NEAR)))


def test_what_follows_is_counted_by_step_and_phase():
    follows = [finding(f"f{n}", Verdict.WRONG, phase=Phase.UPDATE) for n in range(2)]
    found = lines(WRONG, *follows)
    assert found[found.index("What follows from them:") + 1] == "  step 1, updated parameter: 2 WRONG"


def test_what_is_drawn_is_said_with_its_cause():
    own = finding("drop", Verdict.DRAWN, phase=Phase.MASK, cause=Cause(kind=CauseKind.MASK_OWN))
    found = lines(finding(), own)
    at = found.index("Drawn by the ranks for themselves, which is not wrong:")
    assert found[at + 1].startswith("  step 1, dropout mask: drop: the ranks' own mask, ")
    assert "First causes:" not in found


def test_what_is_allowed_is_said_and_a_pattern_that_nothing_needs_too():
    found = lines(finding(), replace(WRONG, allowed="WRONG *"), allow=("WRONG *", "VACUOUS *"))
    assert found[found.index("Allowed by 'WRONG *':") + 1] == "  step 1, gradient: w: WRONG"
    assert "Nothing needs 'VACUOUS *' any more: take it out of what is allowed." in found
    assert "First causes:" not in found


@pytest.mark.parametrize(
    ("bounds", "told"),
    [
        ((1e-9, 1e-6), ["2 tensors agree by chance with probability at most 1e-06 each."]),
        ((1e-9,), ["1 tensor agrees by chance with probability at most 1e-09 each."]),
        ((None,), ["1 tensor agrees (w0) at 2 random points, no derived bound."]),
        ((None,) * 4, ["4 tensors agree at 2 random points, no derived bound."]),
        ((0.0,), []),
    ],
)
def test_bounds_are_the_worst_of_those_that_are_derived(bounds, told):
    found = lines(*(finding(f"w{number}", false_accept=bound) for number, bound in enumerate(bounds)))
    assert [line for line in found if "agree" in line] == told


def test_elements_that_the_only_trial_leaves_out_are_counted():
    alone = finding("table", uncompared=1, elements=64)
    said = "divides by zero by chance in the only trial, and agree in float64 alone: take more trials."
    assert f"1 element of 1 of these tensors {said.replace('agree', 'agrees')}" in lines(alone)
    said = "divide by zero by chance in the only trial, and agree in float64 alone: take more trials."
    assert f"3 elements of 2 of these tensors {said}" in lines(alone, finding("bias", uncompared=2, elements=64))
    assert not any("by chance in the only trial" in line for line in lines(finding("table", elements=64)))


def test_a_gradient_that_was_probed_in_part_is_said_to_be():
    found = lines(finding("table", probed=4, elements=16, false_accept=0.0))
    assert "step 1, gradient: table: 25% of its elements were probed, the rest are zero." in found


# The user's own dtypes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (2e-7, "1 within 8 times the rounding noise (largest ratio 2 at step 1, gradient w)."),
        (9e-7, "0 within 8 times the rounding noise, 1 more than that (largest ratio 9 at step 1, gradient w)."),
        (2e-6, "0 within 8 times the rounding noise, 1 more than 16 times (largest ratio 20 at step 1, gradient w)."),
    ],
)
def test_numbers_are_counted_by_their_ratio(error, told):
    found = lines(finding(numbers=replace(ROUNDED, error=error)), native=FLOAT32)
    assert f"In float32: 0 tensors exact, {told}" in found


def test_the_collectives_are_the_same_or_a_finding():
    same = "In float32 as in exact arithmetic: 3 collectives a rank, the same."
    assert same in lines(finding(numbers=ROUNDED), native=FLOAT32)
    assert same not in lines(finding("in up", Verdict.WRONG, phase=Phase.COLLECTIVES, root=True), native=FLOAT32)


def test_a_dtype_that_cannot_be_run_is_said_with_the_first_line_of_why():
    failed = Native(dtype="float16", failed="NotImplementedError: no kernel\nof half precision")
    told = "In float16 nothing was compared: the step does not run in it on one device: NotImplementedError: no kernel"
    assert lines(finding(), native=failed)[-1] == told


# Names are untrusted --------------------------------------------------------------------------------------------------


def test_no_name_reaches_the_terminal_as_it_is():
    evil = "a\x1b[31m\nb"
    collective = CollectiveCall(step=0, kind=evil, ranks=(0,), shapes=(), location=evil, placement=evil)
    cause = Cause(kind=CauseKind.COLLECTIVES_DIVERGE, exact_collective=collective, dtype="float32")
    text = render_text(
        proof(
            finding(evil, Verdict.WRONG, cause=cause, root=True, source_line=evil),
            finding(evil, Verdict.WRONG, allowed=evil),
            finding(evil),
            allow=(evil, evil + "?"),
            native=Native(dtype="float32", failed=evil),
        )
    )
    assert "\x1b" not in text
    assert "\nb" not in text


@pytest.mark.parametrize("reason", NoBound)
def test_a_tensor_without_a_bound_says_why_and_where_the_bound_is_lost(reason):
    unbounded = Unbounded(reason=reason, at=Key(0, Phase.OUTPUT, "block\x1b.attention"))
    lost = [finding(f"w{number}", unbounded=unbounded) for number in range(5)]
    found = lines(finding("b", false_accept=1e-9), *lost, finding("c"))
    at = found.index("5 tensors agree at 2 random points, no derived bound.")
    assert found[at + 1].startswith("  The bound is lost at step 1, output block\\x1b.attention: ")
    assert found[at + 1].endswith(".")
    assert found[at + 2] == "1 tensor agrees (c) at 2 random points, no derived bound."
    assert "1 tensor agrees by chance with probability at most 1e-09 each." in found


def test_each_reason_has_a_line_of_its_own():
    at = Key(0, Phase.OUTPUT, "up")
    lost = [finding(f"w{n}", unbounded=Unbounded(reason=reason, at=at)) for n, reason in enumerate(NoBound)]
    told = [line for line in lines(*lost) if "The bound is lost at" in line]
    assert len(set(told)) == len(NoBound)


# A screen, and everything ---------------------------------------------------------------------------------------------


SCALED = Cause(kind=CauseKind.SCALED)


def different_causes(count):
    return [
        replace(
            WRONG, key=replace(WRONG.key, name="w" * (number + 1)), cause=replace(SCALED, factor=Fraction(number + 2))
        )
        for number in range(1, count + 1)
    ]


def test_a_summary_fits_a_screen_and_verbose_has_all():
    many = proof(*different_causes(12), *(finding(f"right{n}") for n in range(500)))
    summary = render_text(many).splitlines()
    assert len(summary) <= 24
    assert sum("times too large" in line for line in summary) == 5
    assert "  and 7 more first causes: `-v` has all" in summary
    full = render_text(many, verbose=True).splitlines()
    assert sum("times too large" in line for line in full) == 12
    assert not any("`-v`" in line for line in full)
    assert "  step 1, gradient right499: PROVED" in full
    assert "  step 1, gradient ww: WRONG, a first cause" in full


def test_five_first_causes_are_all_told():
    assert not any("more first cause" in line for line in lines(*different_causes(5)))
    assert "  and 1 more first cause: `-v` has all" in lines(*different_causes(6))


def test_verdicts_are_coloured_only_if_that_is_wanted():
    assert "\x1b" not in render_text(proof(WRONG, finding()))
    coloured = render_text(proof(WRONG, finding()), colour=True)
    assert coloured.startswith("\x1b[1;31mNOT PROVED\x1b[0m: 2 tensors: 1 \x1b[1;32mPROVED\x1b[0m, 1 \x1b[1;31mWRONG")
