"""A certificate replays to the same findings; a changed step, a forged claim and a crooked field are told."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from tests.proving import steps

from shardproof.cli.app import main

STEPS = Path(steps.__file__)


@pytest.fixture
def run(monkeypatch, capsys):
    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["shardproof", *arguments])
        with pytest.raises(SystemExit) as exit_:
            main()
        printed = capsys.readouterr()
        return exit_.value.code, printed.out, printed.err

    return command


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Certificates of a right and of a wrong sharding, with their file, made once."""
    folder = tmp_path_factory.mktemp("certificates")
    shutil.copy(STEPS, folder / "my_training.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, sharding in [("right", "parallelize"), ("wrong", "scaled_gradient")]:
            arguments = ["my_training.py:step", "--parallelize", f"my_training.py:{sharding}", "--trials", "1"]
            patch.setattr(
                sys, "argv", ["shardproof", "prove", *arguments, "--format", "json", "--output", f"{name}.json"]
            )
            with pytest.raises(SystemExit):
                main()
    return folder


@pytest.fixture
def folder(written, tmp_path, monkeypatch):
    """A copy of them as the current folder."""
    shutil.copytree(written, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_proof_replays_and_holds(run, folder):
    code, out, err = run("check", "right.json")
    assert (code, err) == (0, "")
    assert out.startswith("HOLDS: ")
    assert out.count("\n") == 1


def test_a_certificate_of_a_wrong_step_holds_and_proves_nothing(run, folder):
    code, out, _ = run("check", "wrong.json")
    assert code == 1
    assert out.startswith("HOLDS, and is of a step that is NOT PROVED")


def test_what_was_allowed_is_allowed_again(run, folder):
    arguments = ["my_training.py:step", "--parallelize", "my_training.py:scaled_gradient", "--trials", "1"]
    code, out, _ = run("prove", *arguments, "--allow", "WRONG *", "--format", "json", "--output", "allowed.json")
    assert (code, out) == (0, "")
    certificate = json.loads((folder / "allowed.json").read_text())
    count, findings = certificate["count"], certificate["findings"]
    assert count["failed"] == 0 < count["allowed"]
    assert count["passed"] + count["failed"] + count["allowed"] == len(findings)
    assert run("check", "allowed.json")[0] == 0
    change(folder / "allowed.json", allow=[])
    code, _, _ = run("check", "allowed.json")
    assert code == 1


def test_a_training_of_the_users_own_has_a_certificate_too(run, folder):
    source = (folder / "my_training.py").read_text()
    added = (
        "\nfour_rows = make_step_of_four_rows()\nright, wrong = make_training(), make_training(forget=['average'])\n"
    )
    (folder / "my_training.py").write_text(source + added)
    for training, expected in [("right", 0), ("wrong", 1)]:
        arguments = ["my_training.py:four_rows", "--candidate", f"my_training.py:{training}", "--trials", "1"]
        code, _, err = run("prove", *arguments, "--format", "json", "--output", f"own_{training}.json")
        assert (code, err) == (expected, "")
        assert run("check", f"own_{training}.json")[0] == expected


def test_a_step_that_changed_no_longer_holds_and_the_file_is_named(run, folder):
    source = (folder / "my_training.py").read_text()
    (folder / "my_training.py").write_text(source + "\nparallelize = megatron('bias inside')\n")
    code, out, _ = run("check", "right.json")
    assert code == 1
    assert out.startswith("DOES NOT HOLD")
    assert "step 1, gradient up.weight: PROVED then, WRONG" in out
    assert "my_training.py has changed since" in out


def test_json_answers_the_same_and_goes_to_a_file(run, folder):
    code, out, _ = run("check", "wrong.json", "--format", "json", "--output", "answer.json")
    assert (code, out) == (1, "")
    content = json.loads((folder / "answer.json").read_text())
    assert (content["holds"], content["ok"], content["differences"]) == (True, False, [])


def forge_verdict(content):
    for finding in content["findings"]:
        finding["verdict"], finding["cause"] = "PROVED", None
    content["ok"] = True


def forge_factor(content):
    for finding in content["findings"]:
        if finding["root"]:
            finding["cause"]["factor"] = "3"


def forge_bound(content):
    for finding in content["findings"]:
        finding["false_accept"] = 1e-300


def forge_prime(content):
    content["primes"] = [7]


def forget_finding(content):
    del content["findings"][0]


@pytest.mark.parametrize(
    ("name", "forge", "said"),
    [
        ("wrong", forge_verdict, "gradient up.weight: PROVED then, WRONG (2 times too large) now"),
        ("wrong", forge_factor, "WRONG (3 times too large) then, WRONG (2 times too large) now"),
        ("right", forge_bound, "bound 1e-300 then"),
        ("right", forge_prime, "primes and seeds are now"),
        ("right", forget_finding, "PROVED now, not compared then"),
    ],
)
def test_a_forged_claim_does_not_hold(run, folder, name, forge, said):
    path = folder / f"{name}.json"
    content = json.loads(path.read_text())
    forge(content)
    path.write_text(json.dumps(content))
    code, out, _ = run("check", path.name)
    assert code == 1
    assert out.startswith("DOES NOT HOLD")
    assert said in out


SPECIFICATION = {
    "step": "my_training.py:step",
    "parallelize": "my_training.py:parallelize",
    "settings": {},
    "plan_set": {},
    "plan_drop": [],
    "full_size": False,
    "steps": None,
    "seed": 0,
}
FINDING = {
    "step": 1,
    "phase": "loss",
    "name": "loss",
    "call": 1,
    "verdict": "PROVED",
    "cause": None,
    "allowed": "",
    "false_accept": None,
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema_version": 99}, "schema_version 99"),
        ({"schema_version": 3}, "make a new one by `shardproof prove --format json`"),
        ({"schema_version": True}, "schema_version must be of type int"),
        ({"specification": None}, "does not say how to make its step again"),
        ({"specification": SPECIFICATION | {"step": 3}}, "step must be of type str"),
        ({"specification": SPECIFICATION | {"step": "/etc/evil.py:step"}}, "outside the current folder"),
        ({"specification": SPECIFICATION | {"parallelize": "../evil.py:step"}}, "outside the current folder"),
        ({"specification": SPECIFICATION | {"step": "hf:../config.json"}}, "outside the current folder"),
        ({"specification": SPECIFICATION | {"steps": 10**9}}, "steps is 1000000000"),
        ({"specification": SPECIFICATION | {"plan_drop": [1]}}, "plan_drop must be of type str"),
        ({"specification": SPECIFICATION | {"settings": {"auto_map": {}}}}, "sets 'auto_map'"),
        ({"specification": SPECIFICATION | {"settings": {"_attn_implementation": "x"}}}, "'_attn_implementation'"),
        ({"specification": SPECIFICATION | {"settings": {"a.__class__": 1}}}, "sets 'a.__class__'"),
        ({"specification": SPECIFICATION | {"settings": {"text_config.auto_map": {}}}}, "sets 'text_config.auto_map'"),
        ({"specification": SPECIFICATION | {"full_size": 1}}, "full_size must be of type bool"),
        ({"specification": SPECIFICATION | {"memory": "1"}}, "memory must be of type float"),
        ({"specification": SPECIFICATION | {"step": "hf:llama", "plan": "../plan.json"}}, "outside the current folder"),
        ({"specification": SPECIFICATION | {"reduce": [2]}}, "reduce must be of type dict"),
        ({"specification": SPECIFICATION | {"reduce": {"tp": 10**9}}}, "its step is reduced for another mesh"),
        ({"mesh": {"tp": 1}}, "the mesh has 1 rank"),
        ({"mesh": {"tp": "2"}}, "axis tp is of size '2'"),
        ({"mesh": {"dp": 100, "tp": 100}}, "mesh has 10000 ranks"),
        ({"mesh": [2]}, "mesh must be of type dict"),
        ({"data_axes": ["dp"]}, "data_axes names 'dp'; the mesh has tp"),
        ({"data_axes": [0]}, "data_axes must be of type str"),
        ({"trials": 2}, "not as many primes and seeds"),
        ({"primes": ["7"]}, "primes must be of type int"),
        ({"findings": []}, "no findings"),
        ({"findings": ["x"]}, "a finding must be of type dict"),
        ({"findings": [FINDING, FINDING]}, "twice"),
        ({"findings": [FINDING | {"verdict": "FINE"}]}, "verdict is 'FINE'"),
        ({"findings": [FINDING | {"phase": "later"}]}, "phase is 'later'"),
        ({"findings": [FINDING | {"false_accept": 2}]}, "must be a probability"),
        ({"findings": [FINDING | {"false_accept": "0"}]}, "must be a probability"),
        ({"findings": [FINDING | {"cause": "2 times too large"}]}, "cause holds str where dict is needed"),
        ({"findings": [FINDING | {"cause": {}}]}, "a cause without a kind"),
        ({"findings": [FINDING | {"cause": {"kind": "bad luck"}}]}, "of kind 'bad luck', which is none"),
        ({"findings": [FINDING | {"cause": {"kind": "scaled", "luck": 1}}]}, "'luck', which no cause has"),
        ({"findings": [FINDING | {"cause": {"kind": "scaled", "factor": 2}}]}, "int where str is needed"),
        ({"findings": [FINDING | {"cause": {"kind": "scaled", "factor": "1e9"}}]}, "a fraction such as '1/2'"),
        ({"findings": [FINDING | {"cause": {"kind": "scaled", "factor": "1/0"}}]}, "divides by zero"),
        ({"findings": [FINDING | {"cause": {"kind": "replicas differ", "ranks": [True]}}]}, "bool where int is needed"),
        ({"ok": False}, "contradicts itself"),
        ({"findings": [FINDING | {"verdict": "WRONG"}]}, "contradicts itself"),
        ({"files": {"a": 1}}, "files must be of type str"),
    ],
)
def test_a_crooked_field_is_exit_code_2(run, folder, changes, said):
    change(folder / "right.json", **changes)
    code, out, err = run("check", "right.json")
    assert (code, out) == (2, "")
    assert said in err


def mended(content, **changes):
    """A certificate within itself, as `--suggest` puts it there."""
    return {"entries": {}, "tried": 1, "certificate": content | {"suggestion": None} | changes}


@pytest.mark.parametrize(
    ("suggestion", "said"),
    [
        (lambda _: [], "suggestion must be of type dict"),
        (lambda inner: mended(inner) | {"entries": {"a": 1}}, "entries must be of type str"),
        (lambda inner: mended(inner) | {"entries": {"a": "colwise"}}, "its suggestion is of another step"),
        (lambda inner: mended(inner, suggestion=mended(inner)), "has a suggestion of its own"),
        (lambda inner: mended(inner, ok=False), "contradicts itself"),
        (lambda inner: mended(inner) | {"certificate": []}, "certificate must be of type dict"),
        (
            lambda inner: mended(inner, specification=inner["specification"] | {"step": "/etc/evil.py:step"}),
            "outside the current folder",
        ),
    ],
)
def test_a_crooked_suggestion_is_exit_code_2(run, folder, suggestion, said):
    path = folder / "right.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"suggestion": suggestion(content)}))
    code, out, err = run("check", "right.json")
    assert (code, out) == (2, "")
    assert said in err


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 100_000, '{"schema_version": NaN}', "\x80", "{'a': 1}"])
def test_what_is_no_certificate_is_exit_code_2(run, folder, text):
    (folder / "bad.json").write_bytes(text.encode("latin-1"))
    code, out, err = run("check", "bad.json")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1


def test_a_link_out_of_the_folder_is_not_run(run, folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "evil.py"
    outside.write_text("raise SystemExit('ran')")
    (folder / "my_training.py").unlink()
    (folder / "my_training.py").symlink_to(outside)
    assert "outside the current folder" in run("check", "right.json")[2]


def test_an_absent_certificate_is_exit_code_2(run, folder):
    assert "cannot be read" in run("check", "absent.json")[2]
