"""The models: one folder each, discovered by name.

A model folder has ``params.py`` (light: ``Params``, ``PRESETS``, ``SUMMARY``, ``CLASS_NAME``, ``needs``;
``RESULTS``, the keys it writes, and of these ``SHARES`` and ``TRAINED_ONLY``; ``EXAMPLE`` options for its
help text, and ``quality_lines`` where it measures itself) and ``method.py`` (``build``); a ``memory.py``
(``step_bytes``, ``MEND``, and where a model has forms of different size ``settle``) has a budget too small
refused before work. A new model is a new folder; nothing here or above lists them.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
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
    "check",
    "class_name",
    "example",
    "factors",
    "fit_flops",
    "mend",
    "needs",
    "params",
    "params_with_preset",
    "presets",
    "quality_lines",
    "results",
    "settle",
    "shares",
    "step_bytes",
    "summary",
    "trained_only",
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
        near = get_close_matches(model, available(), n=1)
        hint = f" did you mean {near[0]}?" if near else ""
        raise BadOption(f"there is no model named {model!r};{hint} there are {', '.join(available())}")
    return import_module(f"atlasnmf.models.{model}.params")


def params(model: str) -> type[Options]:
    """Return the class of a model's parameters."""
    return _declared(model).Params


def presets(model: str) -> tuple[str, ...]:
    """Return the names of a model's sets of starting values.

    Examples
    --------
    >>> presets("siid")
    ('default', 'deconvolution', 'published')
    """
    return tuple(_declared(model).PRESETS)


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


def check(model: str, values: Any, genes: tuple[str, ...], seed: int) -> None:
    """Let a model refuse parameters that do not go with the genes all slices share."""
    refuse = getattr(_declared(model), "check", None)
    if refuse is not None:
        refuse(values, genes, seed)


def summary(model: str) -> str:
    """Return one sentence on what a model does."""
    return _declared(model).SUMMARY


def example(model: str) -> str:
    """Return a store and options to try a model with, as its help text shows them.

    Examples
    --------
    >>> example("inspire")
    'inspire atlas.zarr --n-factors 20 --memory-budget 4GB'
    """
    return f"{model} atlas.zarr {getattr(_declared(model), 'EXAMPLE', '')}".strip()


def class_name(model: str) -> str:
    """Return the name of a model's Python class."""
    return _declared(model).CLASS_NAME


def needs(model: str, values: Any, n_spots: int) -> Needs:
    """Return what a model asks of ``prepare``."""
    return _declared(model).needs(values, n_spots)


def shares_steps(model: str) -> bool:
    """Say whether several workers can share a training step (:class:`atlasnmf.train.method.Ranked`)."""
    return bool(getattr(_declared(model), "SHARES_STEPS", False))


def takes_tensors(model: str) -> bool:
    """Say whether a model's batches may hold tensors of the device in place of arrays."""
    return bool(getattr(_declared(model), "TAKES_TENSORS", False))


def results(model: str) -> dict[str, tuple[str, ...]]:
    """Return the keys a model writes, by group (``obsm``, ``varm``, ...)."""
    return _declared(model).RESULTS


def shares(model: str) -> tuple[str, ...]:
    """Return the obsm keys of a model whose rows are shares of factors and sum to 1."""
    return getattr(_declared(model), "SHARES", ())


def factors(model: str) -> tuple[str, ...]:
    """Return the obsm keys of a model whose columns are factors, shares or else amounts.

    Examples
    --------
    >>> factors("inspire"), factors("spatialfuser")
    (('inspire_factors',), ())
    """
    found = results(model)
    return shares(model) or (found["obsm"] if "varm" in found else ())


def trained_only(model: str) -> tuple[str, ...]:
    """Return the obsm keys of a model that say nothing of spots it was not trained on."""
    return getattr(_declared(model), "TRAINED_ONLY", ())


def quality_lines(model: str, quality: Mapping[str, Any]) -> list[str]:
    """Return what a model tells people of the figures it measured; nothing for a model that does not say."""
    tell = getattr(_declared(model), "quality_lines", None)
    return [] if tell is None else list(tell(quality))


def _memory(model: str) -> ModuleType | None:
    place = f"{_declared(model).__package__}.memory"
    return None if find_spec(place) is None else import_module(place)


def step_bytes(model: str, values: Any, **sizes: float) -> float:
    """Return what a training step holds beside its rows; 0 for a model that does not say."""
    memory = _memory(model)
    return 0.0 if memory is None else float(memory.step_bytes(values, **sizes))


def settle(
    model: str, values: Any, *, n_spots: int, n_genes: int, nnz: float, array_bytes: int
) -> tuple[Options, str | None]:
    """Let a model choose the form that fits a memory budget: its parameters, and the reason."""
    choose = getattr(_memory(model), "settle", None)
    if choose is None:
        return values, None
    return choose(values, n_spots=n_spots, n_genes=n_genes, nnz=nnz, array_bytes=array_bytes)


def mend(model: str) -> str | None:
    """Return what to do when a model does not fit the memory budget."""
    return getattr(_memory(model), "MEND", None)


def fit_flops(model: str, values: Any, **sizes: float) -> float | None:
    """Return the operations of a fit; None for a model that does not say."""
    count = getattr(_memory(model), "fit_flops", None)
    return None if count is None else float(count(values, **sizes))


def build(model: str, values: Any, facts: AtlasFacts, device: str, seed: int) -> Any:
    """Return a model for an atlas: ``method``, ``infer`` and ``result``."""
    return import_module(f"atlasnmf.models.{model}.method").build(values, facts, device, seed)
