"""Why an element has no derived bound: one value for each way in which a bound is lost."""

from __future__ import annotations

from enum import StrEnum


class NoBound(StrEnum):
    """Why nothing is derived of an element. Each is made where the bound is lost, and kept from there on."""

    DEGREE = "degree"  # too many variables are multiplied: a deep formula that is not cut
    DEPTH = "depth"  # oracles inside oracles, or exponentials of logarithms
    GATES = "gates"  # too many oracle outputs in one element
    SOFTMAX = "softmax"  # a softmax or log-softmax of too many elements
    CROSS_ENTROPY = "cross-entropy"  # a sum of the logarithms of too many exponentials
    ATTENTION = "fused attention"  # attention in one op, which is not taken apart
    COMPARED = "compared"  # too many elements were compared
    SELECTION = "selection"  # it was chosen by comparing, and what was compared is not compared with the reference's
    READ = "read"  # a residue was read as a number before
    VOID = "void"  # in every trial some element comes of a division by zero
