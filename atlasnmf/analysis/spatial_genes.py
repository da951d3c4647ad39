"""Genes that vary in space with a factor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.analysis.stored_patterns import StoredPatterns, stored_patterns
from atlasnmf.analysis.values import GeneValues, gene_values
from atlasnmf.errors import BadInput
from atlasnmf.metrics.enrichment import benjamini_hochberg
from atlasnmf.options import at_least
from atlasnmf.store.plain import columns_of
from atlasnmf.store.results import ResultWriter, refuse_existing

if TYPE_CHECKING:
    import pandas as pd
    import scipy.sparse

    from atlasnmf.store.atlas import AtlasLike

__all__ = ["spatial_genes"]

#: Rows whose neighbours are summed at a time.
_RUN_ROWS = 16_384


@dataclass(frozen=True)
class _Moments:
    """Sums over spots that have factors, by gene: how many, x, x^2, and x times each factor."""

    n_spots: np.ndarray
    total: np.ndarray
    squares: np.ndarray
    correlation: np.ndarray


def spatial_genes(
    atlas: AtlasLike,
    key: str = "inspire",
    *,
    n_top: int = 50,
    n_neighbors: int = 6,
    source: str | None = None,
    key_added: str | None = None,
    overwrite: bool = False,
) -> pd.DataFrame:
    """Find the genes that go with each factor in space: by correlation, with Moran's I of the gene.

    Parameters
    ----------
    atlas
        An open atlas, the path of a store, or data in memory (which is changed).
    key
        Name of the result.
    n_top
        Genes of each factor, those that correlate most.
    n_neighbors
        Of a spot in the graph of Moran's I (voxels are joined where they share a face).
    source
        Values: None for the logarithm of counts per 10^4, or a layer.
    key_added
        uns key to write, ``<key>_spatial_genes`` by default: ``genes`` with ``correlation`` of all, shape (G,
        K), and the columns of what is returned.
    overwrite
        Replace an older one.

    Returns
    -------
    pandas.DataFrame
        ``factor``, ``rank``, ``gene``, ``correlation`` (Pearson, over the spots that measured the gene),
        ``morans_i``, ``p`` and ``q`` (of Moran's I above that of no autocorrelation, normal approximation;
        Benjamini and Hochberg over the genes shown).

    Raises
    ------
    BadInput
        There is no such result, or no spot has it.
    BadOption
        The key exists.

    Notes
    -----
    Two passes over the values; the second holds those of the genes shown, in one table at a time, as sparse
    rows. Slices are not joined.

    Examples
    --------
    >>> import atlasnmf as an
    >>> found = an.tl.spatial_genes("embryo.zarr", "inspire", n_top=3)
    >>> len(found), list(found.columns)
    (12, ['factor', 'rank', 'gene', 'correlation', 'morans_i', 'p', 'q'])
    """
    import pandas as pd

    at_least(1, n_top=n_top)
    read = stored_patterns(atlas, key)
    written = key_added or f"{key}_spatial_genes"
    refuse_existing(read.atlas, uns=[written], overwrite=overwrite)
    if not read.finite.any():
        raise BadInput(f"no spot has a finite value of {key!r}; fit the model again")
    values = gene_values(read.atlas, None, source, tables=read.tables)
    moments = _moments(read, values)
    ordered = np.argsort(-np.nan_to_num(moments.correlation, nan=-2.0), axis=0, kind="stable")[:n_top]
    shown = np.unique(ordered)
    chosen = GeneValues(values.atlas, values.tables, tuple(values.genes[g] for g in shown), source)
    moran, p = _morans(
        read, chosen, moments.total[shown] / np.maximum(moments.n_spots[shown], 1), n_neighbors
    )
    q = benjamini_hochberg(p)
    place = {int(gene): at for at, gene in enumerate(shown)}
    rows = [
        (k, rank, values.genes[g], moments.correlation[g, k], moran[place[g]], p[place[g]], q[place[g]])
        for k in range(read.n_patterns)
        for rank, g in enumerate(ordered[:, k].tolist())
    ]
    frame = pd.DataFrame(rows, columns=["factor", "rank", "gene", "correlation", "morans_i", "p", "q"])
    record: dict[str, Any] = {"genes": list(values.genes), "all_correlations": moments.correlation}
    with ResultWriter(read.atlas, overwrite=overwrite) as writer:
        writer.uns(written, record | columns_of(frame), tables=read.names)
    return frame


def _moments(read: StoredPatterns, values: GeneValues) -> _Moments:
    n_genes, n_factors = len(values.genes), read.n_patterns
    n, total, squares = np.zeros(n_genes), np.zeros(n_genes), np.zeros(n_genes)
    cross = np.zeros((n_genes, n_factors))
    factor, factor_squares = np.zeros((n_genes, n_factors)), np.zeros((n_genes, n_factors))
    for number, run, rows in values.runs():
        kept = np.flatnonzero(read.finite[run])
        some: Any = rows[kept].astype(np.float64)
        factors = read.patterns[run][kept].astype(np.float64)
        there = values.measured[number]
        n += len(kept) * there
        total += np.asarray(some.sum(axis=0)).ravel()
        squares += np.asarray(
            (some**2 if isinstance(some, np.ndarray) else some.multiply(some)).sum(axis=0)
        ).ravel()
        cross += some.T @ factors
        factor += there[:, None] * factors.sum(axis=0)
        factor_squares += there[:, None] * (factors**2).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        shared = cross - total[:, None] * factor / n[:, None]
        spread = squares - total**2 / n
        spread = np.where(spread > 1e-12 * squares, spread, np.nan)
        own = factor_squares - factor**2 / n[:, None]
        own = np.where(own > 1e-12 * factor_squares, own, np.nan)
        correlation = shared / np.sqrt(spread[:, None] * own)
    return _Moments(n, total, squares, correlation)


def _morans(
    read: StoredPatterns, values: GeneValues, means: np.ndarray, n_neighbors: int
) -> tuple[np.ndarray, np.ndarray]:
    """Moran's I of each gene over the spots that measured it, and p values."""
    import scipy.sparse
    from scipy.stats import norm

    graph = read.graph(n_neighbors=n_neighbors).to_scipy()
    n_genes = len(values.genes)
    shared, spread, n = np.zeros(n_genes), np.zeros(n_genes), np.zeros(n_genes)
    edges, second = np.zeros(n_genes), np.zeros(n_genes)
    first = 0
    for number, table in enumerate(values.tables):
        one = GeneValues(values.atlas, (table,), values.genes, values.source)
        here = slice(first, first + table.n_spots)
        first += table.n_spots
        held = scipy.sparse.vstack([scipy.sparse.csr_matrix(rows) for _, _, rows in one.runs()]).tocsr()
        part = graph[here, here].astype(np.float64)
        found = _one_table(part, held.astype(np.float64), means)
        there = values.measured[number]
        degrees = np.asarray(part.sum(axis=1)).ravel()
        shared += there * found[0]
        spread += there * found[1]
        n += there * table.n_spots
        edges += there * degrees.sum()
        second += there * (4 * degrees**2).sum()
    with np.errstate(invalid="ignore", divide="ignore"):
        moran = np.where((spread > 0) & (edges > 0), n / edges * shared / spread, np.nan)
        # normal approximation for a symmetric graph of ones: S1 = 2 W, S2 = sum of (2 d)^2
        expected = -1 / (n - 1)
        variance = (n**2 * 2 * edges - n * second + 3 * edges**2) / ((n**2 - 1) * edges**2) - expected**2
        score = (moran - expected) / np.sqrt(variance)
    return moran, norm.sf(score)


def _one_table(
    graph: scipy.sparse.csr_matrix, held: scipy.sparse.csr_matrix, means: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return sums of ``w_ij z_i z_j`` and of ``z_i^2`` by gene, z the values less their means."""
    degrees = np.asarray(graph.sum(axis=1)).ravel()
    products = np.zeros(held.shape[1])
    for start in range(0, held.shape[0], _RUN_ROWS):
        stop = min(start + _RUN_ROWS, held.shape[0])
        around = graph[start:stop] @ held
        products += np.asarray(around.multiply(held[start:stop]).sum(axis=0)).ravel()
    weighted = degrees @ held
    shared = products - 2 * means * weighted + means**2 * degrees.sum()
    total = np.asarray(held.sum(axis=0)).ravel()
    squares = np.asarray(held.multiply(held).sum(axis=0)).ravel()
    return shared, squares - 2 * means * total + held.shape[0] * means**2
