"""The page of a census: counts that add up, causes, and nothing of a model's text as markup."""

from shardproof.census.page import render_page
from shardproof.census.results import Case, Outcome, Result

VERSIONS = {"torch": "2.13.0", "transformers": "5.23.0", "shardproof": "0.1.0"}


def result(kind, outcome, variant="default", **more):
    return Result(case=Case(kind=kind, variant=variant), outcome=outcome, versions=VERSIONS, **more)


RESULTS = [
    result("llama", Outcome.PROVED, counts={"PROVED": 95}, model="LlamaForCausalLM"),
    result(
        "apertus",
        Outcome.WRONG,
        causes=("WRONG gradient model.layers.*.act_fn.alpha_p: an all-reduce is missing",),
        suggested={"model.layers.*.act_fn": "replicated_with_grad_allreduce"},
        mended="PROVED",
    ),
    result("apertus", Outcome.WRONG, "mlp_bias=true"),
    result("odd", Outcome.CRASH, said="fails: <b>KeyError</b>"),
]


def table(page):
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    return {row.split(" | ")[0][2:]: row.split(" | ")[1:3] for row in rows}


def test_the_counts_add_up_to_the_types():
    rows = table(render_page(RESULTS, ["llama", "apertus", "odd", "later"]))
    assert rows["PROVED"] == ["1", "0"]
    assert rows["WRONG"] == ["1", "1"]
    assert rows["NOT RUN"] == ["1", "0"]
    assert rows["total"] == ["4", "1"]


def test_a_later_result_stands_for_an_earlier_one():
    rows = table(render_page([*RESULTS, result("odd", Outcome.PROVED)], []))
    assert rows["PROVED"] == ["2", "0"]
    assert "CRASH" not in rows


def test_what_is_wrong_has_its_cause_and_text_is_no_markup():
    page = render_page(RESULTS, [])
    assert "**apertus** (not built): WRONG" in page
    assert r"model.layers.\*.act\_fn.alpha\_p: an all-reduce is missing" in page
    assert r"\<b\>KeyError" in page
    assert "the entry `model.layers.*.act_fn: replicated_with_grad_allreduce`; the same proof with it: PROVED" in page


def test_a_search_that_found_nothing_is_said_and_one_that_was_not_made_is_not():
    searched = Result(case=Case(kind="odd", suggest=True), outcome=Outcome.WRONG, tried=24)
    assert "  - no single entry found of 24 tried" in render_page([searched], [])
    assert "no single entry" not in render_page(RESULTS, [])


def test_the_page_says_with_what_it_was_made():
    assert "2 ranks, with torch 2.13.0, transformers 5.23.0" in render_page(RESULTS, [])


def test_every_type_and_variant_has_its_row():
    page = render_page(RESULTS, ["later"])
    assert "| llama | default | LlamaForCausalLM | PROVED | 95 |" in page
    assert "| apertus | mlp_bias=true |" in page
    assert "| later | default |  | NOT RUN |  |" in page


def test_the_time_of_all_processes_is_said_where_it_is_known():
    timed = [result("llama", Outcome.PROVED, seconds=200.0), result("qwen3", Outcome.PROVED, seconds=100.0)]
    assert "All processes together, `--jobs` of them at once, took 5 minutes." in render_page(timed, [])
    assert "minutes" not in render_page(RESULTS, [])
