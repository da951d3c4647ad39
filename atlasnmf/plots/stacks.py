"""Slices as a stack in three dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.plots.colourings import colouring_of, key_of_colours
from atlasnmf.plots.style import CONTINUOUS, styled
from atlasnmf.seeds import rng_for
from atlasnmf.store.atlas import opened
from atlasnmf.store.names import no_such

if TYPE_CHECKING:
    from atlasnmf.store.atlas import Atlas, AtlasLike

__all__ = ["stack3d"]


def stack3d(
    atlas: AtlasLike,
    color: str | int | None = "slice",
    *,
    key: str = "inspire",
    coordinates: str | None = None,
    slices: Sequence[str] | None = None,
    gap: float | None = None,
    n_shown: int = 60_000,
    elevation: float = 20.0,
    azimuth: float = -60.0,
    cmap: str = CONTINUOUS,
    panel_width: float = 5.0,
    random_state: int = 0,
    axes: Any = None,
) -> Any:
    """Draw slices above each other.

    Parameters
    ----------
    atlas
        An open atlas, the path of a store, or data in memory.
    color
        ``"slice"``, an obs column, or the number of a factor of ``key``.
    key
        The result whose factors may be named.
    coordinates
        obsm key of aligned coordinates, such as ``"spatialfuser_aligned"``; when not given the stored
        positions. Positions of three coordinates keep their third.
    slices
        Which slices, from below; all when not given.
    gap
        Height between slices in the unit of the coordinates; a third of their width when not given.
    n_shown
        Spots drawn, the same share of every slice.
    elevation, azimuth
        Of the eye, degrees.
    cmap, panel_width
        As in :func:`atlasnmf.pl.factors`.
    random_state
        Seed of the spots shown.
    axes
        Axes of three dimensions to draw on; a new figure when not given.

    Returns
    -------
    mpl_toolkits.mplot3d.axes3d.Axes3D

    Raises
    ------
    BadInput
        There is no such result, column or obsm key.
    BadOption
        There is no such slice or factor, or the axes have two dimensions.

    Examples
    --------
    >>> import anndata, matplotlib
    >>> matplotlib.use("Agg")
    >>> places = np.random.default_rng(0).normal(size=(9, 2))
    >>> stack3d(anndata.AnnData(np.ones((9, 1)), obsm={"spatial": places})).name
    '3d'
    """
    atlas = opened(atlas)
    colouring = colouring_of(atlas, color, key)
    names = [info.name for info in atlas.slices]
    for name in slices or ():
        if name not in names:
            raise BadOption(no_such("slice", name, names, atlas.name))
    places = _places(atlas, coordinates)
    codes = atlas.slice_codes()
    chosen = [names.index(name) for name in (slices or names)]
    level = np.full(len(names), -1)
    level[chosen] = np.arange(len(chosen))
    usable = np.flatnonzero((level[codes] >= 0) & np.isfinite(places).all(axis=1))
    if not len(usable):
        raise BadInput("no spot of these slices has a position to draw")
    rng = rng_for(random_state, "plots", "stack3d")
    rows = usable if len(usable) <= n_shown else np.sort(rng.choice(usable, n_shown, replace=False))
    xy = places[rows]
    if xy.shape[1] == 2:
        width = float(np.ptp(places[usable], axis=0).max())
        height = level[codes[rows]] * (gap if gap is not None else width / 3)
    else:
        height = xy[:, 2]
    with styled():
        if axes is None:
            import matplotlib.pyplot as plt

            figure = plt.figure(figsize=(panel_width, panel_width), layout="constrained")
            axes = figure.add_subplot(projection="3d")
        elif getattr(axes, "name", "") != "3d":
            raise BadOption("a stack needs axes of three dimensions; make them with projection='3d'")
        axes.scatter(
            xy[:, 0],
            xy[:, 1],
            height,
            c=colouring.rgba(rows, cmap),
            s=float(np.clip(20_000 / len(rows), 0.4, 12.0)),
            linewidths=0,
            depthshade=False,
            rasterized=True,
        )
        spans = [max(float(np.ptp(part)), 1e-9) for part in (xy[:, 0], xy[:, 1], height)]
        spans[2] = max(spans[2], 0.15 * max(spans))
        axes.set_box_aspect(spans)
        axes.view_init(elev=elevation, azim=azimuth)
        axes.set_axis_off()
        if xy.shape[1] == 2:
            for code in chosen if len(chosen) <= 12 else ():
                own = codes[rows] == code
                if own.any():
                    axes.text(
                        xy[own, 0].max(), xy[own, 1].min(), height[own][0], f" {names[code]}", fontsize=7
                    )
        if color not in (None, "slice") or len(chosen) > 12:
            key_of_colours(axes, colouring, cmap)
    return axes


def _places(atlas: Atlas, coordinates: str | None) -> np.ndarray:
    """Return positions of all spots, NaN where a table has none."""
    if coordinates is None:
        return atlas.coordinates()
    found = {t.name: t.obsm(coordinates) for t in atlas.tables if coordinates in t.keys("obsm")}
    if not found:
        raise BadInput(no_such("obsm key", coordinates, atlas.keys("obsm"), atlas.name))
    n_axes = max(values.shape[1] for values in found.values())
    places = np.full((atlas.n_spots, n_axes), np.nan)
    for table, spots in atlas.table_spots():
        if table.name in found:
            places[spots] = found[table.name]
    return places
