"""A cause's own text, for logs: its kind and the parameters that it has."""

from fractions import Fraction

from shardproof.proving.cause import Cause, CauseKind, Mend


def test_a_cause_prints_its_kind_and_its_parameters():
    cause = Cause(kind=CauseKind.SCALED, factor=Fraction(2), axes=("tp",), mend=Mend.ALL_REDUCE_GRADIENT)
    assert str(cause) == f"{CauseKind.SCALED} (mend all-reduce the gradient, factor 2, axes ('tp',))"
    assert cause[:6] == str(cause)[:6]


def test_a_cause_without_parameters_prints_its_kind_alone():
    assert str(Cause(kind=CauseKind.MASK_OWN)) == "own dropout mask"
