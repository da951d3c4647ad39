"""Genes over slices: as measured, as a model's factors denoise them, as a pair imputes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.errors import BadInput
from atlasnmf.plots.axes import colour_bar
from atlasnmf.plots.panels import draw_spots, frame, grid, panels_of
from atlasnmf.plots.stored import count_blocks, unit_of
from atlasnmf.plots.style import CONTINUOUS, styled
from atlasnmf.result_names import factor_ends, first_of, no_result, weight_ends
from atlasnmf.store.atlas import opened
from atlasnmf.store.names import no_such
from atlasnmf.store.runs import obsm_runs

if TYPE_CHECKING:
    from atlasnmf.store.atlas import Atlas, AtlasLike
    from atlasnmf.store.tables import TableHandle

__all__ = ["genes"]

#: Counts are drawn for so many counts of a spot, as logarithms.
_TARGET = 1e4


def genes(
    atlas: AtlasLike,
    genes: str | Sequence[str],
    *,
    denoised: str | None = None,
    imputed: str | None = None,
    slices: Sequence[str] | None = None,
    cmap: str = CONTINUOUS,
    percentile: float = 99.0,
    unit: str = "",
    invert_y: bool = True,
    panel_width: float = 2.0,
    axes: Any = None,
) -> np.ndarray:
    """Map genes over the slices as measured and, on request, as denoised and as imputed: a row each.

    Parameters
    ----------
    atlas
        An open atlas, the path of a store, or data in memory.
    genes
        Names of genes.
    denoised
        A result with factors and loadings (``"inspire"``, ``"stanmf"``): also draw what its factors say of
        the gene, the sum over factors of factor times loading.
    imputed
        A fitted pair (``"siid"``): also draw what it imputes in the cells of its fine slice.
    slices
        Which slices; all when not given.
    cmap, percentile, unit, invert_y, panel_width
        As in :func:`atlasnmf.pl.factors`; the colours of a row are shared by its slices.
    axes
        Axes to draw on, one a panel, row by row; a new figure when not given.

    Returns
    -------
    numpy.ndarray
        Axes, shape (n_genes x kinds, n_slices). Measured and imputed counts are drawn as log(1 + counts of
        10^4 of the spot), denoised ones as the model's own amounts.

    Raises
    ------
    BadInput
        No table has the gene, or there is no such result.
    BadOption
        There is no such slice, or another number of axes was given.

    Notes
    -----
    Counts are read once, in runs of 65,536 spots.

    Examples
    --------
    >>> import anndata, matplotlib
    >>> matplotlib.use("Agg")
    >>> places = np.random.default_rng(0).normal(size=(9, 2))
    >>> adata = anndata.AnnData(np.ones((9, 2)), obsm={"spatial": places})
    >>> adata.var_names = ["Shh", "Pax6"]
    >>> genes(adata, "Pax6").shape
    (1, 1)
    """
    atlas = opened(atlas)
    wanted = [genes] if isinstance(genes, str) else [str(gene) for gene in genes]
    for gene in wanted:
        if gene not in atlas.genes:
            raise BadInput(no_such("gene", gene, atlas.genes, atlas.name))
    kinds = {"measured": _measured(atlas, wanted)}
    if denoised is not None:
        kinds[f"by {denoised}"] = _denoised(atlas, denoised, wanted)
    if imputed is not None:
        kinds["imputed"] = _imputed(atlas, imputed, wanted)
    values = {
        table.name: np.concatenate([kind[table.name] for kind in kinds.values()], axis=1)
        for table in atlas.tables
    }
    panels = panels_of(atlas, lambda table: values[table.name], slices)
    # genes first, their kinds below each other
    rows = [
        (gene, kind, j * len(wanted) + i) for i, gene in enumerate(wanted) for j, kind in enumerate(kinds)
    ]
    with styled():
        import matplotlib as mpl

        made = grid(len(rows), len(panels), panels, panel_width, axes)
        for row, line in enumerate(made):
            for axis, panel in zip(line, panels, strict=True):
                frame(axis, panel, panels, invert_y=invert_y, unit=unit or unit_of(atlas))
                if row == 0:
                    axis.set_title(panel.name)
        made[0, 0].figure.draw_without_rendering()
        n_drawn = sum(len(panel.xy) for panel in panels)
        for (gene, kind, column), line in zip(rows, made, strict=True):
            known = np.concatenate([panel.values[:, column] for panel in panels])
            known = known[np.isfinite(known)]
            high = float(np.percentile(known, percentile)) if len(known) else 1.0
            limits = 0.0, high if high > 0 else max(float(known.max(initial=0.0)), 1e-12)
            artist = None
            for axis, panel in zip(line, panels, strict=True):
                own = panel.values[:, column]
                if np.isfinite(own).any():
                    artist = draw_spots(
                        axis, panel, own, cmap=mpl.colormaps[cmap], limits=limits, n_drawn=n_drawn
                    )
            line[0].set_ylabel(gene if len(kinds) == 1 else f"{gene}\n{kind}")
            if artist is not None:
                colour_bar(artist, line)
    return made


def _measured(atlas: Atlas, wanted: Sequence[str]) -> dict[str, np.ndarray]:
    """Return log counts of 10^4 by table, float32, NaN columns for genes a table lacks."""
    found = {}
    for table in atlas.tables:
        out = np.full((table.n_spots, len(wanted)), np.nan, np.float32)
        for run, counts, totals in count_blocks(table, wanted):
            out[run] = np.log1p(counts * (_TARGET / np.where(totals > 0, totals, np.nan))[:, None])
        found[table.name] = out
    return found


def _denoised(atlas: Atlas, key: str, wanted: Sequence[str]) -> dict[str, np.ndarray]:
    found = {table.name: np.full((table.n_spots, len(wanted)), np.nan, np.float32) for table in atlas.tables}
    any_there = False
    for table in atlas.tables:
        spots = first_of(key, factor_ends(), table.keys("obsm"))
        weights = first_of(key, weight_ends(), table.keys("varm"))
        if spots is not None and weights is not None:
            any_there = True
            found[table.name] = _product(table, spots, weights, wanted)
    if not any_there:
        known = sorted({name.rsplit("_", 1)[0] for name in atlas.keys("varm")})
        raise no_result("result with loadings", key, known, atlas)
    return found


def _product(table: TableHandle, spots: str, weights: str, wanted: Sequence[str]) -> np.ndarray:
    place = {str(gene): at for at, gene in enumerate(table.var_names())}
    loadings = np.asarray(table.varm(weights), np.float64)
    chosen = np.full((len(wanted), loadings.shape[1]), np.nan)
    for at, gene in enumerate(wanted):
        if gene in place:
            chosen[at] = loadings[place[gene]]
    out = np.empty((table.n_spots, len(wanted)), np.float32)
    for start, rows in obsm_runs([table], spots):
        out[start : start + len(rows)] = np.asarray(rows, np.float64) @ chosen.T
    return out


def _imputed(atlas: Atlas, key: str, wanted: Sequence[str]) -> dict[str, np.ndarray]:
    found = {table.name: np.full((table.n_spots, len(wanted)), np.nan, np.float32) for table in atlas.tables}
    lazy = atlas.imputed(list(wanted), key=key)
    depth = np.asarray(lazy.table.obs_column(f"{key}_depth"), np.float64)
    out = found[lazy.table.name]
    for start, block in lazy.blocks():
        totals = depth[start : start + len(block)]
        scale = _TARGET / np.where(totals > 0, totals, np.nan)
        out[start : start + len(block)] = np.log1p(block * scale[:, None])
    return found
