"""`shardproof walkthrough` as a user meets it: its text, its JSON, its exit codes, its worlds."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from shardproof.byhand.functions import LOSSES, Loss
from shardproof.cli.app import main

GOLDEN = Path(__file__).parents[1] / "byhand" / "seed_walkthrough.txt"


@pytest.fixture
def walk(monkeypatch, capsys):
    """Run the command in this process; return its exit code, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["shardproof", "walkthrough", *arguments])
        with pytest.raises(SystemExit) as exit_:
            main()
        printed = capsys.readouterr()
        return exit_.value.code, printed.out, printed.err

    return run


def mask_rounding(text):
    """Rounding is another machine's to choose: whether a line is exact, and by how much it differs."""
    text = re.sub(r"exact: (True |False)", "exact: .....", text)
    text = re.sub(r"maxdiff: \S+", "maxdiff: ...", text)
    return re.sub(r"\d+ of them exact", "... of them exact", text)


def test_text_of_the_seeds_run(walk):
    code, out, err = walk()
    assert (code, err) == (0, "")
    assert mask_rounding(out) == GOLDEN.read_text()


def test_lines_and_sections_of_the_notebook(walk):
    _, out, _ = walk()
    sections = re.findall(r"^#+ ([\d.]+)", out, flags=re.MULTILINE)
    assert [number.rstrip(".") for number in sections] == [
        *("1", "1.1", "1.2", "1.3", "2", "3", "3.1", "3.1.1", "3.1.2"),
        *("3.2", "3.2.1", "3.2.2", "4", "4.2", "4.1"),
        *("5", "5.1", "5.2", "5.3"),
    ]
    lines = re.findall(
        r"^(.*?) *\| exact: (?:True |False) \| approximate: (True |False) \| maxdiff: ", out, re.MULTILINE
    )
    notebook = [
        *("forward pass", "TP - forward pass", "dW2", "db2", "dW1", "db1"),
        *("dW2_0", "db2_0", "dW2_1", "db2_1", "dW1_0", "db1_0", "dW1_1", "db1_1"),
        *("manual_nW1", "manual_nb1", "manual_nW2", "manual_nb2"),
    ]
    names = [name for name, _ in lines]
    assert [name for name in names if name in notebook] == notebook
    assert {approximate for _, approximate in lines} == {"True "}
    updates = {f"{way} - manual_n{p}{l}" for way in ("TP", "PP") for p in "Wb" for l in (1, 2)}
    pipeline = {f"PP - {name}" for name in ("h1", "forward pass", "loss", "dh1", "dW1", "db1", "dW2", "db2")}
    assert set(names) - set(notebook) == {"loss"} | updates | pipeline


def test_running_total_ends_where_the_run_does(walk):
    _, out, _ = walk("--widths", "6,5,9,4", "--devices", "3", "--split", "column,row,row")
    totals = [int(total) for total in re.findall(r"^(?:all|reduce)_\w+ \w+ +\| +\d+ \| +(\d+)$", out, re.MULTILINE)]
    assert totals == sorted(totals)
    sent = [int(total) for total in re.findall(r"^d?h\d\[\d\] \d -> \d +\| +\d+ \| +(\d+)$", out, re.MULTILINE)]
    assert sent == sorted(sent)
    assert len(sent) == 2 * 2 * 2  # two microbatches over two boundaries, there and back
    assert out.rstrip().endswith(f"{totals[-1]} bytes per rank communicated, {sent[-1]} bytes sent between stages.")


def test_an_epoch_has_an_update_for_each_batch(walk):
    code, out, _ = walk("--samples", "10", "--batch-size", "4")
    assert code == 0
    assert "Batches of 4, in order: 3 batches in an epoch.\nThe last one has 2." in out
    assert re.findall(r"^step \d \| batch \d of \d", out, re.MULTILINE) == [
        "step 2 | batch 2 of 3",
        "step 3 | batch 3 of 3",
    ]
    code, out, _ = walk("--samples", "10", "--batch-size", "4", "--steps", "5")
    assert re.findall(r"^step \d \| batch \d", out, re.MULTILINE)[-1] == "step 5 | batch 2"


def test_fewer_samples_than_a_usual_batch_make_one_batch(walk):
    code, out, _ = walk("--samples", "5")
    assert code == 0
    assert "Batches of 5, in order: 1 batch" in out


@pytest.mark.parametrize(
    "arguments",
    [
        "--widths 64,65,64 --devices 64 --split column-row",
        "--widths 7,5,9,3 --devices 3 --split row --activation relu --dtype bfloat16 --steps 3",
        "--widths 5,8,6 --loss cross-entropy --devices 5 --activation gelu --dtype float64",
        "--widths 6,4,2 --dtype float16 --activation relu --lr 0.1 --steps 5",
        "--widths 3,1 --devices 1 --seed 18446744073709551615",
        "--widths 6,5,4,3 --devices 3 --microbatches 64 --dtype bfloat16 --activation gelu",
    ],
)
def test_other_sizes_are_approximate(walk, arguments):
    code, out, err = walk(*arguments.split())
    assert (code, err) == (0, "")
    assert "; 0 diverged." in out


def test_factor_is_derived_for_the_width_at_hand(walk):
    assert "two agree here because O = 2" in walk()[1]
    out = walk("--widths", "6,4,6")[1]
    assert "dL/dout = 2/(B*O) * (out - y)" in out
    assert "with O = 6, it would be 6/2 times the gradient" in out


def test_json(walk):
    code, out, err = walk("--format", "json", "--steps", "2")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert document["schema_version"] == 3
    assert document["settings"]["widths"] == [6, 4, 2]
    assert document["approximate"] is True
    assert [step["step"] for step in document["steps"]] == [1, 2]
    sections = {section["number"]: section for section in document["steps"][0]["sections"]}
    assert [line["name"] for line in sections["3.2.1"]["comparisons"]] == ["dW2", "db2", "dW1", "db1"]
    assert sections["3.2.2"]["communicated"] == [
        {"section": "3.2.2", "collective": "reduce_scatter", "tensor": "dh1", "bytes_per_rank": 256}
    ]
    assert sections["5.1"]["sent"][0] == {
        "section": "5.1", "tensor": "h1[0]", "source": 0, "destination": 1, "bytes": 256
    }  # fmt: skip
    assert [len(sections[number]["sent"]) for number in ("3.1.2", "5.1", "5.2", "5.3")] == [0, 2, 2, 0]


@pytest.mark.parametrize("form", ["text", "json"])
def test_divergence_is_exit_code_1(walk, monkeypatch, form):
    real = LOSSES["mse"]

    def doubled(out, y, columns=slice(None)):
        return 2 * real.backward(out, y, columns)

    monkeypatch.setitem(LOSSES, "mse", Loss(forward=real.forward, backward=doubled))
    code, out, _ = walk("--format", form, "--steps", "2")
    assert code == 1
    if form == "text":
        assert re.search(r"^dW2 +\| exact: False \| approximate: False", out, re.MULTILINE)
        assert re.search(r"^  dW2 +\| exact: False \| approximate: False", out, re.MULTILINE)  # of the second step
        assert "; 0 diverged" not in out
    else:
        assert json.loads(out)["approximate"] is False


def test_a_run_that_leaves_the_numbers_diverges(walk):
    code, out, _ = walk("--lr", "1e30", "--steps", "4", "--format", "json")
    assert code == 1
    assert json.loads(out)["steps"][3]["loss"] in {"NaN", "Infinity"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--widths 6,0,2", "a width of 0; give widths of 1 or more"),
        ("--widths 6", "give at least two"),
        ("--widths 6;4", "give whole numbers with commas between them"),
        ("--widths 6,-4,2", "a width of -4"),
        ("--devices 0", "give 1 to 64"),
        ("--devices 65 --widths 99,99", "give 1 to 64"),
        ("--devices 3", "layer 2 is split by column over its 2 output features; give 2 or fewer"),
        ("--devices 5 --widths 4,8,8 --split row", "layer 1 is split by row over its 4 input features"),
        ("--microbatches 0", "give 1 to 64"),
        ("--dtype int32", "needs a floating dtype; give one of float32, float64, bfloat16, float16"),
        ("--activation tanh", "give one of none, relu, gelu"),
        ("--loss l1", "give one of mse, cross-entropy"),
        ("--split diagonal", "give column, row, column-row, or one of column and row for each layer"),
        ("--split column,row,row", "3 splits for 2 layers; give one for each layer"),
        ("--batch-size 33", "32 samples make batches of 1 to 32"),
        ("--batch-size 0", "32 samples make batches of 1 to 32"),
        ("--samples 0", "give 1 or more"),
        ("--steps 0", "give 1 or more"),
        ("--lr nan", "give a finite number"),
        ("--lr -1", "give a finite number, 0 or more"),
        ("--lr inf", "give a finite number"),
        ("--seed -1", "give a whole number from 0 to 18446744073709551615"),
        ("--seed 18446744073709551616", "give a whole number from 0 to"),
        ("--format xml", "give text or json"),
        ("--widths 1000000000,1000000000", "GiB of memory and this machine has"),
        ("--widths 6,9,2 --samples 1000000000000", "give smaller widths, or fewer samples"),
        ("--timeout 0", "give a positive number of seconds"),
        ("--timeout nan --spawn", "give a positive number of seconds"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(walk, arguments, said):
    code, out, err = walk(*arguments.split())
    assert (code, out) == (2, "")
    assert err.startswith(f"shardproof: error: {arguments.split()[0]} ")
    assert said in err
    assert err.count("\n") == 1


def test_progress_only_on_a_terminal(walk, monkeypatch):
    assert walk("--steps", "3")[2] == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert "step 2 of 3" in walk("--steps", "3")[2]


def test_start_up_leaves_the_heavy_modules_alone():
    """Making a `torch.optim` object would import torch._dynamo, which takes longer than the whole run."""
    script = (
        "import sys; sys.argv = ['shardproof', 'walkthrough']\n"
        "from shardproof.cli.app import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch._dynamo', 'torch._inductor', 'torch.distributed.tensor', 'rich', 'transformers', 'sympy'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stderr == "[]\n"


def compare_runs(run, walk, arguments):
    """Hold a run in another world to the simulated one, tensor by tensor as far as the comparisons tell."""
    assert run.returncode == 0, run.stderr
    elsewhere = json.loads(run.stdout)
    here = json.loads(walk(*arguments)[1])
    assert elsewhere.pop("world") != here.pop("world")
    assert elsewhere == here


@pytest.mark.processes
@pytest.mark.parametrize("split", ["column", "column-row"])
def test_spawned_run_is_the_simulated_one(walk, split):
    arguments = ("--format", "json", "--split", split, "--steps", "3", "--activation", "gelu")
    command = [sys.executable, "-m", "shardproof", "walkthrough", *arguments, "--spawn"]
    compare_runs(subprocess.run(command, capture_output=True, text=True, check=False), walk, arguments)


LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "shardproof"]


@pytest.mark.processes
def test_launched_run_is_the_simulated_one(walk):
    arguments = ("--format", "json", "--steps", "2")
    run = subprocess.run([*LAUNCH, "walkthrough", *arguments], capture_output=True, text=True, check=False)
    compare_runs(run, walk, arguments)


@pytest.mark.processes
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--devices 3", "torchrun has started 2 processes; leave --devices out"),
        ("--spawn", "torchrun has started the processes already"),
    ],
)
def test_launched_run_refuses_another_world(arguments, said):
    command = [*LAUNCH, "walkthrough", "--widths", "6,4,4", *arguments.split()]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode != 0
    assert run.stdout == ""
    assert run.stderr.count("shardproof: error:") == 1  # rank 0 speaks
    assert said in run.stderr


def test_torch_threads_are_left_as_they_were(walk):
    before = torch.get_num_threads()
    walk()
    assert torch.get_num_threads() == before


def test_a_page_is_written_beside_the_text(walk, tmp_path):
    code, out, err = walk("--html", str(tmp_path / "page.html"))
    assert (code, err) == (0, "")
    assert mask_rounding(out) == GOLDEN.read_text()
    page = (tmp_path / "page.html").read_text()
    assert "Forget the reduce-scatter" in page
    assert "A pipeline of 2 stages" in page


def test_a_page_that_cannot_be_written_is_refused_before_the_first_step(walk):
    code, out, err = walk("--html", "no/where.html")
    assert (code, out) == (2, "")
    assert "--html no/where.html: its folder does not exist" in err
