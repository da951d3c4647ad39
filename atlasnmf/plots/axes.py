"""Axes to draw on, given or made, and the bar of colours beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.errors import BadOption
from atlasnmf.options import at_least

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["axes_grid", "colour_bar", "given_axes", "one_axes"]


def one_axes(axes: Axes | None, width: float, height: float) -> Axes:
    """Return the axes given, or new ones of a size in inches."""
    if axes is not None:
        return axes
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def given_axes(axes: Any, n_panels: int, what: str) -> np.ndarray:
    """Return axes as a flat array.

    Raises
    ------
    BadOption
        There is not one for each panel, whatever a panel shows.
    """
    given = np.atleast_1d(np.asarray(axes, dtype=object)).ravel()
    if len(given) != n_panels:
        raise BadOption(f"{len(given)} axes given for {n_panels} {what}s; pass one per {what}")
    return given


def axes_grid(
    axes: Any, n_panels: int, what: str, *, n_columns: int, width: float, height: float
) -> np.ndarray:
    """Return the axes given, or a new grid row by row, each of a size in inches; shape (n_panels,)."""
    if axes is not None:
        return given_axes(axes, n_panels, what)
    import matplotlib.pyplot as plt

    at_least(1, n_columns=n_columns)
    n_across = min(n_columns, n_panels)
    n_rows = -(-n_panels // n_across)
    size = (width * n_across, height * n_rows)
    _, made = plt.subplots(n_rows, n_across, squeeze=False, layout="constrained", figsize=size)
    made = made.ravel()
    for spare in made[n_panels:]:
        spare.set_visible(False)
    return made[:n_panels]


def colour_bar(
    artist: Any, axes: Any, label: str = "", *, shrink: float = 0.7, aspect: float = 15, pad: float = 0.01
) -> None:
    """Draw the colours of an artist as a bar without a frame, beside axes or a row of them."""
    beside = axes if hasattr(axes, "figure") else list(axes)
    figure = getattr(axes, "figure", None) or beside[0].figure
    bar = figure.colorbar(artist, ax=beside, shrink=shrink, aspect=aspect, pad=pad)
    bar.set_label(label)
    bar.outline.set_visible(False)
