"""The curve a number of patterns is chosen by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.plots.axes import one_axes
from atlasnmf.plots.stored import record_of
from atlasnmf.plots.style import category_colours, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from atlasnmf.store.atlas import AtlasLike

__all__ = ["instability"]

_NAMES = {"hungarian": "matched one to one", "amari": "Amari", "pca": "PCA, matched one to one"}


def instability(
    source: AtlasLike | Mapping[str, Any],
    key: str = "stanmf",
    *,
    measures: Sequence[str] | None = None,
    panel_width: float = 3.6,
    axes: Axes | None = None,
) -> Axes:
    """Draw instability by number of patterns: means over pairs of fits with their standard deviations.

    Parameters
    ----------
    source
        An open atlas, the path of a store, data in memory, or the record itself: ``ranks``,
        ``instability_<measure>_mean`` and ``_sd``, and ``rank``, the chosen one.
    key
        uns key of the fit.
    measures
        ``"hungarian"``, ``"amari"``, ``"pca"``; all there are when not given.
    panel_width
        Inches.
    axes
        Axes to draw on; a new figure when not given.

    Returns
    -------
    matplotlib.axes.Axes
        One line a measure; the chosen rank is marked.

    Raises
    ------
    BadInput
        There is no such curve.
    BadOption
        There is no such measure.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> curve = {"ranks": [2, 3], "instability_amari_mean": [0.1, 0.2], "instability_amari_sd": [0.0, 0.0]}
    >>> instability(curve).get_xlabel()
    'number of patterns'
    """
    record = record_of(source, key, "run atlasnmf fit stanmf first")
    there = [name for name in _NAMES if f"instability_{name}_mean" in record]
    if "ranks" not in record or not there:
        raise BadInput(f"{key!r} has no instability by rank; run atlasnmf fit stanmf with several ranks")
    for name in measures or ():
        if name not in there:
            raise BadOption(f"no measure {name!r} of instability; there are {', '.join(there)}")
    ranks = np.asarray(record["ranks"], np.int64)
    with styled():
        from matplotlib.ticker import MaxNLocator

        axes = one_axes(axes, panel_width, 0.75 * panel_width)
        shown = list(measures or there)
        for name, colour in zip(shown, category_colours(len(shown)), strict=True):
            mean = np.asarray(record[f"instability_{name}_mean"], np.float64)
            spread = np.asarray(record.get(f"instability_{name}_sd", np.zeros(len(mean))), np.float64)
            axes.errorbar(
                ranks[: len(mean)],
                mean,
                yerr=spread,
                color=colour,
                marker="o",
                markersize=3,
                capsize=2,
                label=_NAMES[name],
            )
        if record.get("rank") is not None:
            chosen = int(record["rank"])
            axes.axvline(chosen, color="#444444", linestyle="--", linewidth=0.8, label=f"chosen: {chosen}")
        axes.set_xlabel("number of patterns")
        axes.set_ylabel("instability")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()
    return axes
