"""Notes: what every report says beside findings. `test_text.py` has each line; here, that a right proof has few."""

from tests.report.proofs import FLOAT32, ROUNDED, finding, proof

from shardproof.proving.findings import Sharding
from shardproof.report.notes import list_notes, list_sharding_notes


def test_a_plain_proof_has_a_note_of_its_bound_and_of_its_numbers():
    found = list(list_notes(proof(finding(false_accept=1e-9, numbers=ROUNDED), native=FLOAT32)))
    assert found == [
        "1 tensor agrees by chance with probability at most 1e-09 each.",
        "In float32: 0 tensors exact, 1 within 8 times the rounding noise (largest ratio 2 at step 1, gradient w).",
        "In float32 as in exact arithmetic: 3 collectives a rank, the same.",
    ]


def test_names_are_escaped():
    assert "a\\x1bb" in next(iter(list_notes(proof(finding(), loaded=("a\x1bb",)))))
    sharding = Sharding(parameters=2, split=1, unmatched=("a\nb",))
    (note,) = list_sharding_notes(proof(finding(), sharding=sharding))
    assert note.endswith("a\\nb.")
