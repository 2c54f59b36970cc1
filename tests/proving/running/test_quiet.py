"""PyTorch kept quiet: nothing is compiled, and everything is as it was afterwards."""

import logging
import warnings

import torch

from shardproof.proving.running.quiet import quiet_pytorch


def test_what_is_compiled_runs_eagerly_inside_alone():
    compiled = []

    def backend(graph, _inputs):
        compiled.append(graph)
        return graph.forward

    function = torch.compile(lambda x: x * 2, backend=backend)
    with quiet_pytorch():
        assert function(torch.ones(2)).tolist() == [2, 2]
    assert compiled == []
    function(torch.ones(2))
    assert len(compiled) == 1


def test_the_logger_and_the_warnings_are_as_they_were():
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before = logger.level, list(warnings.filters)
    with quiet_pytorch():
        assert not logger.isEnabledFor(logging.ERROR)
    assert (logger.level, list(warnings.filters)) == before
