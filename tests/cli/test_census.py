"""`shardproof census` as a user meets it: lines, a page, resuming, exit codes; what is proved is made up here."""

import json
import sys

import pytest

from shardproof.census import processes
from shardproof.census.results import Outcome, Result, read_results
from shardproof.cli.app import main

pytest.importorskip("transformers")


@pytest.fixture
def works():
    """What the processes are to do, in each run."""
    return []


@pytest.fixture
def run(monkeypatch, capsys, works):
    """Run the command; each type gets the outcome given, and the types that were run are listed."""

    def census(*arguments, outcomes=None):
        ran = []

        def run_cases(cases, _limits, work):
            works.append(work)
            for case in cases:
                ran.append((case.kind, case.variant))
                yield Result(case=case, outcome=(outcomes or {}).get(case.kind, Outcome.PROVED))

        monkeypatch.setattr(processes, "run_cases", run_cases)
        monkeypatch.setattr(sys, "argv", ["shardproof", "census", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        printed = capsys.readouterr()
        return end.value.code or 0, ran, printed.out, printed.err

    return census


def test_each_result_is_a_line_on_standard_output(run):
    code, ran, out, err = run("llama", "qwen3")
    assert (code, ran) == (0, [("llama", "default"), ("qwen3", "default")])
    assert [json.loads(line)["case"]["kind"] for line in out.splitlines()] == ["llama", "qwen3"]
    assert err == "2 model types: 2 PROVED\n"


def test_a_file_is_continued(run, tmp_path):
    path = tmp_path / "lines.jsonl"
    run("llama", "--output", path, outcomes={"llama": Outcome.TIMEOUT})
    code, ran, out, _ = run("llama", "qwen3", "--output", path)
    assert (code, ran) == (2, [("qwen3", "default")])
    assert out == "2 model types: 1 PROVED, 1 TIMEOUT\n"
    assert run("llama", "qwen3", "--output", path, "--again")[:2] == (0, [("llama", "default")])
    assert [one.outcome for one in read_results(path)] == ["TIMEOUT", "PROVED", "PROVED"]


def test_another_number_of_ranks_is_run_again(run, tmp_path):
    path = tmp_path / "lines.jsonl"
    run("llama", "--output", path)
    assert run("llama", "--output", path, "--devices", 4)[1] == [("llama", "default")]


def test_a_wrong_plan_is_run_again_if_a_mend_is_asked_for(run, tmp_path):
    path = tmp_path / "lines.jsonl"
    run("llama", "qwen3", "--output", path, outcomes={"llama": Outcome.WRONG})
    again = "llama", "qwen3", "--output", path, "--suggest"
    assert run(*again, outcomes={"llama": Outcome.WRONG})[1] == [("llama", "default")]
    assert read_results(path)[-1].case.suggest
    assert run(*again)[1] == []


def test_another_mesh_is_run_again_and_has_a_page_of_its_own(run, tmp_path):
    path, page = tmp_path / "lines.jsonl", tmp_path / "page.md"
    run("mixtral", "--output", path, outcomes={"mixtral": Outcome.WRONG})
    code, ran, out, _ = run("mixtral", "--mesh", "ep=2,tp=2", "--output", path, "--page", page)
    assert (code, ran, out) == (0, [("mixtral", "default")], "1 model types: 1 PROVED\n")
    text = page.read_text()
    assert text.startswith("# Census of transformers' expert-parallel plans\n")
    assert "`shardproof census --mesh ep=2,tp=2`" in text
    assert "is proved on 4 ranks" in text
    assert "| WRONG |" not in text
    assert "| qwen3_moe |" in text
    assert "| llama |" not in text


def test_wrappers_are_taken_instead_and_have_a_page_of_their_own(run, tmp_path):
    path, page = tmp_path / "lines.jsonl", tmp_path / "page.md"
    run("llama", "--output", path)
    code, ran, _, err = run("llava")
    assert (code, ran) == (2, [])
    assert "there are 144, and --wrappers has those with a section that has one" in err.replace("\n", " ")
    code, ran, _, _ = run("llava", "--wrappers", "--output", path, "--page", page)
    assert (code, ran) == (0, [("llava", "default")])
    text = page.read_text()
    assert text.startswith(
        "# Census of transformers' tensor-parallel plans in sections\n\nMade by `shardproof census --wrappers`"
    )
    assert "| qwen2_5_vl |" in text
    assert "| llama |" not in text


def test_scripts_are_written_into_a_folder_if_asked_for(run, works, tmp_path):
    run("llama")
    run("llama", "--repro", tmp_path / "scripts")
    assert works[0] is None
    assert (works[1].func.__name__, works[1].keywords) == ("prove_case", {"folder": tmp_path / "scripts"})
    assert (tmp_path / "scripts").is_dir()


def test_every_type_is_run_if_none_is_named_and_the_page_counts_them(run, tmp_path):
    path, page = tmp_path / "lines.jsonl", tmp_path / "page.md"
    code, ran, out, _ = run("--output", path, "--page", page, outcomes={"apertus": Outcome.WRONG})
    assert code == 1
    assert len(ran) > 100
    assert out.startswith(f"{len(ran)} model types: ")
    assert f"| total | {len(ran)} | 0 | |" in page.read_text()


def test_variants_are_run_if_asked_for(run):
    assert ("llama", "attention_bias=true") in run("llama", "--variants")[1]


@pytest.mark.parametrize(
    ("outcome", "code"),
    [(Outcome.PROVED, 0), (Outcome.VACUOUS, 0), (Outcome.WRONG, 1), (Outcome.CRASH, 2), (Outcome.REFUSED, 2)],
)
def test_exit_codes(run, outcome, code):
    assert run("llama", outcomes={"llama": outcome})[0] == code


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gpt2"], "'gpt2' is no model type of transformers with a tensor-parallel plan"),
        (["llama", "--mesh", "ep=2"], "'llama' is no model type of transformers with an expert-parallel plan"),
        (["llama", "--mesh", "ep"], "give KEY=VALUE"),
        (["llama", "--jobs", "0"], "must be at least 1"),
        (["llama", "--timeout", "0"], "above 0"),
        (["llama", "--repro", "x", "--mesh", "dp=2,tp=2"], "--repro writes a script for one axis tp"),
        (["llama", "--repro", "no/such/folder"], "--repro no/such/folder: No such file or directory"),
        (["llama", "--page", "no/such/folder/page.md"], "its folder does not exist"),
    ],
)
def test_bad_input_is_one_line(run, arguments, said):
    code, ran, out, err = run(*arguments)
    assert (code, ran, out) == (2, [], "")
    assert said in err
    assert err.count("\n") == 1


def test_loading_is_a_variant_of_its_own(run, tmp_path):
    path = tmp_path / "lines.jsonl"
    run("llama", "--output", path)
    code, ran, out, _ = run("llama", "--loading", "--output", path, outcomes={"llama": Outcome.LOADED})
    assert (code, ran, out) == (0, [("llama", "loading")], "1 model types: 1 LOADED\n")
    assert run("llama", "--loading", "--output", path)[1] == []
    code, _, _, err = run("llama", "--loading", "--suggest")
    assert code == 2
    assert "--loading takes one axis tp" in err


def test_shards_run_every_type_once_and_are_merged(run, tmp_path):
    kinds = ("llama", "qwen3", "mixtral", "gemma")
    files = [tmp_path / f"{shard}.jsonl" for shard in (1, 2, 3)]
    parts = [run(*kinds, "--shard", f"{at}/3", "--output", file)[1] for at, file in enumerate(files, start=1)]
    assert [[kind for kind, _ in part] for part in parts] == [["llama", "gemma"], ["qwen3"], ["mixtral"]]
    merge = [argument for file in files for argument in ("--merge", file)]
    page = tmp_path / "page.md"
    assert run(*kinds, *merge, "--page", page) == (0, [], "", "4 model types: 4 PROVED\n")
    assert "| PROVED | 4 | 0 |" in page.read_text()


def test_a_shard_that_was_not_run_is_named(run, tmp_path):
    file = tmp_path / "1.jsonl"
    run("llama", "qwen3", "--shard", "1/2", "--output", file)
    code, ran, _, err = run("llama", "qwen3", "--merge", file)
    assert (code, ran) == (2, [])
    assert err.endswith("shardproof: error: the merged files have no result of qwen3: run their shards too\n")


@pytest.mark.parametrize("shard", ["3", "0/2", "3/2", "a/2", "1/"])
def test_what_is_no_shard_is_an_error(run, shard):
    code, _, _, err = run("llama", "--shard", shard)
    assert (code, err) == (2, f"shardproof: error: --shard '{shard}': give I/N, the Ith of N parts, such as 3/8\n")


def test_merging_runs_nothing(run, tmp_path):
    file = tmp_path / "1.jsonl"
    run("llama", "--output", file)
    for more in (("--shard", "1/2"), ("--output", file), ("--again",)):
        code, _, _, err = run("llama", "--merge", file, *more)
        assert (code, "--merge runs nothing" in err) == (2, True)
