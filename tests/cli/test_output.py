"""Exit codes, and results on disk: whole, or not there at all."""

import os

import pytest

from shardproof.cli.output import Exit, check_writable, write_atomically, write_result
from shardproof.errors import CannotRunError


def test_the_exit_codes_are_those_that_users_script_against():
    assert [code.value for code in (Exit.PASSED, Exit.DIVERGED, Exit.COULD_NOT_RUN)] == [0, 1, 2]
    assert (Exit.of(ok=True), Exit.of(ok=False)) == (Exit.PASSED, Exit.DIVERGED)


def test_a_file_that_can_be_written_is_no_error(tmp_path):
    check_writable(tmp_path / "new.txt")
    (tmp_path / "old.txt").write_text("old")
    check_writable(tmp_path / "old.txt")
    assert (tmp_path / "old.txt").read_text() == "old"
    assert not (tmp_path / "new.txt").exists()


@pytest.mark.parametrize(
    ("path", "said"), [(".", "is not a regular file"), ("no/where", "its folder does not exist; make it first")]
)
def test_a_path_that_cannot_be_written_is_refused_before_the_work(tmp_path, path, said):
    with pytest.raises(CannotRunError, match=said):
        check_writable(tmp_path / path)


def test_a_folder_without_the_right_to_write_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda _path, mode: mode != os.W_OK)
    with pytest.raises(CannotRunError, match="its folder cannot be written to"):
        check_writable(tmp_path / "new.txt")


def test_control_characters_of_a_path_are_escaped(tmp_path):
    with pytest.raises(CannotRunError, match=r"a\\x1b\[2J") as caught:
        check_writable(tmp_path / "a\x1b[2J" / "b")
    assert "\x1b" not in str(caught.value)


def test_a_result_replaces_the_old_one_and_leaves_nothing_beside_it(tmp_path):
    target = tmp_path / "result"
    target.write_text("old, and longer than the new one")
    write_atomically(target, "new \ud800 \u00e9")
    assert target.read_text(encoding="utf-8") == "new \\ud800 \u00e9"
    assert list(tmp_path.iterdir()) == [target]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    target = tmp_path / "result"
    target.write_text("old")

    def fail(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(CannotRunError, match="result cannot be written: No space left on device"):
        write_atomically(target, "new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_symbolic_link_stays_one(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_atomically(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "new"


def test_a_result_goes_to_standard_output_or_to_the_file(tmp_path, capsys):
    write_result("one", None)
    assert capsys.readouterr().out == "one\n"
    write_result("two", tmp_path / "file")
    assert capsys.readouterr().out == ""
    assert (tmp_path / "file").read_text() == "two\n"
