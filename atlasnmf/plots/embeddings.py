"""An embedding in two dimensions: UMAP of a sample, all other spots placed among it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.plots.axes import axes_grid
from atlasnmf.plots.colourings import Colouring, colouring_of, key_of_colours
from atlasnmf.plots.panels import draw_pixels
from atlasnmf.plots.style import CONTINUOUS, category_colours, styled
from atlasnmf.result_names import no_result
from atlasnmf.seeds import rng_for, seed_for
from atlasnmf.store.atlas import opened
from atlasnmf.store.runs import obsm_runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from atlasnmf.store.atlas import Atlas, AtlasLike

__all__ = ["embedding", "layout_of"]

_BLOCK_ROWS = 20_000
#: Points above which a picture is gathered into pixels.
_SHADE_ABOVE = 200_000
_PIXELS = 420


def embedding(
    atlas: AtlasLike,
    key: str = "X_inspire",
    *,
    color: str | int | Sequence[str | int] | None = "slice",
    factors: str | None = None,
    n_sample: int = 10_000,
    n_shown: int | None = 50_000,
    layout: np.ndarray | None = None,
    random_state: int = 0,
    cmap: str = CONTINUOUS,
    panel_width: float = 3.2,
    axes: Any = None,
) -> Any:
    """Draw an embedding in two dimensions, coloured by slice, by an obs column or by a factor.

    Parameters
    ----------
    atlas
        An open atlas, the path of a store, or data in memory.
    key
        obsm key of the embedding. One of two columns is drawn as it is, any other by UMAP.
    color
        ``"slice"``, an obs column, the number of a factor; several make a panel each.
    factors
        Result that numbers of factors belong to; when not given the embedding's own (``inspire`` of
        ``X_inspire``).
    n_sample
        Spots that UMAP is fitted to.
    n_shown
        Spots that are placed and drawn; None for all. UMAP is slow: fitting and placing take minutes.
    layout
        Positions to draw in place of UMAP's, shape (n_spots, 2), NaN for spots that are not drawn.
    random_state
        Seed of the sample and of UMAP.
    cmap, panel_width
        As in :func:`atlasnmf.pl.factors`.
    axes
        Axes to draw on, one a colouring; a new figure when not given.

    Returns
    -------
    matplotlib.axes.Axes
        Or an array of them, when several colourings were asked for.

    Raises
    ------
    BadInput
        There is no such embedding or column.
    BadOption
        There is no such factor, another number of axes was given, or umap-learn is not installed.

    References
    ----------
    McInnes, Healy and Melville, "UMAP" (2018).

    Examples
    --------
    >>> import anndata, matplotlib
    >>> matplotlib.use("Agg")
    >>> rows = np.random.default_rng(0).normal(size=(30, 2))
    >>> obsm = {"X_two": rows, "spatial": rows}
    >>> embedding(anndata.AnnData(np.ones((30, 1)), obsm=obsm), "X_two").get_title()
    'slice'
    """
    atlas = opened(atlas)
    several = not (color is None or isinstance(color, str | int | np.integer))
    wanted: list[Any] = list(color) if several else [color]  # type: ignore[arg-type]
    if not wanted:
        raise BadOption("there is nothing to draw; name one colour at least")
    colourings = [colouring_of(atlas, one, factors or key) for one in wanted]
    if layout is None:
        layout = layout_of(atlas, key, n_sample=n_sample, n_shown=n_shown, random_state=random_state)
    elif np.shape(layout) != (atlas.n_spots, 2):
        raise BadOption(f"layout takes shape ({atlas.n_spots}, 2), one row per spot; got {np.shape(layout)}")
    rows = np.flatnonzero(np.isfinite(layout).all(axis=1))
    # in stored order the last slice would hide the others
    rows = rng_for(random_state, "plots", "embedding", "order").permutation(rows)
    with styled():
        made = axes_grid(
            axes, len(wanted), "colouring", n_columns=len(wanted), width=panel_width + 1.0, height=panel_width
        )
        for axis, colouring in zip(made, colourings, strict=True):
            _draw(axis, layout[rows], colouring, rows, cmap)
            key_of_colours(axis, colouring, cmap)
            axis.set_title(colouring.title)
    return made if several else made[0]


def layout_of(
    atlas: Atlas,
    key: str,
    *,
    n_sample: int = 10_000,
    n_shown: int | None = 50_000,
    random_state: int = 0,
) -> np.ndarray:
    """Return two coordinates for every spot, NaN for those not placed, float64, shape (n, 2)."""
    rows = _rows_with(atlas, key)
    rng = rng_for(random_state, "plots", "embedding", "sample")
    if n_shown is not None and len(rows) > n_shown:
        rows = np.sort(rng.choice(rows, n_shown, replace=False))
    places = np.full((atlas.n_spots, 2), np.nan)
    values = _read(atlas, key, rows)
    if values.shape[1] == 2:
        places[rows] = values
        return places
    learned = np.sort(rng.permutation(len(rows))[:n_sample])
    mapper = _umap(seed_for(random_state, "plots", "embedding", "umap") % 2**31, len(learned))
    places[rows[learned]] = mapper.fit_transform(values[learned])
    others = np.setdiff1d(np.arange(len(rows)), learned)
    for start in range(0, len(others), _BLOCK_ROWS):
        block = others[start : start + _BLOCK_ROWS]
        places[rows[block]] = mapper.transform(values[block])
    return places


def _umap(seed: int, n_rows: int) -> Any:
    import warnings

    try:
        with warnings.catch_warnings():
            # umap tells everyone without tensorflow that it has none
            warnings.simplefilter("ignore", ImportWarning)
            from umap import UMAP
    except ImportError:
        mend = "pip install 'atlasnmf[plots]', or give layout="
        raise BadOption(
            f"drawing an embedding of more than two dimensions needs umap-learn; {mend}"
        ) from None
    if n_rows < 4:
        raise BadInput(f"{n_rows} spots have this embedding, too few for UMAP; fit more spots")
    return UMAP(n_neighbors=min(15, n_rows - 1), random_state=seed, n_jobs=1)


def _rows_with(atlas: Atlas, key: str) -> np.ndarray:
    """Return the spots whose embedding is finite."""
    found = []
    for table, spots in atlas.table_spots():
        if key in table.keys("obsm"):
            for first, block in obsm_runs([table], key):
                found.append(spots.start + first + np.flatnonzero(np.isfinite(block).all(axis=1)))
    if not found:
        raise no_result("obsm key", key, atlas.keys("obsm"), atlas)
    rows = np.concatenate(found)
    if not len(rows):
        raise BadInput(f"no spot has a finite {key!r}; fit the model again")
    return rows


def _read(atlas: Atlas, key: str, rows: np.ndarray) -> np.ndarray:
    parts = []
    for table, spots in atlas.table_spots():
        own = rows[(rows >= spots.start) & (rows < spots.stop)] - spots.start
        for first in range(0, table.n_spots if len(own) else 0, _BLOCK_ROWS):
            here = own[(own >= first) & (own < first + _BLOCK_ROWS)]
            if len(here):
                block = table.obsm_rows(key, first, min(first + _BLOCK_ROWS, table.n_spots))
                parts.append(np.asarray(block[here - first], np.float32))
    return np.concatenate(parts)


def _draw(axis: Axes, places: np.ndarray, colouring: Colouring, rows: np.ndarray, cmap: str) -> None:
    import matplotlib as mpl
    from matplotlib.colors import ListedColormap

    low, high = places.min(axis=0), places.max(axis=0)
    margin = 0.03 * np.maximum(high - low, 1e-9)
    ranges = [low[0] - margin[0], high[0] + margin[0]], [low[1] - margin[1], high[1] + margin[1]]
    if len(rows) > _SHADE_ABOVE:
        groups = len(colouring.groups)
        colours = ListedColormap(category_colours(groups)) if groups else mpl.colormaps[cmap]
        shape, limits = (_PIXELS, _PIXELS), colouring.limits()
        draw_pixels(axis, places, colouring.values[rows], shape, ranges, colours, limits, groups or None)
    else:
        size = float(np.clip(12_000 / len(rows), 0.3, 12.0))
        axis.scatter(
            places[:, 0], places[:, 1], c=colouring.rgba(rows, cmap), s=size, linewidths=0, rasterized=True
        )
    axis.set_xlim(*ranges[0])
    axis.set_ylim(*ranges[1])
    axis.set_aspect("equal", adjustable="box")
    axis.set_xticks([])
    axis.set_yticks([])
