"""A distributed sum is three small functions; tiles and ranks both run it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Reduction", "add"]


def _as_it_is(part: Any) -> Any:
    return part


@dataclass(frozen=True)
class Reduction:
    """How the results of tiles become one result.

    Parameters
    ----------
    chunk
        ``chunk(tile, data) -> part``: contract one tile; pure, so that it may be run again.
    combine
        ``combine(left, right) -> part``: merge two neighbouring parts. It may overwrite and return
        ``left``, which nobody else holds, but must leave ``right`` alone.
    finalize
        ``finalize(part) -> result``, once, on the merged part.

    Notes
    -----
    Parts are merged from left to right in the order of the tiles, whichever worker made them and
    whenever it was done: floating-point sums have the same bits for any number of workers. Parts
    should be float64 and must not grow with spots unless the result does.

    Examples
    --------
    >>> mean = Reduction(
    ...     chunk=lambda tile, values: np.array([values.sum(), len(values)]),
    ...     combine=add,
    ...     finalize=lambda part: float(part[0] / part[1]),
    ... )
    >>> parts = [mean.chunk(None, np.arange(3.0)), mean.chunk(None, np.arange(5.0))]
    >>> mean.finalize(mean.combine(*parts))
    1.625
    """

    chunk: Callable[[Any, Any], Any]
    combine: Callable[[Any, Any], Any]
    finalize: Callable[[Any], Any] = _as_it_is


def add(left: Any, right: Any) -> Any:
    """Add two parts of the same make: arrays (in place), numbers, or tuples, lists and mappings of them.

    Lists are concatenated (pieces of a per-spot vector) and mappings joined, adding what both have.

    Examples
    --------
    >>> add((np.ones(2), 1, {"a": 1}), (np.ones(2), 2, {"a": 1, "b": 3}))
    (array([2., 2.]), 3, {'a': 2, 'b': 3})
    """
    if isinstance(left, np.ndarray):
        left += right
        return left
    if isinstance(left, tuple):
        return tuple(add(a, b) for a, b in zip(left, right, strict=True))
    if isinstance(left, list):
        left.extend(right)
        return left
    if isinstance(left, dict):
        for name, value in right.items():
            left[name] = add(left[name], value) if name in left else value
        return left
    return left + right
