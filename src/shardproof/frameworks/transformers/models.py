"""Models: which class is built for a configuration, and how large it may be."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from contextlib import contextmanager, suppress
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch

from shardproof.errors import CannotRunError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

# In this order: a model with a language-modelling head has a loss of its own.
_MAPPINGS = (
    "MODEL_FOR_CAUSAL_LM_MAPPING",
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING",
    "MODEL_FOR_MULTIMODAL_LM_MAPPING",
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING",
    "MODEL_FOR_MASKED_LM_MAPPING",
    "MODEL_FOR_TEXT_TO_WAVEFORM_MAPPING",
    "MODEL_MAPPING",
)
_SPREAD = 0.02  # of initial values, where the configuration has none
_WITH_HEAD = re.compile(r".*For(CausalLM|ConditionalGeneration|MaskedLM)$")


class TooLargeError(CannotRunError):
    """A model takes more memory than is allowed."""


def find_model_class(config: Any) -> Any:
    """The class that transformers' own tables name for a configuration; else one that declares it as its own.

    Raises:
        CannotRunError: there is none.
    """
    import transformers

    tabled = []
    for name in _MAPPINGS:
        mapping = getattr(transformers, name, None)
        with suppress(ValueError):  # an entry of the table without a class
            if mapping is not None and type(config) in mapping:
                found = mapping[type(config)]
                tabled.append(found[0] if isinstance(found, tuple) else found)
    own = [one for one in tabled if one.config_class is type(config)]
    found = [*own, *tabled] or _list_declared(config)
    if not found:
        raise CannotRunError(f"transformers has no model class for {type(config).__name__}")
    return found[0]


def _list_declared(config: Any) -> list[Any]:
    """The classes that declare this configuration, in the modelling file beside it: those with a head first.

    A class that others extend, and a base class without a forward of its own, are not built.
    """
    from transformers import PreTrainedModel

    path = type(config).__module__.replace(".configuration_", ".modeling_")
    try:
        module = importlib.import_module(path)
    except ImportError as error:
        raise CannotRunError(f"transformers has no model class for {type(config).__name__}: {error}") from error
    classes = [
        value for value in vars(module).values() if inspect.isclass(value) and issubclass(value, PreTrainedModel)
    ]
    own = [
        one
        for one in classes
        if type(config) in (one.config_class, _argument_type(one))
        and "PreTrainedModel" not in one.__name__
        and "forward" in dir(one)
    ]
    return sorted(own or _list_parts(classes, config), key=lambda one: not _WITH_HEAD.match(one.__name__))


def _list_parts(classes: list[Any], config: Any) -> list[Any]:
    """The classes that declare a configuration with this one as a section, whose name they have at their end.

    An encoder that is given the section `encoder` declares the whole.
    """
    found = []
    for one in classes:
        sections = getattr(_argument_type(one), "sub_configs", None) or {}
        own = [name for name, section in sections.items() if section is type(config)]
        if any(one.__name__.lower().endswith(name.lower()) for name in own):
            found.append(one)
    return found


def _argument_type(model_class: Any) -> Any:
    """The type of the configuration that a class is built from, as its constructor declares it."""
    declared = inspect.signature(model_class.__init__).parameters.get("config")
    annotation = None if declared is None else declared.annotation
    return getattr(sys.modules[model_class.__module__], annotation, None) if isinstance(annotation, str) else annotation


def build_model(model_class: Any, config: Any) -> nn.Module:
    """The model with initial values, in float32, for training.

    Parameters and buffers that its code leaves uninitialised are drawn as it initialises others: normally distributed.
    """
    with _uninitialised_memory_shown():
        model: nn.Module = model_class(deepcopy(config))
    spread = getattr(config, "initializer_range", None) or _SPREAD
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point() and bool(tensor.isnan().any()):
                tensor.normal_(0.0, spread)
    return model.float().train()


@contextmanager
def _uninitialised_memory_shown() -> Iterator[None]:
    """Inside, `torch.empty` gives NaN."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def require_memory(model_class: Any, config: Any, most: int) -> None:
    """Count the model's parameters without building it.

    Args:
        model_class: of the model.
        config: its configuration.
        most: bytes of its parameters in float64.

    Raises:
        TooLargeError: they take more.
    """
    with torch.device("meta"):
        model = model_class(deepcopy(config))
    count = sum(parameter.numel() for parameter in model.parameters())
    if 8 * count > most:
        raise TooLargeError(
            f"{model_class.__name__} has {count:,} parameters, {8 * count / 2**30:.3g} GiB in float64; at most "
            f"{most / 2**30:.3g} GiB is built. Leave --full-size out, make it smaller by --set, or raise --memory"
        )
