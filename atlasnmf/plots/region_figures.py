"""Patterns against regions: bubbles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.plots.axes import colour_bar, one_axes
from atlasnmf.plots.stored import record_of
from atlasnmf.plots.style import CONTINUOUS, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from atlasnmf.store.atlas import AtlasLike

__all__ = ["region_bubbles"]

#: Square points of the largest bubble.
_LARGEST = 90.0


def region_bubbles(
    source: AtlasLike | Mapping[str, Any],
    key: str = "stanmf",
    *,
    regions: Sequence[str] | None = None,
    score: Literal["pearson", "dice"] = "pearson",
    n_regions: int = 3,
    cmap: str = CONTINUOUS,
    axes: Axes | None = None,
) -> Axes:
    """Draw how patterns agree with regions: a row per pattern, a column per region, size and colour by score.

    Parameters
    ----------
    source
        An open atlas, the path of a store, data in memory, or the record of ``tl.link_regions`` itself.
    key
        The result that was linked; ``uns["<key>_regions"]`` is read.
    regions
        Which regions, in this order; the best few of each pattern when not given.
    score
        ``"pearson"`` or ``"dice"``.
    n_regions
        Regions taken of each pattern when ``regions`` is not given.
    cmap
        A matplotlib colour map.
    axes
        Axes to draw on; a new figure when not given.

    Returns
    -------
    matplotlib.axes.Axes
        Scores of zero and below have no bubble.

    Raises
    ------
    BadInput
        Patterns have not been linked to regions.
    BadOption
        There is no such region or score.

    Examples
    --------
    >>> import atlasnmf as an
    >>> _ = an.tl.link_regions("brain.zarr", "stanmf")
    >>> axes = an.pl.region_bubbles("brain.zarr", "stanmf", n_regions=2)
    >>> axes.figure.savefig("regions.png")
    """
    from atlasnmf.store.names import no_such

    record = record_of(source, f"{key}_regions", f"run tl.link_regions with {key!r} first")
    if score not in ("pearson", "dice"):
        raise BadOption(f"no score {score!r}; choose pearson or dice")
    names = [str(name) for name in record["regions"]]
    scores = np.asarray(record[score], np.float64)
    for name in regions or ():
        if name not in names:
            raise BadOption(no_such("region", name, names, "the links"))
    if not names:
        raise BadInput("the links have no regions; link patterns again")
    shown = [names.index(name) for name in regions] if regions is not None else _best(scores, n_regions)
    values = np.nan_to_num(scores[shown].T)
    n_patterns = values.shape[0]
    with styled():
        axes = one_axes(axes, 0.2 * len(shown) + 1.6, 0.22 * n_patterns + 1.4)
        row, column = np.nonzero(values > 0)
        drawn = values[row, column]
        artist = axes.scatter(
            column, row, s=_LARGEST * drawn**2, c=drawn, cmap=cmap, vmin=0, vmax=max(values.max(), 1e-12)
        )
        axes.set_xticks(range(len(shown)), [names[region] for region in shown], rotation=90)
        axes.set_yticks(range(n_patterns), [f"pattern {pattern}" for pattern in range(n_patterns)])
        axes.set_xlim(-0.6, len(shown) - 0.4)
        axes.set_ylim(n_patterns - 0.4, -0.6)
        axes.tick_params(length=0)
        label = "Pearson correlation" if score == "pearson" else "Dice"
        colour_bar(artist, axes, label, shrink=0.6, pad=0.02)
    return axes


def _best(scores: np.ndarray, n_regions: int) -> list[int]:
    """Return the best regions of each pattern in turn, each once."""
    found: dict[int, None] = {}
    for column in scores.T:
        order = np.argsort(-np.nan_to_num(column, nan=-np.inf), kind="stable")[:n_regions]
        found.update(dict.fromkeys(int(region) for region in order if np.isfinite(column[region])))
    return list(found)
