"""Highly variable genes by seurat_v3, slice by slice, in two streamed passes.

The first pass (sums and sums of squares) is the survey's; the second clips large counts. The same
genes as ``scanpy.pp.highly_variable_genes(flavor="seurat_v3")`` on each slice, ties included
(Stuart et al. 2019, *Cell* 177:1888; Hafemeister and Satija 2019, *Genome Biology* 20:296).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from atlasnmf.errors import BadInput
from atlasnmf.events import SILENT, Events
from atlasnmf.features.qc import Survey
from atlasnmf.features.source import TILE_ROWS, RowSource, read_tile, row_tiles, rows_by_slice
from atlasnmf.kernels.cpu.moments import clipped_moments
from atlasnmf.reduce import Reduction, add, run_reduction
from atlasnmf.schema import Csr

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["Trend", "fit_trend", "highly_variable", "standardised_variance", "top_genes"]


@dataclass(frozen=True)
class Trend:
    """The mean-variance trend of the genes of one slice.

    Parameters
    ----------
    n_spots
        Number of spots N.
    means
        Mean counts, float64, shape (G,).
    regular_sd
        Standard deviation that the trend expects of each gene, float64, shape (G,).
    clip
        mean + sqrt(N) * regular_sd: larger counts are clipped, float64, shape (G,).
    """

    n_spots: int
    means: np.ndarray
    regular_sd: np.ndarray
    clip: np.ndarray


def fit_trend(sums: np.ndarray, squares: np.ndarray, n_spots: int, *, span: float = 0.3) -> Trend:
    """Fit log10 variance on log10 mean by a local quadratic regression.

    Parameters
    ----------
    sums, squares
        Sum of the counts and of their squares, float64, shape (G,).
    n_spots
        Number of spots N, at least 2.
    span
        Share of the genes in a local fit.

    Raises
    ------
    ValueError
        The regression fails: too few genes, or too many with the same mean.
    """
    from skmisc.loess import loess

    means = sums / n_spots
    variances = (squares / n_spots - means**2) * (n_spots / (n_spots - 1))
    varies = variances > 0
    expected = np.zeros(len(means), dtype=np.float64)
    model = loess(np.log10(means[varies]), np.log10(variances[varies]), span=span, degree=2)
    model.fit()
    expected[varies] = model.outputs.fitted_values
    regular_sd = np.sqrt(10**expected)
    return Trend(n_spots, means, regular_sd, regular_sd * np.sqrt(n_spots) + means)


def standardised_variance(trend: Trend, sums: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Variance of the clipped, standardised counts.

    Parameters
    ----------
    trend
        From :func:`fit_trend`.
    sums, squares
        Sum of the clipped counts and of their squares, float64, shape (G,).

    Returns
    -------
    variances
        float64, shape (G,).
    """
    n, means = trend.n_spots, trend.means
    scale = 1 / ((n - 1) * np.square(trend.regular_sd))
    return scale * ((n * np.square(means)) + squares - 2 * sums * means)


def top_genes(variances: np.ndarray, n_top: int) -> np.ndarray:
    """Mark the ``n_top`` genes of largest standardised variance; ties as scanpy breaks them."""
    ranks = np.argsort(np.argsort(-variances))
    return ranks < n_top


def highly_variable(
    counts: RowSource,
    slice_codes: np.ndarray,
    found: Survey,
    usable: np.ndarray,
    n_top: int,
    *,
    slice_names: tuple[str, ...] = (),
    tile_rows: int = TILE_ROWS,
    client: Client | None = None,
    n_workers: int = 1,
    events: Events = SILENT,
    stage: str | None = None,
) -> np.ndarray:
    """Mark the highly variable genes of every slice of a table.

    Parameters
    ----------
    counts, slice_codes
        As given to :func:`~atlasnmf.features.qc.survey`.
    found
        What the survey found.
    usable
        Genes that take part, by slice, bool, shape (S, G).
    n_top
        Genes to mark in each slice. A slice with no more usable genes than that gets all of them.
    slice_names
        For messages.
    tile_rows, client, n_workers, events, stage
        Rows read at once, and how the tiles are run (see :func:`~atlasnmf.reduce.run_reduction`).

    Returns
    -------
    variable
        bool, shape (S, G).

    Raises
    ------
    BadInput
        A slice has too few spots or genes for the regression.
    """
    variable = usable & (found.n_spots > 0)[:, None]
    trends: dict[int, Trend] = {}
    for index in np.flatnonzero(variable.sum(axis=1) > n_top).tolist():
        name = slice_names[index] if slice_names else str(index)
        trends[index] = _trend_of(found, index, variable[index], name)
    if not trends:
        return variable
    clip = {}
    for index, trend in trends.items():
        clip[index] = np.zeros(usable.shape[1], dtype=np.float64)
        clip[index][variable[index]] = trend.clip
    codes = np.where(found.kept, slice_codes, -1).astype(np.int32)
    codes[~np.isin(codes, list(trends))] = -1
    sums = run_reduction(
        Reduction(partial(_clipped_tile, codes=codes, clip=clip), add),
        [tile for tile in row_tiles(len(codes), tile_rows) if np.any(codes[tile.start : tile.stop] >= 0)],
        partial(read_tile, counts),
        client=client,
        n_workers=n_workers,
        events=events,
        stage=stage,
    )
    for index, trend in trends.items():
        mask = variable[index].copy()
        variances = standardised_variance(trend, sums[index][0][mask], sums[index][1][mask])
        variable[index, mask] = top_genes(variances, n_top)
    return variable


def _trend_of(found: Survey, index: int, mask: np.ndarray, name: str) -> Trend:
    n_spots = int(found.n_spots[index])
    mend = "leave the slice out, or keep all shared genes with --n-hvgs 0"
    if n_spots < 2:
        raise BadInput(f"slice {name!r} has {n_spots} usable spots, too few to find variable genes; {mend}")
    try:
        return fit_trend(found.sums[index, mask], found.squares[index, mask], n_spots)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise BadInput(
            f"the mean-variance trend of the {int(mask.sum())} genes of slice {name!r} cannot be fitted "
            f"({reason}); {mend}"
        ) from None


def _clipped_tile(
    tile: range, rows: Csr, *, codes: np.ndarray, clip: dict[int, np.ndarray]
) -> dict[int, np.ndarray]:
    return {
        code: np.stack(clipped_moments(part.indptr, part.indices, part.data, part.n_cols, clip[code]))
        for code, part in rows_by_slice(rows, codes[tile.start : tile.stop])
    }
