"""What may go into uns: plain values every AnnData reader knows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["columns_of", "plain"]


def columns_of(frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return a table as arrays of one length by column, as tables are kept in ``uns``."""
    return {str(name): column.to_numpy() for name, column in frame.items()}


def plain(value: Any) -> Any:
    """Turn parameters, figures and histories into values AnnData can store.

    Mappings stay mappings (without ``None`` values), sequences of numbers or strings become arrays, a list
    of records becomes a mapping of arrays, and whatever else there is becomes JSON or text.

    Examples
    --------
    >>> plain({"seed": 0, "radius": None, "genes": ("a", "b")})
    {'seed': 0, 'genes': array(['a', 'b'], dtype=object)}
    >>> plain([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}])
    {'step': array([1, 2]), 'loss': array([2. , 1.5])}
    """
    if isinstance(value, Mapping):
        items = {str(key).replace("/", "_"): plain(entry) for key, entry in value.items()}
        return {key: entry for key, entry in items.items() if entry is not None}
    if value is None or isinstance(value, str | bool | int | float | np.generic):
        return value
    if isinstance(value, np.ndarray):
        return value.astype(object) if value.dtype.kind in "UT" else value
    if hasattr(value, "columns"):
        return value
    if isinstance(value, list | tuple | set | frozenset | range):
        return _plain_sequence(sorted(value) if isinstance(value, set | frozenset) else list(value))
    return str(value)


def _plain_sequence(values: list[Any]) -> Any:
    if not values:
        return np.empty(0)
    if all(isinstance(value, str) for value in values):
        return np.array(values, dtype=object)
    if all(isinstance(value, Mapping) for value in values) and len({tuple(value) for value in values}) == 1:
        return {str(key): plain([value[key] for value in values]) for key in values[0]}
    try:
        array = np.array(values)
    except ValueError:
        array = np.empty(0, dtype=object)
    return array if array.dtype.kind in "biuf" else json.dumps(values, default=str)
