"""A step and its sharding in words: what is loaded, how often a file is run, and one line for what cannot be."""

import hashlib
import sys

import pytest

from shardproof.errors import CannotRunError
from shardproof.frameworks.specification import Specification
from shardproof.proving.step import Step

SOURCE = """
import torch
from torch import nn
import shardproof as sp

runs = []
runs.append(1)
step = sp.Step(model=lambda: nn.Linear(2, 2), batch=(torch.ones(1, 2), torch.ones(1, 2)), loss=nn.functional.mse_loss)

def parallelize(model, mesh):
    return model

def candidate(run):
    pass

def told():
    return runs
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with the user's files; what they put into the interpreter is taken out again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    (tmp_path / "mine.py").write_text(SOURCE)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("shardproof_file_"):
            del sys.modules[name]


def specify(**changes):
    return Specification(**{"step": "mine.py:step", "parallelize": "mine.py:parallelize", **changes})


def test_a_file_gives_its_step_and_its_sharding():
    loaded = specify().load()
    assert isinstance(loaded.step, Step)
    assert (loaded.parallelize("model", None), loaded.candidate) == ("model", None)


def test_a_candidate_stands_in_place_of_a_sharding():
    loaded = specify(parallelize=None, candidate="mine.py:candidate").load()
    assert (loaded.parallelize, loaded.candidate.__name__) == (None, "candidate")


def test_the_number_of_steps_is_the_steps_own_unless_given():
    own = specify().load().step.steps
    assert specify(steps=own + 2).load().step.steps == own + 2


def test_a_file_that_is_named_twice_is_run_once_and_again_on_the_next_load():
    specification = specify(parallelize="mine.py:told")
    first, second = specification.load().parallelize, specification.load().parallelize
    assert first() == second() == [1]
    assert first() is not second()


def test_a_file_finds_the_modules_beside_it(folder):
    (folder / "beside_mine.py").write_text("VALUE = 5\n")
    (folder / "mine.py").write_text(SOURCE + "import beside_mine\nassert beside_mine.VALUE == 5\n")
    specify().load()
    del sys.modules["beside_mine"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"step": "mine.py"}, "'mine.py': give FILE.py:NAME, or hf:TYPE, or hf:CONFIG.json"),
        ({"step": "mine:step"}, "'mine:step': give FILE.py:NAME"),
        ({"step": "mine.py:"}, "'mine.py:': give FILE.py:NAME"),
        ({"step": "absent.py:step"}, "absent.py: no such file"),
        ({"step": "mine.py:absent"}, "mine.py has no 'absent'"),
        ({"step": "mine.py:runs"}, "mine.py:runs is a list; needed is a shardproof.Step"),
        ({"parallelize": "mine.py:runs"}, "mine.py:runs is a list; needed is a function parallelize(model, mesh)"),
        ({"parallelize": None, "candidate": "mine.py:runs"}, "needed is a function candidate(run)"),
        ({"parallelize": None}, "--parallelize FILE.py:NAME is needed"),
        ({"candidate": "mine.py:candidate"}, "--parallelize and --candidate are given; the ranks can run one of them"),
        ({"settings": {"a": 1}}, "--plan-set and --plan-drop are for an hf: model"),
        ({"plan_set": {"a": "b"}}, "--plan-set and --plan-drop are for an hf: model"),
        ({"plan_drop": ("a",)}, "--plan-set and --plan-drop are for an hf: model"),
        ({"reduce": {"tp": 2}}, "--reduce, --memory, --plan, --plan-set and --plan-drop are for an hf: model"),
        ({"step": "hf:llama", "reduce": {"tp": 2}, "full_size": True}, "--reduce chooses the sizes itself"),
        ({"step": "hf:llama", "reduce": {"tp": 2}, "memory": 2.0}, "--reduce chooses the sizes itself"),
        ({"step": "hf:llama", "plan_drop": ("a",)}, "leave --parallelize and --candidate out"),
        ({"step": "hf:llama", "plan_set": {"a": "b"}}, "leave --parallelize and --candidate out"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(changes, said):
    with pytest.raises(CannotRunError) as caught:
        specify(**changes).load()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def step(:", "SyntaxError"),
        ("raise OverflowError('too much')", "OverflowError: too much"),
        ("import sys\nsys.exit(3)", "SystemExit: 3"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
def test_a_file_that_cannot_be_run_says_why(folder, source, said):
    (folder / "mine.py").write_text(source)
    with pytest.raises(CannotRunError) as caught:
        specify().load()
    assert "mine.py cannot be run: " in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("specification", "files"),
    [
        (Specification(step="a.py:step", parallelize="b.py:f"), ("a.py", "b.py")),
        (Specification(step="a.py:step", parallelize="a.py:f"), ("a.py",)),
        (Specification(step="a.py:step", candidate="c.py:f"), ("a.py", "c.py")),
        (Specification(step="hf:llama"), ()),
        (Specification(step="hf:my/config.json"), ("my/config.json",)),
        (Specification(step="hf:my/config.json", parallelize="b.py:f"), ("b.py", "my/config.json")),
    ],
)
def test_the_files_that_are_named(specification, files):
    assert specification.files == files


def test_a_digest_tells_a_changed_file(folder):
    digests = specify().digests()
    assert digests == {"mine.py": hashlib.sha256(SOURCE.encode()).hexdigest()}
    (folder / "mine.py").write_text(SOURCE + "\n")
    assert specify().digests() != digests


def test_a_digest_of_a_file_that_is_not_there_is_one_line():
    with pytest.raises(CannotRunError, match=r"absent\.py: No such file"):
        specify(step="absent.py:step").digests()
