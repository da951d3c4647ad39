"""The models: one folder each, discovered by name.

A model folder has ``params.py`` (light: ``Params``, ``PRESETS``, ``SUMMARY``, ``CLASS_NAME``, ``needs``) and
``method.py`` (``build``); a ``memory.py`` (``step_bytes``) has a budget too small for a step refused before
work. A new model is a new folder; nothing here or above lists them.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from atlasnmf.errors import BadOption
from atlasnmf.options import Options
from atlasnmf.schema import AtlasFacts, Needs

__all__ = [
    "available",
    "build",
    "class_name",
    "needs",
    "params",
    "params_with_preset",
    "step_bytes",
    "summary",
]


@cache
def available() -> tuple[str, ...]:
    """Return the names of the models.

    Examples
    --------
    >>> "inspire" in available()
    True
    """
    return tuple(sorted(module.name for module in iter_modules(__path__) if module.ispkg))


def _declared(model: str) -> ModuleType:
    if model not in available():
        raise BadOption(f"there is no model named {model!r}; there are {', '.join(available())}")
    return import_module(f"atlasnmf.models.{model}.params")


def params(model: str) -> type[Options]:
    """Return the class of a model's parameters."""
    return _declared(model).Params


def params_with_preset(model: str, preset: str, given: dict[str, Any]) -> Options:
    """Return parameters: the preset's values under those given.

    Raises
    ------
    BadOption
        There is no such preset, or a value is wrong.
    """
    presets = _declared(model).PRESETS
    if preset not in presets:
        raise BadOption(f"there is no preset named {preset!r}; there are {', '.join(presets)}")
    return params(model)(**(presets[preset] | given))


def summary(model: str) -> str:
    """Return one sentence on what a model does."""
    return _declared(model).SUMMARY


def class_name(model: str) -> str:
    """Return the name of a model's Python class."""
    return _declared(model).CLASS_NAME


def needs(model: str, values: Any, n_spots: int) -> Needs:
    """Return what a model asks of ``prepare``."""
    return _declared(model).needs(values, n_spots)


def step_bytes(model: str, values: Any, **sizes: float) -> float:
    """Return what a training step holds beside its rows; 0 for a model that does not say."""
    place = f"{_declared(model).__package__}.memory"
    if find_spec(place) is None:
        return 0.0
    return float(import_module(place).step_bytes(values, **sizes))


def build(model: str, values: Any, facts: AtlasFacts, device: str, seed: int) -> Any:
    """Return a model for an atlas: ``method``, ``infer`` and ``result``."""
    return import_module(f"atlasnmf.models.{model}.method").build(values, facts, device, seed)
