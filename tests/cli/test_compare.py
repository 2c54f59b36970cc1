"""`shardproof compare`: what it prints, what it writes, and its exit codes."""

import json
import math
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from shardproof.cli import app, compare


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command in this process, as the entry point does; returns exit code, stdout and stderr."""

    def run_command(*arguments):
        monkeypatch.setattr(sys, "argv", ["shardproof", "compare", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            app.main()
        out = capsys.readouterr()
        return end.value.code or 0, out.out, out.err

    return run_command


@pytest.fixture
def files(tmp_path):
    """Writes two files; returns their paths."""

    def write(actual, expected):
        save_file({name: one.clone() for name, one in actual.items()}, tmp_path / "actual")
        save_file({name: one.clone() for name, one in expected.items()}, tmp_path / "expected")
        return tmp_path / "actual", tmp_path / "expected"

    return write


def test_equal_files(run, files):
    code, out, err = run(
        *files({"w": torch.ones(2, 3), "b": torch.zeros(3)}, {"w": torch.ones(2, 3), "b": torch.zeros(3)})
    )
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "2 passed (2 exact) + 0 failed + 0 skipped = 2 tensors"
    assert "w               | exact: True  | approximate: True  | maxdiff: 0.0" in out


def test_equal_within_tolerance_is_0_and_beyond_it_1(run, files):
    paths = files({"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([1.0, 2.0 + 1e-6])})
    code, out, _ = run(*paths)
    assert code == 0
    assert "1 passed (0 exact)" in out
    code, out, _ = run(*paths, "--rtol", "0", "--atol", "1e-9")
    assert code == 1
    assert "0 passed (0 exact) + 1 failed + 0 skipped = 1 tensors" in out
    assert "worst: [1] actual 2.0 expected 2.00000" in out


def test_every_kind_of_difference_has_its_line(run, files):
    actual = {"shape": torch.ones(2), "dtype": torch.ones(2), "extra": torch.ones(1), "same": torch.ones(1)}
    expected = {
        "shape": torch.ones(3),
        "dtype": torch.ones(2).double(),
        "missing": torch.ones(1),
        "same": torch.ones(1),
    }
    code, out, _ = run(*files(actual, expected))
    assert code == 1
    assert "shape           | differs: shape [2] where [3] is expected" in out
    assert "dtype           | differs: dtype float32 where float64 is expected" in out
    assert "missing         | missing: only expected has it" in out
    assert "extra           | extra: only actual has it" in out
    assert out.splitlines()[-1] == "1 passed (1 exact) + 4 failed + 0 skipped = 5 tensors"


@pytest.mark.parametrize("side", [0, 1])
def test_a_missing_or_extra_tensor_alone_diverges(run, files, side):
    both = [{"w": torch.ones(1)}, {"w": torch.ones(1)}]
    both[side]["other"] = torch.ones(1)
    assert run(*files(*both))[0] == 1


@pytest.mark.parametrize("tensors", [{}, {"e": torch.empty(0, 3)}])
def test_nothing_compared_is_2(run, files, tensors):
    code, out, err = run(*files(tensors, tensors))
    assert code == 2
    assert "nothing was compared" in err
    assert f"0 passed (0 exact) + 0 failed + {len(tensors)} skipped = {len(tensors)} tensors" in out


def test_an_empty_tensor_beside_others_is_skipped(run, files):
    tensors = {"e": torch.empty(0, 3), "w": torch.ones(2)}
    code, out, _ = run(*files(tensors, tensors))
    assert code == 0
    assert "1 passed (1 exact) + 0 failed + 1 skipped = 2 tensors" in out


def test_a_tensor_that_cannot_be_compared_is_never_a_pass(run, files, monkeypatch):
    tensors = {"w": torch.ones(2), "v": torch.ones(2)}
    monkeypatch.setattr("shardproof.comparison.pair.COMPARABLE", frozenset())
    code, out, err = run(*files(tensors, tensors))
    assert code == 2
    assert "not compared" in out
    assert "2 of 2 tensors could not be compared" in err


def test_json(run, files):
    actual = {"w": torch.tensor([1.0, math.nan, -math.inf]), "x": torch.ones(1), "c": torch.tensor([1 + 2j])}
    expected = {"w": torch.tensor([1.0, 2.0, 3.0]), "c": torch.tensor([1 + 1j])}
    code, out, _ = run(*files(actual, expected), "--format", "json")
    document = json.loads(out, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert code == document["exit_code"] == 1
    assert document["schema_version"] == 1
    assert document["counts"] == {"passed": 0, "failed": 3, "skipped": 0, "total": 3}
    rows = {row["name"]: row for row in document["tensors"]}
    assert (rows["w"]["maxdiff"], rows["w"]["nan_actual"], rows["w"]["inf_actual"]) == ("NaN", 1, 1)
    assert rows["w"]["worst"] == {"index": [1], "actual": "NaN", "expected": 2.0, "ulp": None}
    assert rows["x"]["reason"] == "extra: only actual has it"
    assert rows["c"]["worst"]["actual"] == [1.0, 2.0]
    assert (rows["w"]["rtol"], rows["w"]["atol"]) == (1.3e-6, 1e-5)


def test_names_cannot_steer_the_terminal(run, files):
    tensors = {"w\x1b[2J\nfake             | exact: True": torch.ones(1)}
    code, out, _ = run(*files(tensors, tensors))
    assert code == 0
    assert "\x1b" not in out
    assert len(out.splitlines()) == 2
    other = {"v\x1b[2J": torch.ones(1)}
    assert "\x1b" not in run(*files(other, tensors))[1]


def test_output_is_what_was_printed_and_replaces_the_old_file(run, files, tmp_path):
    paths = files({"w": torch.ones(1)}, {"w": torch.zeros(1)})
    target = tmp_path / "result.json"
    target.write_text("old")
    code, out, _ = run(*paths, "--format", "json", "--output", target)
    assert code == 1
    assert target.read_text() == out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["actual", "expected", "result.json"]


def test_a_failed_write_leaves_the_old_file_and_no_other(run, files, tmp_path, monkeypatch):
    paths = files({"w": torch.ones(1)}, {"w": torch.zeros(1)})
    target = tmp_path / "result"
    target.write_text("old")

    def fail(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    code, _, err = run(*paths, "--output", target)
    assert code == 2
    assert "No space left" in err
    assert target.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["actual", "expected", "result"]


class Explosive:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere", "expected"], "does not exist"),
        (["actual", "pickle"], "could run code when it is loaded"),
        (["actual", "."], "directory"),
        (["actual", "expected", "--rtol", "-1"], "--rtol"),
        (["actual", "expected", "--atol", "nan"], "--atol"),
        (["actual", "expected", "--format", "xml"], "xml"),
        (["actual", "expected", "--kernel", "fast"], "fast"),
        (["actual", "expected", "--output", "no/where"], "folder does not exist"),
        (["actual", "expected", "--output", "."], "not a regular file"),
        (["actual", "expected", "--output", "actual"], "one of the files"),
        (["actual"], "EXPECTED"),
        (["actual", "expected", "--layout", "missing.json"], "is no layout"),
        (["actual", "expected", "--rename", "x"], "give OLD=NEW"),
        (["actual", "expected", "--rename", "x=y"], "matches no tensor"),
    ],
)
def test_bad_input_is_2_in_words(run, files, monkeypatch, arguments, words):
    tmp_path = files({"w": torch.ones(1)}, {"w": torch.ones(1)})[0].parent
    torch.save({"w": torch.ones(1), "x": Explosive()}, tmp_path / "pickle")
    before = sorted(tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert "Traceback" not in err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_is_shown_on_a_terminal_only(run, files, monkeypatch, terminal):
    monkeypatch.setattr(compare, "_on_terminal", lambda: terminal)
    code, out, err = run(*files({"w": torch.ones(1)}, {"w": torch.ones(1)}))
    assert code == 0
    assert ("compared 1 of 1 tensors" in err) == terminal
    assert "compared" not in out


def test_ranks_renamed_cast_and_stated(run, tmp_path):
    packed = torch.randn(32, 4)
    for folder, ranks, name, dtype in (("a", 2, "m.gate_up", torch.bfloat16), ("e", 4, "gate_up", torch.float32)):
        (tmp_path / folder).mkdir()
        for rank in range(ranks):
            shares = torch.cat([part.chunk(ranks)[rank] for part in packed.chunk(2)]).to(dtype)
            torch.save({name: shares}, tmp_path / folder / f"rank_{rank}.pt")
    (tmp_path / "layout.json").write_text('{"tensors": {"gate_up": {"split": 0, "sections": 2}}}')
    options = ["--rename", "m.*=*", "--cast", "--layout", tmp_path / "layout.json"]
    code, out, err = run(tmp_path / "a", tmp_path / "e", *options)
    assert (code, err) == (0, "")
    assert "bfloat16 [32, 4]" in out
    for left_out, words in ((2, "dtype: bfloat16 where float32"), (3, "split at another place")):
        code, out, _ = run(tmp_path / "a", tmp_path / "e", *options[:left_out], *(options[3:] if left_out == 2 else ()))
        assert code == 1
        assert words in out
    code, out, _ = run(tmp_path / "a", tmp_path / "e", *options[:3], "--no-explain")
    assert (code, "split at another place" in out) == (1, False)


def test_only_failed_leaves_out_what_is_equal(run, files):
    one = torch.ones(2)
    code, out, _ = run(*files({"same": one, "far": one}, {"same": one.clone(), "far": -one}), "--only-failed")
    assert code == 1
    assert [line.split(" | ")[0].strip() for line in out.splitlines()] == [
        "far",
        "negated: every element has the other sign",
        "1 passed (1 exact) + 1 failed + 0 skipped = 2 tensors",
    ]


@pytest.mark.slow
def test_the_installed_command(files):
    paths = files({"w": torch.ones(2)}, {"w": torch.tensor([1.0, 5.0])})
    command_line = [sys.executable, "-m", "shardproof", "compare", *map(str, paths)]
    done = subprocess.run(command_line, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert "maxdiff: 4.0" in done.stdout
