"""Do the top genes of a factor occur together? Counted tile by tile, so it works at any size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from atlasnmf.errors import BadInput
from atlasnmf.metrics.factors import top_genes
from atlasnmf.schema import Csr

__all__ = ["CoOccurrence", "add_cooccurrence", "cooccurrence", "factor_coherence"]


@dataclass(frozen=True)
class CoOccurrence:
    """In how many spots two genes are seen together.

    Parameters
    ----------
    genes
        Columns counted, ascending, int64, shape (T,).
    n_spots
        Spots counted.
    together
        Spots with both genes, int64, shape (T, T); the diagonal has the spots with the gene.
    """

    genes: np.ndarray
    n_spots: int
    together: np.ndarray


def cooccurrence(counts: Csr, genes: np.ndarray) -> CoOccurrence:
    """Count the joint occurrences of some genes in one tile.

    Parameters
    ----------
    counts
        Counts of the tile, n rows; a stored zero is no occurrence.
    genes
        Columns of ``counts``, in any order, repeats allowed, for example ``top_genes(loadings)``.

    Notes
    -----
    Add tiles with :func:`add_cooccurrence`. O(nnz + sum over spots of (genes seen)^2), and 8 T^2 bytes.

    Examples
    --------
    >>> tile = Csr(np.array([0, 2, 3]), np.array([0, 2, 2]), np.array([1, 5, 1]), 3)
    >>> cooccurrence(tile, [0, 2]).together.tolist()
    [[1, 1], [1, 2]]
    """
    import scipy.sparse

    genes = np.unique(np.asarray(genes, dtype=np.int64))
    if len(genes) and not 0 <= genes[0] <= genes[-1] < counts.n_cols:
        raise BadInput(f"gene columns {genes[0]} to {genes[-1]} asked of counts with {counts.n_cols} genes")
    place = np.full(counts.n_cols, -1, dtype=np.int64)
    place[genes] = np.arange(len(genes))
    columns = place[counts.indices]
    kept = (columns >= 0) & (counts.data > 0)
    indptr = np.concatenate([[0], np.cumsum(kept)])[counts.indptr]
    seen = scipy.sparse.csr_array(
        (np.ones(int(indptr[-1]), np.int64), columns[kept], indptr), shape=(counts.n_rows, len(genes))
    )
    return CoOccurrence(genes, counts.n_rows, (seen.T @ seen).toarray())


def add_cooccurrence(left: CoOccurrence, right: CoOccurrence) -> CoOccurrence:
    """Add the counts of two tiles of the same genes.

    Examples
    --------
    >>> tile = Csr(np.array([0, 2, 3]), np.array([0, 2, 2]), np.array([1, 5, 1]), 3)
    >>> counted = cooccurrence(tile, [0, 2])
    >>> add_cooccurrence(counted, counted).together.tolist()
    [[2, 2], [2, 4]]
    """
    if not np.array_equal(left.genes, right.genes):
        raise BadInput(
            "co-occurrences of different genes cannot be added; count the same genes in every tile"
        )
    return CoOccurrence(left.genes, left.n_spots + right.n_spots, left.together + right.together)


def factor_coherence(loadings: np.ndarray, counted: CoOccurrence, n_top: int = 10) -> float:
    """Measure whether the top genes of a factor are seen in the same spots: mean NPMI.

    ``coherence = mean_k mean_{i<j} m(g_i, g_j)`` over the pairs of the top genes of factor k, with
    ``m = log(P_ij / (P_i P_j)) / -log P_ij`` the normalised pointwise mutual information, in [-1, 1].
    A pair never seen together has m = -1 (its limit), a pair present in every spot m = 0 (it tells nothing).

    Parameters
    ----------
    loadings
        Shape (G, K), NaN rows for genes outside the model.
    counted
        Co-occurrences over all spots, at least of ``top_genes(loadings, n_top)``, columns as in ``loadings``.
    n_top
        Top genes a factor.

    Raises
    ------
    BadInput
        No spots, fewer than two top genes, or a top gene that was not counted.

    References
    ----------
    INSPIRE, "Evaluation metrics: factor coherence"; Bouma, "Normalized (pointwise) mutual information in
    collocation extraction", GSCL (2009).

    Examples
    --------
    >>> tile = Csr(np.array([0, 2, 4, 5]), np.array([0, 1, 0, 1, 2]), np.ones(5), 3)
    >>> loadings = np.array([[0.6], [0.4], [0.0]])
    >>> factor_coherence(loadings, cooccurrence(tile, top_genes(loadings, 2)), n_top=2)
    1.0
    """
    top = top_genes(loadings, n_top)
    if counted.n_spots == 0 or len(top) < 2:
        raise BadInput(
            f"coherence needs spots and two genes, got {counted.n_spots} spots and {len(top)} genes"
        )
    if not np.isin(top, counted.genes).all():
        raise BadInput("a top gene was not counted; count the co-occurrence of top_genes(loadings)")
    places = np.searchsorted(counted.genes, top)
    first, second = np.triu_indices(len(top), k=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_joint = np.log(counted.together / counted.n_spots)
        log_single = np.diag(log_joint)
        pmi = log_joint - log_single[:, None] - log_single[None, :]
        npmi = pmi / -log_joint
    npmi = np.where(counted.together == 0, -1.0, np.where(counted.together == counted.n_spots, 0.0, npmi))
    return float(np.mean([npmi[places[first, k], places[second, k]].mean() for k in range(top.shape[1])]))
