"""Curves: how a fit went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.plots.axes import axes_grid
from atlasnmf.plots.style import category_colours, styled
from atlasnmf.result_names import no_result
from atlasnmf.store.atlas import opened

if TYPE_CHECKING:
    from atlasnmf.store.atlas import AtlasLike

__all__ = ["history"]

_STEP_NAMES = ("step", "pass", "epoch", "iteration")


def history(
    source: AtlasLike | Mapping[str, Any] | Sequence[Mapping[str, float]],
    key: str = "inspire",
    *,
    metrics: Sequence[str] | None = None,
    smooth: int = 0,
    n_columns: int = 4,
    panel_width: float = 2.2,
    axes: Any = None,
) -> np.ndarray:
    """Draw the figures of a fit by step, one panel per figure.

    Parameters
    ----------
    source
        An open atlas (or the path of a store) with the result ``key``; or a history itself: figures by name,
        each one value per step, with the steps under ``"step"`` where known; or a list with one mapping
        per step.
    key
        The result to show when ``source`` is an atlas.
    metrics
        Which figures, in this order; all that are numbers when not given.
    smooth
        Also draw the running mean over so many steps.
    n_columns, panel_width
        Panels in a row, and inches.
    axes
        Axes to draw on, one a figure; a new figure when not given.

    Returns
    -------
    numpy.ndarray
        Axes, shape (n_metrics,).

    Raises
    ------
    BadInput
        There is no history.
    BadOption
        There is no such figure.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> [axis.get_title() for axis in history({"step": [0, 10], "loss": [3.0, 1.0]})]
    ['loss']
    """
    from atlasnmf.store.names import no_such

    columns = _columns(source, key)
    step_name = next((name for name in _STEP_NAMES if name in columns), None)
    steps = columns.pop(step_name) if step_name else None
    if metrics is None:
        metrics = [name for name, values in columns.items() if values.dtype.kind in "fiu" and len(values)]
    for name in metrics:
        if name not in columns:
            raise BadOption(no_such("figure", name, columns, "the history"))
    if not metrics:
        raise BadInput("the history has no figures; fit a model first")
    with styled():
        made = axes_grid(
            axes, len(metrics), "figure", n_columns=n_columns, width=panel_width, height=0.8 * panel_width
        )
        for axis, name, colour in zip(made, metrics, category_colours(len(metrics)), strict=True):
            values = columns[name].astype(np.float64)
            x = np.arange(len(values)) if steps is None else steps[: len(values)]
            axis.plot(x, values, color=colour, alpha=0.4 if smooth > 1 else 1.0)
            if 1 < smooth <= len(values):
                mean = np.convolve(values, np.full(smooth, 1 / smooth), mode="valid")
                axis.plot(x[smooth - 1 :], mean, color=colour)
            axis.set_title(name)
            axis.set_xlabel(step_name or "step")
    return made


def _columns(source: Any, key: str) -> dict[str, np.ndarray]:
    if hasattr(source, "tables") or hasattr(source, "obsm") or isinstance(source, str | Path):
        source = _stored(source, key)
    if isinstance(source, Mapping) or hasattr(source, "columns"):
        return {str(name): np.asarray(source[name]) for name in source}
    records = list(source)
    names = dict.fromkeys(name for record in records for name in record)
    return {name: np.array([record.get(name, np.nan) for record in records]) for name in names}


def _stored(source: Any, key: str) -> Any:
    atlas = opened(source)
    for table in atlas.tables:
        if key in table.keys("uns"):
            result = table.uns(key)
            if isinstance(result, Mapping) and "history" in result:
                return result["history"]
    known = [key for table in atlas.tables for key in table.keys("uns") if "history" in table.uns_keys(key)]
    raise no_result("result with a history", key, set(known), atlas)
