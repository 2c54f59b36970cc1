"""examples/by_hand.ipynb: the cells of its script, the outputs of a run, and what the original printed."""

import re
from copy import deepcopy
from pathlib import Path

import nbformat
import pytest
import torch
from benchmarks.notebook import NOTEBOOK, SCRIPT, read_script, run_script

from shardproof import byhand

STORED = nbformat.read(NOTEBOOK, as_version=4)
LINE = re.compile(r"(.+?) +\| exact: (True|False) +\| approximate: (True|False) +\| maxdiff: (\S+)")
NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
SHOWN = re.compile(r"```text\n(.*?)```", re.DOTALL)


def read_cells(notebook):
    return [(cell.cell_type, cell.source.strip()) for cell in notebook.cells]


def read_outputs(notebook):
    """What each code cell prints."""
    return [
        "".join(output.get("text", "") for output in cell.outputs)
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def blur(text):
    """Text without what rounding decides: differences below 1e-6, whether they are 0, and the device."""

    def blur_line(found):
        name, exact, approximate, maxdiff = found.groups()
        return f"{name} {approximate} small" if float(maxdiff) < 1e-6 else f"{name} {exact} {approximate} {maxdiff}"

    text = LINE.sub(blur_line, text)
    text = re.sub(r", device='cuda:0'", "", text).replace("Using cuda", "Using cpu")
    # How many tensors are exact in float32, and how far the others are off, rounding decides too.
    text = re.sub(r"\d+ tensors exact, \d+ within", "some within", text)
    return re.sub(r"largest ratio \S+ at step 1, [^)]*\)", "a ratio)", text)


def find_drift(script_cells, stored):
    return [
        number for number, pair in enumerate(zip(script_cells, read_cells(stored), strict=False)) if pair[0] != pair[1]
    ]


def test_the_notebook_has_the_cells_of_its_script():
    script = read_cells(read_script(SCRIPT))
    assert len(script) == len(STORED.cells) > 30
    assert find_drift(script, STORED) == [], "make notebook"


def test_a_cell_that_has_drifted_is_found():
    drifted = deepcopy(STORED)
    drifted.cells[5].source += "\n# another line"
    assert find_drift(read_cells(read_script(SCRIPT)), drifted) == [5]


@pytest.mark.slow
def test_the_outputs_are_those_of_a_run():
    ran = run_script(SCRIPT)
    assert [blur(text) for text in read_outputs(ran)] == [blur(text) for text in read_outputs(STORED)], "make notebook"
    assert not any(output.get("name") == "stderr" for cell in ran.cells for output in cell.get("outputs", []))


def test_an_output_that_has_drifted_is_found_and_rounding_is_not():
    line = "dW2             | exact: False | approximate: True  | maxdiff: 2.98e-08"
    assert blur(line) == blur(line.replace("False", "True ").replace("2.98e-08", "0.0"))
    assert blur(line) != blur(line.replace("2.98e-08", "2.98e-05"))
    assert blur(line) != blur(line.replace("approximate: True ", "approximate: False"))
    assert blur(line) != blur(line.replace("dW2", "dW1"))
    assert blur("PROVED: 10 tensors") != blur("PROVED: 9 tensors")


def pair_with_the_original():
    """What a cell prints here, and what the original printed, which stands in the next cell."""
    pairs = []
    for cell, following in zip(STORED.cells, STORED.cells[1:], strict=False):
        shown = SHOWN.search(following.source) if following.cell_type == "markdown" else None
        if cell.cell_type == "code" and shown:
            pairs.append(("".join(output["text"] for output in cell.outputs), shown[1]))
    return pairs


def test_every_comparison_is_the_originals_up_to_rounding():
    pairs = pair_with_the_original()
    assert len(pairs) == 8
    here, original = (["".join(texts) for texts in zip(*pairs, strict=True)][index] for index in (0, 1))
    ours, theirs = LINE.findall(here), LINE.findall(original)
    assert [name for name, *_ in ours] == [name for name, *_ in theirs]
    assert len(ours) == 18
    for _, _, approximate, maxdiff in (*ours, *theirs):
        assert approximate == "True"
        assert float(maxdiff) < 1e-6


def test_the_table_of_the_output_is_the_originals():
    here, original = next(pair for pair in pair_with_the_original() if "out=tensor" in pair[0])
    ours, theirs = ([float(number) for number in NUMBER.findall(text)] for text in (here, original))
    assert len(ours) == len(theirs) == 64
    assert ours == pytest.approx(theirs, rel=0, abs=1.01e-4)


def test_the_pieces_are_those_of_the_library(capsys):
    cells = [cell.source for cell in STORED.cells if cell.cell_type == "code"]
    flat = {}
    for source in cells[:6]:
        exec(source, flat)
    capsys.readouterr()
    dataset = byhand.RandomTensorDataset(num_samples=32, in_shape=6, out_shape=2)
    assert len(dataset) == len(flat["dataset"]) == 32
    for (x, y), (expected_x, expected_y) in zip(dataset, flat["dataset"], strict=True):
        assert torch.equal(x, expected_x)
        assert torch.equal(y, expected_y)
    model = byhand.MLP(in_feature=6, hidden_units=4, out_feature=2)
    for name, parameter in flat["model"].named_parameters():
        assert torch.equal(model.get_parameter(name), parameter)
    assert torch.equal(model(flat["x"]), flat["out"])
    near = flat["out"] * (1 + 1e-6)
    for other in (flat["out"], near, flat["out"] + 1):
        flat["cmp"]("out", other, flat["out"])
        byhand.cmp("out", other, flat["out"])
        first, second = capsys.readouterr().out.splitlines()
        assert first == second


def test_a_data_loader_takes_the_data_set():
    (batch,) = torch.utils.data.DataLoader(byhand.RandomTensorDataset(8, 3, 2), batch_size=8)
    assert [list(tensor.shape) for tensor in batch] == [[8, 3], [8, 2]]


def test_every_name_is_there_and_an_unknown_one_is_not():
    for name in byhand.__all__:
        assert getattr(byhand, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = byhand.nothing
    assert set(byhand.__all__) <= set(dir(byhand))


def test_the_seed_of_the_model_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    byhand.MLP(3, 2, 1)
    byhand.RandomTensorDataset(2, 3, 1)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_notebook_is_beside_its_script():
    assert Path(SCRIPT).with_suffix(".ipynb") == NOTEBOOK
    assert STORED.metadata["kernelspec"]["name"] == "python3"
    nbformat.validate(STORED)
    assert STORED.metadata["jupytext"]["formats"] == read_script(SCRIPT).metadata["jupytext"]["formats"]
