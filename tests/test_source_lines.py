"""The user's line: the innermost outside torch and the package; in a hook, the line that called the module."""

from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from shardproof.source_lines import calling_line, describe_line, innermost_line, parse_line, user_line


def test_the_line_that_asks():
    line = user_line()
    assert line.startswith(__file__ + ":")
    assert line.endswith(" in test_the_line_that_asks")


class Asking(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.lines = []
        self.inner.register_forward_pre_hook(lambda *_: self.lines.append(calling_line()))

    def forward(self, x):
        return self.inner(x)


def test_in_a_hook_the_line_that_called_the_module_with_a_path_from_here():
    model = Asking()
    model(torch.ones(1, 2))
    assert model.lines[0].startswith(f"{Path(__file__).relative_to(Path.cwd())}:")
    assert model.lines[0].endswith(" in forward")


def test_a_file_elsewhere_is_shown_by_its_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    model = Asking()
    model(torch.ones(1, 2))
    assert model.lines[0].startswith("test_source_lines.py:")


def call_from(module_name, function):
    """Call a function from code that belongs to a module of that name."""
    code = compile("def call(function):\n    return function()", f"/{module_name}.py", "exec")
    names = {"__name__": module_name}
    exec(code, names)
    return names["call"](function)


def test_code_of_torch_and_of_the_package_is_skipped():
    for module in ("torch", "torch.nn.modules.module", "shardproof.exact.engine.mode", "contextlib"):
        assert call_from(module, user_line).endswith(" in call_from")
    # The control: a module of the user's, whose name only begins alike.
    assert call_from("torchtitan", user_line).startswith("/torchtitan.py:2 in call")


@contextmanager
def asking(lines):
    lines.append(user_line())
    yield


def test_contextlib_is_nobodys_line():
    lines = []

    @asking(lines)
    def user():
        """Entered by contextlib's decorator."""

    user()
    assert lines[0].endswith(" in asking")


def test_a_module_that_the_prover_calls_has_no_line():
    def hook():
        return calling_line()

    assert call_from("shardproof.proving.running.training", hook) == ""
    assert call_from("shardproof.parallel.linear", hook).endswith(" in call_from")


def test_what_the_provers_own_training_calls_is_no_line_of_the_users():
    assert call_from("shardproof.proving.running.training", innermost_line) == ""
    assert call_from("shardproof.proving.running.functions", innermost_line).endswith(" in call_from")


def test_a_line_that_is_described_is_read_back():
    line = describe_line("a folder/model.py: x", 12, "forward")
    assert parse_line(line) == ("a folder/model.py: x", 12, "forward")
    assert parse_line("model.py in forward") is None
    assert parse_line("") is None
