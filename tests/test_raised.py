"""Exceptions of other people's code: class, message, and the line of theirs."""

import functools

import pytest
import torch

from shardproof.errors import CannotRunError
from shardproof.exact import ExactArithmeticError
from shardproof.raised import describe_error


def caught(call):
    with pytest.raises(BaseException) as info:
        call()
    return describe_error(info.value)


def divide(x):
    return 1 // x


def test_the_innermost_line_of_the_users_code_is_named():
    told = caught(lambda: divide(0))
    line = divide.__code__.co_firstlineno + 1
    assert told == (
        "ZeroDivisionError: integer division or modulo by zero "
        f"(tests/test_raised.py:{line} in divide: `return 1 // x`)"
    )


@pytest.mark.parametrize(
    "inner",
    [
        lambda: torch.zeros(2) @ torch.zeros(3),
        lambda: torch.nn.Linear(2, 3)(torch.zeros(5)),
        lambda: functools.reduce(lambda a, b: a / b, [1, 0]),
    ],
    ids=["an op", "a module", "the standard library"],
)
def test_lines_of_pytorch_and_of_the_standard_library_are_passed_over(inner):
    assert "(tests/test_raised.py:" in caught(inner)


def run_file(path, source):
    """Run a file's source; the error that it raises."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(source)
    with pytest.raises(OSError, match=r"^$") as info:
        exec(compile(source, str(path), "exec"), {"__name__": path.stem})
    return info.value


def test_a_library_is_named_where_no_code_of_the_users_runs(tmp_path):
    error = run_file(tmp_path / "site-packages" / "some_library.py", "def fail():\n    raise OSError\n\n\nfail()\n")
    assert "in run_file: `exec(compile(source" in describe_error(error)
    alone = error.with_traceback(error.__traceback__.tb_next)
    assert describe_error(alone) == "OSError (some_library.py:2 in fail: `raise OSError`)"


def test_a_long_line_is_cut(tmp_path):
    error = run_file(tmp_path / "mine.py", f"raise OSError{' ' * 100}# far away\n")
    assert describe_error(error) == f"OSError (mine.py:1 in <module>: `raise OSError{' ' * 87}...`)"


def test_code_without_a_file_has_no_source():
    assert caught(lambda: exec("raise KeyError('x')")).startswith("KeyError: 'x' (")


def test_our_own_errors_are_said_in_their_own_words():
    def raise_error(error):
        raise error

    assert caught(lambda: raise_error(CannotRunError("give more"))) == "give more"
    assert caught(lambda: raise_error(ExactArithmeticError("no rule for it"))) == "ExactArithmeticError: no rule for it"


def stage_backward(inner, module):
    """As PyTorch's: whatever happens in a stage is raised from an error with all tensors of the stage."""
    source = (
        "def run(inner):\n    try:\n        inner()\n    except Exception as error:\n"
        "        raise RuntimeError('\\n  Failed to run stage backward:\\n  Input: ...') from error\n"
    )
    names = {"__name__": module}
    exec(compile(source, "stage.py", "exec"), names)
    return caught(lambda: names["run"](inner))


def test_what_happened_in_a_stage_of_a_pipeline_is_told_and_not_its_tensors():
    told = stage_backward(lambda: divide(0), "torch.distributed.pipelining._backward")
    assert told.startswith("ZeroDivisionError: integer division or modulo by zero (tests/test_raised.py:")
    assert "return 1 // x" in told
    other = stage_backward(lambda: divide(0), "somewhere.else")
    assert other.startswith("RuntimeError: \n  Failed to run stage backward:")

    def refuse():
        raise CannotRunError("a message does not fit")

    assert stage_backward(refuse, "torch.distributed.pipelining.stage") == "a message does not fit"


def test_notes_on_an_error_follow_its_line():
    def fail():
        error = ValueError("bad")
        error.add_note("in the backward, after the output gradient of layers.0")
        raise error

    assert caught(fail).endswith("`raise error`), in the backward, after the output gradient of layers.0")
