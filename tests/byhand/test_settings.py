"""Settings out of range are refused in one line that says what was given and what is allowed."""

from __future__ import annotations

import pytest
import torch

from shardproof.byhand.settings import Settings, check_memory, count_epoch, read_dtype, read_splits, read_widths
from shardproof.errors import CannotRunError


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"widths": (6,), "splits": ()}, "--widths 6: a layer needs an input and an output width"),
        ({"widths": (6, 0, 2)}, "a width of 0; give widths of 1 or more"),
        ({"samples": 0}, "--samples 0: give 1 or more"),
        ({"batch_size": 33}, "--batch-size 33: 32 samples make batches of 1 to 32"),
        ({"steps": 0}, "--steps 0"),
        ({"lr": float("nan")}, "--lr nan"),
        ({"lr": -0.1}, "--lr -0.1"),
        ({"seed": -1}, "--seed -1"),
        ({"microbatches": 0}, "--microbatches 0: give 1 to 64"),
        ({"microbatches": 65}, "--microbatches 65: give 1 to 64"),
        ({"devices": 65}, "--devices 65: give 1 to 64"),
        ({"activation": "tanh"}, "--activation 'tanh': give one of none, relu, gelu"),
        ({"loss": "l1"}, "--loss 'l1'"),
        ({"dtype": torch.int32}, "--dtype int32"),
        ({"splits": ("column",)}, "--split: 1 splits for 2 layers"),
        ({"devices": 3}, "layer 2 is split by column over its 2 output features"),
        ({"devices": 5, "splits": ("row", "row")}, "layer 2 is split by row over its 4 input features"),
    ],
)
def test_a_value_out_of_range_is_refused(given, said):
    with pytest.raises(CannotRunError, match=said.replace("(", r"\(")):
        Settings(**given)


def test_the_defaults_are_the_notebooks():
    settings = Settings()
    assert (settings.widths, settings.samples, settings.devices, settings.dtype_name) == ((6, 4, 2), 32, 2, "float32")


def test_words_are_read():
    assert read_widths("6,4,2") == (6, 4, 2)
    assert read_splits("column-row", 3) == ("column", "row", "column")
    assert read_splits("row,column", 2) == ("row", "column")
    assert read_dtype("bfloat16") == torch.bfloat16
    for read, text in (
        (read_widths, "6;4"),
        (lambda text: read_splits(text, 2), "rows"),
        (lambda text: read_splits(text, 2), "row,row,row"),
        (read_dtype, "int8"),
    ):
        with pytest.raises(CannotRunError, match=text):
            read(text)


def test_an_epoch_counts_its_smaller_last_batch():
    assert [count_epoch(samples, 4) for samples in (4, 5, 8, 9)] == [1, 2, 2, 3]


def test_memory_is_enough_or_not():
    settings = Settings(widths=(1024, 1024), splits=("column",))
    check_memory(settings, 1 << 30)
    with pytest.raises(CannotRunError, match=r"needs about .* GiB of memory and this machine has"):
        check_memory(settings, 1 << 20)
