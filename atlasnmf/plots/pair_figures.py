"""Figures of a fitted pair: imputed against measured genes, scores of a holdout, factors against types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.plots.axes import colour_bar, one_axes
from atlasnmf.plots.panels import Panel, draw_spots, frame, grid
from atlasnmf.plots.stored import count_blocks, record_of, unit_of
from atlasnmf.plots.style import CONTINUOUS, styled
from atlasnmf.store.atlas import opened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from atlasnmf.store.atlas import AtlasLike
    from atlasnmf.store.tables import TableHandle

__all__ = ["factor_types", "holdout", "imputed"]

_MEND = "fit one with atlasnmf fit siid --holdout 0.1"


def imputed(
    atlas: AtlasLike,
    genes: str | Sequence[str],
    key: str = "siid",
    *,
    cmap: str = CONTINUOUS,
    percentile: float = 99.0,
    unit: str = "",
    invert_y: bool = True,
    panel_width: float = 2.6,
    axes: Any = None,
) -> np.ndarray:
    """Map genes as measured and as imputed, side by side: a row per gene.

    Parameters
    ----------
    atlas
        An open atlas, the path of a store, or data in memory.
    genes
        Names of fitted genes. Where the fine slice has none of a gene, the measured panel stays empty.
    key
        The result.
    cmap, percentile, unit, invert_y, panel_width, axes
        As for :func:`atlasnmf.pl.factors`. Both maps of a gene are drawn per 10^6 of its counts in the slice,
        on one scale of colours.

    Returns
    -------
    numpy.ndarray
        Axes, shape (n_genes, 2).

    Raises
    ------
    BadInput
        There is no fitted pair of this name.
    BadOption
        A gene was not fitted.

    Examples
    --------
    >>> import atlasnmf as an
    >>> an.pl.imputed("pair.zarr", ["GENE0001", "GENE0002"]).shape
    (2, 2)
    """
    atlas = opened(atlas)
    names = [genes] if isinstance(genes, str) else list(genes)
    lazy = atlas.imputed(names, key=key)
    xy = atlas.coordinates_of(lazy.table)[:, :2]
    found = np.concatenate([block for _, block in lazy.blocks()]).astype(np.float64)
    pair = [_per_million(_measured(lazy.table, names)), _per_million(found)]
    panels = [Panel(title, xy, values) for title, values in zip(("measured", "imputed"), pair, strict=True)]
    unit = unit or unit_of(atlas)
    with styled():
        made = grid(len(names), 2, panels, panel_width, axes)
        import matplotlib as mpl

        colours = mpl.colormaps[cmap]
        for row, name in enumerate(names):
            known = np.concatenate([panel.values[np.isfinite(panel.values[:, row]), row] for panel in panels])
            limits = 0.0, max(float(np.percentile(known, percentile)), 1e-12)
            for axis, panel in zip(made[row], panels, strict=True):
                frame(axis, panel, panels, invert_y=invert_y, unit=unit)
            made[0, 0].figure.draw_without_rendering()
            for axis, panel in zip(made[row], panels, strict=True):
                values = panel.values[:, row]
                if np.isfinite(values).any():
                    draw_spots(axis, panel, values, cmap=colours, limits=limits, n_drawn=2 * len(xy))
                if row == 0:
                    axis.set_title(panel.name)
            made[row, 0].set_ylabel(name)
    return made


def _per_million(values: np.ndarray) -> np.ndarray:
    sums = np.nansum(values, axis=0)
    return values * 1e6 / np.where(sums > 0, sums, 1.0)


def _measured(table: TableHandle, genes: Sequence[str]) -> np.ndarray:
    """Return the counts of genes, shape (n, genes), NaN for a gene that the table lacks."""
    out = np.full((table.n_spots, len(genes)), np.nan)
    for run, counts, _ in count_blocks(table, genes):
        out[run] = counts
    return out


def holdout(
    source: AtlasLike | Mapping[str, Any], key: str = "siid", *, score: str = "r2", axes: Any = None
) -> Axes:
    """Draw a holdout's score of every gene against the gene's total counts.

    Parameters
    ----------
    source
        An open atlas, the path of a store, data in memory; or the entry of ``uns`` itself.
    key
        The result.
    score
        ``r2``, ``pearson``, ``spearman``, ``rmse``, ``js`` or ``ssim``.
    axes
        Axes to draw on; a new figure when not given.

    Returns
    -------
    matplotlib.axes.Axes
        The genes, the mean, and of ``r2`` the mean of the best baseline.

    Raises
    ------
    BadInput
        Nothing was held out.
    BadOption
        There is no such score.

    Examples
    --------
    >>> import atlasnmf as an
    >>> axes = an.pl.holdout("pair.zarr", score="pearson")
    >>> axes.get_ylabel()
    'pearson'
    """
    table = record_of(source, key, _MEND).get("holdout")
    if not isinstance(table, Mapping):
        raise BadInput(f"the fit {key!r} held no genes out; {_MEND}")
    if score not in table:
        known = ", ".join(
            name for name in ("r2", "pearson", "spearman", "rmse", "js", "ssim") if name in table
        )
        raise BadOption(f"no score {score!r} in the holdout of {key!r}; there are {known}")
    values, counts = np.asarray(table[score], float), np.maximum(np.asarray(table["counts"], float), 1.0)
    with styled():
        axes = one_axes(axes, 3.4, 2.6)
        axes.scatter(counts, values, s=12, color="#0072b2", linewidths=0, alpha=0.8)
        axes.axhline(np.nanmean(values), color="#0072b2", label=f"mean {np.nanmean(values):.3f}")
        if score == "r2":
            plain = {name: float(np.nanmean(table[f"baseline_{name}"])) for name in "ABCD"}
            best = max(plain, key=lambda name: plain[name])
            axes.axhline(
                plain[best], color="#7f7f7f", linestyle="--", label=f"baseline {best} {plain[best]:.3f}"
            )
        axes.set_xscale("log")
        axes.set_xlabel("counts of the gene in the fine slice")
        axes.set_ylabel(score)
        axes.legend()
    return axes


def factor_types(
    atlas: AtlasLike, types: str, key: str = "siid", *, cmap: str = CONTINUOUS, axes: Axes | None = None
) -> Axes:
    """Draw how the cells of each known type share the factors.

    Parameters
    ----------
    atlas
        An open atlas, the path of a store, or data in memory.
    types
        obs column of the fine table with the types.
    key
        The result.
    cmap
        A matplotlib colour map.
    axes
        Axes to draw on; a new figure when not given.

    Returns
    -------
    matplotlib.axes.Axes
        A row per type with its number of cells, a column per factor; the cosine of the type and the factor
        over the cells (Zheng, Sarkar and Raphael, Genome Res. 2025, figure 4A).

    Raises
    ------
    BadInput
        There is no fitted pair of this name.
    BadOption
        There is no such column.

    Examples
    --------
    >>> import atlasnmf as an
    >>> axes = an.pl.factor_types("pair.zarr", "cell_type")
    >>> len(axes.get_xticklabels()), len(axes.get_yticklabels())
    (3, 3)
    """
    import pandas as pd

    from atlasnmf.store.names import no_such

    atlas = opened(atlas)
    for table in atlas.tables:
        if f"{key}_factors" in table.keys("obsm"):
            break
    else:
        raise BadInput(f"{atlas.name} has no factors of a pair under the name {key!r}; run atlasnmf fit siid")
    if types not in table.obs_columns():
        raise BadOption(no_such("obs column", types, table.obs_columns(), f"table {table.name!r}"))
    column = pd.Series(table.obs_column(types)).astype("category").cat
    codes, factors = column.codes.to_numpy(), np.nan_to_num(table.obsm(f"{key}_factors").astype(np.float64))
    names = [str(name) for name in column.categories]
    sums = np.stack([factors[codes == c].sum(axis=0) for c in range(len(names))])
    sizes = np.bincount(codes[codes >= 0], minlength=len(names))
    norms = np.sqrt(sizes)[:, None] * np.sqrt((factors**2).sum(axis=0))[None]
    cosine = sums / np.where(norms > 0, norms, 1.0)
    order = np.argsort(cosine.argmax(axis=0), kind="stable")
    with styled():
        axes = one_axes(axes, 1.6 + 0.22 * len(order), 0.8 + 0.2 * len(names))
        image = axes.imshow(cosine[:, order], cmap=cmap, vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(order)), [f"{k + 1}" for k in order])
        axes.set_yticks(
            range(len(names)), [f"{name} ({size:,})" for name, size in zip(names, sizes, strict=True)]
        )
        axes.set_xlabel("factor")
        colour_bar(image, axes, "cosine", pad=0.02)
    return axes
