"""Where one rank fails all raise; a rank's own error stays its own."""

import pytest
import torch
from tests.parallel.ranks import run

from shardproof.errors import CannotRunError
from shardproof.parallel.coordination import Coordinator, flush_file, flush_folder, write_flushed


def coordinator():
    return Coordinator(task="saving", device=torch.device("cpu"))


def test_without_a_process_group_a_rank_is_alone_and_first():
    assert coordinator().is_alone
    assert coordinator().is_first
    with pytest.raises(CannotRunError, match="full disk"), coordinator().fail_together():
        raise CannotRunError("full disk")


def on_rank(failing):
    def run_block(axis):
        ranks = coordinator()
        assert not ranks.is_alone
        assert ranks.is_first == (axis.rank == 0)
        try:
            with ranks.fail_together():
                if axis.rank in failing:
                    raise CannotRunError(f"full disk of {axis.rank}")
        except CannotRunError as error:
            return str(error)
        return "went on"

    return run_block


def test_where_one_rank_fails_all_raise():
    told = "saving failed on 1 other ranks, which say why"
    assert run(3, on_rank({1})) == [told, "full disk of 1", told]
    assert run(3, on_rank(set())) == ["went on"] * 3
    assert run(2, on_rank({0, 1})) == ["full disk of 0", "full disk of 1"]


def test_another_error_is_not_caught():
    with pytest.raises(ZeroDivisionError), coordinator().fail_together():
        _ = 1 / 0


def test_files_are_written_whole(tmp_path):
    write_flushed(tmp_path / "a", "text \u00e9")
    flush_file(tmp_path / "a")
    flush_folder(tmp_path)
    assert (tmp_path / "a").read_bytes() == "text \u00e9".encode()
