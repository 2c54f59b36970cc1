"""Whether a division by zero is the prime's doing or the program's own, from several draws."""

import pytest
from tests.exact.engine.probes import drawn

from shardproof.exact import ExactArithmetic, say_zero_divisions


def test_a_tiny_prime_divides_by_zero_by_chance_and_a_program_by_itself():
    x = drawn(40)

    def run(seed, prime, own):
        exact = ExactArithmetic(seed=seed, prime=prime)
        with exact:
            (x - x if own else x).reciprocal()
        return exact

    assert say_zero_divisions([run(seed, None, own=False) for seed in range(3)]) == ""
    by_chance = say_zero_divisions([run(seed, 101, own=False) for seed in range(8)])
    assert "of 8 draws divide by zero modulo their prime" in by_chance
    assert "another seed" in by_chance
    own = say_zero_divisions([run(seed, None, own=True) for seed in range(3)])
    assert "the program itself divides by zero, in each of 3 draws" in own
    assert "test_zero_divisions.py" in own
    with pytest.raises(ValueError, match="no draws"):
        say_zero_divisions([])
