"""`shardproof check`: what it answers of a certificate and a new proof, which are made up here."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from shardproof.cli import app


@dataclass
class Specification:
    """Instead of the real one: a step that is never run."""

    seed: int = 7
    now: dict = field(default_factory=dict)
    step, parallelize, candidate = "the step", "the sharding", None

    def load(self):
        return self

    def digests(self):
        return self.now


@dataclass
class Certificate:
    specification: Specification
    digests: dict = field(default_factory=dict)
    versions: dict = field(default_factory=dict)
    mesh: dict = field(default_factory=lambda: {"tp": 2})
    data_axes: tuple = ()
    primes: tuple = (11, 13)
    allow: tuple = ("VACUOUS *",)
    claims: tuple = ("a", "b", "c")
    mended: object = None


@dataclass
class Proof:
    ok: bool


@pytest.fixture
def check(monkeypatch, capsys, tmp_path):
    """Run the command on a certificate that `differences` say to hold or not; return exit code, stdout, and the proof's
    arguments.
    """

    def run(*more, ok=True, differences=(), certificate=None):
        asked = {}

        def prove(step, **settings):
            asked.update(settings, step=step)
            return Proof(ok=ok)

        read = certificate or Certificate(Specification())
        monkeypatch.setattr("shardproof.proving.prove.prove", prove)
        monkeypatch.setattr("shardproof.report.certificate.read_certificate", lambda _path: read)
        monkeypatch.setattr("shardproof.report.certificate.compare_with", lambda _read, _proof: list(differences))
        monkeypatch.setattr("shardproof.report.json.installed_versions", lambda: {"torch": "2"})
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["shardproof", "check", "proof.json", *more])
        with pytest.raises(SystemExit) as end:
            app.main()
        return end.value.code, capsys.readouterr().out, asked

    return run


@pytest.mark.parametrize(
    ("ok", "differences", "code", "answer"),
    [
        (True, [], 0, "HOLDS: 3 tensors"),
        (False, [], 1, "HOLDS, and is of a step that is NOT PROVED: 3 tensors"),
        (True, ["a was PROVED"], 1, "DOES NOT HOLD: 3 tensors\na was PROVED"),
        (False, ["a was PROVED"], 1, "DOES NOT HOLD: 3 tensors\na was PROVED"),
    ],
)
def test_a_certificate_holds_if_nothing_differs_and_passes_if_it_is_of_a_proof(check, ok, differences, code, answer):
    assert check(ok=ok, differences=differences)[:2] == (code, answer + "\n")


def test_what_is_proved_again_is_what_the_certificate_says(check):
    _, _, asked = check("--spawn", "--timeout", "5")
    assert asked["step"] == "the step"
    assert (asked["parallelize"], asked["candidate"]) == ("the sharding", None)
    assert (asked["mesh"], asked["trials"], asked["allow"], asked["seed"]) == ({"tp": 2}, 2, ("VACUOUS *",), 7)
    assert (asked["spawn"], asked["timeout"]) == (True, 5)


def test_json_says_the_same(check):
    code, out, _ = check("--format", "json", ok=False, differences=["a was PROVED"])
    assert code == 1
    assert json.loads(out) == {
        "schema_version": 1,
        "holds": False,
        "ok": False,
        "compared": 3,
        "differences": ["a was PROVED"],
        "notes": [],
    }


def test_what_has_changed_since_is_noted_and_no_difference(check):
    specification = Specification(now={"a.py": "new", "b.py": "same"})
    certificate = Certificate(specification, {"a.py": "old", "b.py": "same"}, {"torch": "1", "numpy": "3"})
    code, out, _ = check(certificate=certificate)
    assert code == 0
    assert out.splitlines()[1:] == ["a.py has changed since", "torch was 1, is 2", "numpy was 3, is None"]


def test_nothing_is_noted_where_nothing_has_changed(check):
    certificate = Certificate(Specification(now={"a.py": "same"}), {"a.py": "same"}, {"torch": "2"})
    assert check(certificate=certificate)[1] == "HOLDS: 3 tensors\n"


def test_control_characters_are_escaped(check):
    assert "\x1b" not in check(differences=["a\x1b[2J was PROVED"])[1]


def test_the_answer_goes_to_a_file(check):
    code, out, _ = check("--output", "answer.txt")
    assert (code, out) == (0, "")
    assert Path("answer.txt").read_text() == "HOLDS: 3 tensors\n"


def test_a_file_that_cannot_be_written_is_said_before_the_proof(check):
    code, out, asked = check("--output", "no/where")
    assert (code, out, asked) == (2, "", {})
