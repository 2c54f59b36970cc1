"""The path of the running module: the innermost, from the outermost; each thread has its own."""

import threading

import pytest
import torch
from torch import nn

from shardproof.exact.engine.modules import ModuleStack


class Told(nn.Module):
    def __init__(self, told):
        super().__init__()
        self.told = told

    def forward(self, x):
        self.told()
        return x


@pytest.fixture
def stack():
    found = ModuleStack()
    found.start()
    yield found
    found.stop()


def test_the_path_names_the_innermost_module_and_ends_with_it(stack):
    paths = []
    inner = nn.Sequential(nn.Identity(), Told(lambda: paths.append(stack.path)))
    nn.Sequential(inner, Told(lambda: paths.append(stack.path)))(torch.ones(1))
    assert paths == ["Sequential.0.1", "Sequential.1"]
    assert stack.path == ""


def test_a_module_that_raises_is_left(stack):
    def fail():
        raise KeyError

    with pytest.raises(KeyError):
        nn.Sequential(Told(fail))(torch.ones(1))
    assert stack.path == ""


def test_another_thread_is_elsewhere(stack):
    paths = []

    def look():
        thread = threading.Thread(target=lambda: paths.append(stack.path))
        thread.start()
        thread.join()
        paths.append(stack.path)

    nn.Sequential(Told(look))(torch.ones(1))
    assert paths == ["", "Sequential.0"]
