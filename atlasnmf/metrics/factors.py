"""Factors against themselves (diversity) and against known ones (recovery up to permutation)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from atlasnmf.errors import BadInput

__all__ = [
    "FactorMatch",
    "factor_diversity",
    "hungarian_match",
    "matched_correlation",
    "specific_genes",
    "top_genes",
]

_CHUNK_ROWS = 65_536


def top_genes(loadings: np.ndarray, n_top: int = 10) -> np.ndarray:
    """Rank the genes of every factor and keep the first.

    Parameters
    ----------
    loadings
        Shape (G, K). Genes outside the model, rows of NaN, are never among the first.
    n_top
        Genes to keep; at most the number of genes of the model.

    Returns
    -------
    numpy.ndarray
        Rows of ``loadings``, int64, shape (min(n_top, genes of the model), K), the largest first; equal
        loadings in the order of the genes.

    Raises
    ------
    BadInput
        No gene has finite loadings.

    Examples
    --------
    >>> top_genes(np.array([[0.1, 0.7], [0.6, 0.3], [0.3, 0.0]]), n_top=2).T.tolist()
    [[1, 2], [0, 1]]
    """
    loadings = np.asarray(loadings)
    genes = np.flatnonzero(np.isfinite(loadings).all(axis=1))
    if not len(genes):
        raise BadInput("the loadings have no finite row; fit a model before asking for its genes")
    order = np.argsort(-loadings[genes], axis=0, kind="stable")
    return genes[order[:n_top]]


def specific_genes(loadings: np.ndarray, n_top: int = 50) -> np.ndarray:
    """Say which genes are a factor's own: among its top genes, and larger on it than on every other factor.

    Parameters
    ----------
    loadings
        Shape (G, K), NaN rows for genes outside the model.
    n_top
        Top genes a factor.

    Returns
    -------
    numpy.ndarray
        bool, shape (G, K).

    References
    ----------
    INSPIRE, "Identification of genes specific to a spatial factor".

    Examples
    --------
    >>> specific_genes(np.array([[0.7, 0.1], [0.2, 0.4], [0.1, 0.5]]), n_top=2).astype(int).tolist()
    [[1, 0], [0, 1], [0, 1]]
    """
    loadings = np.asarray(loadings, np.float64)
    among = np.zeros(loadings.shape, bool)
    np.put_along_axis(among, top_genes(loadings, n_top), True, axis=0)
    alone = (loadings[:, :, None] > loadings[:, None, :]).sum(axis=2) == loadings.shape[1] - 1
    return among & alone


def factor_diversity(loadings: np.ndarray, n_top: int = 10) -> float:
    """Return the share of unique genes among the top genes of all factors.

    ``diversity = |union of the top sets| / (n_top K)``: 1 when no two factors share a top gene,
    1/K when all are alike.

    Parameters
    ----------
    loadings
        Shape (G, K), NaN rows for genes outside the model.
    n_top
        Top genes a factor.

    References
    ----------
    INSPIRE, "Evaluation metrics: factor diversity"; Dieng, Ruiz and Blei, "Topic modeling in embedding
    spaces", TACL 8 (2020).

    Examples
    --------
    >>> factor_diversity(np.array([[0.9, 0.0], [0.1, 0.2], [0.0, 0.8]]), n_top=1)
    1.0
    >>> factor_diversity(np.array([[0.9, 0.5], [0.1, 0.3], [0.0, 0.2]]), n_top=2)
    0.5
    """
    top = top_genes(loadings, n_top)
    return len(np.unique(top)) / top.size


def hungarian_match(similarity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pair rows with columns, each used at most once, at the largest total similarity.

    Parameters
    ----------
    similarity
        Shape (K, L), finite.

    Returns
    -------
    rows, columns
        int64, shape (min(K, L),), rows ascending.

    Raises
    ------
    BadInput
        A similarity is not finite.

    References
    ----------
    Kuhn, "The Hungarian method for the assignment problem", Naval Res. Logist. Q. 2 (1955); solved by
    :func:`scipy.optimize.linear_sum_assignment`.

    Examples
    --------
    >>> rows, columns = hungarian_match(np.array([[0.1, 0.9], [0.8, 0.7]]))
    >>> columns.tolist()
    [1, 0]
    """
    from scipy.optimize import linear_sum_assignment

    similarity = np.asarray(similarity, dtype=np.float64)
    if not np.isfinite(similarity).all():
        raise BadInput("a similarity is not finite; leave out constant or missing factors before matching")
    rows, columns = linear_sum_assignment(similarity, maximize=True)
    return rows.astype(np.int64), columns.astype(np.int64)


@dataclass(frozen=True)
class FactorMatch:
    """Which found factor is which true one.

    Parameters
    ----------
    found, truth
        Paired columns, int64, shape (min(K, L),).
    correlations
        Pearson correlation of each pair, shape (min(K, L),).
    mean
        Sum of the correlations over the number of true factors: a true factor without a partner counts 0.
    """

    found: np.ndarray
    truth: np.ndarray
    correlations: np.ndarray
    mean: float


def _correlations(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Pearson correlation of every column of one with every column of the other, in bounded memory."""
    n_found, n_truth = found.shape[1], truth.shape[1]
    sums, gram, n_rows = np.zeros(n_found + n_truth), np.zeros((n_found + n_truth,) * 2), 0
    shift: np.ndarray | None = None
    for start in range(0, len(found), _CHUNK_ROWS):
        rows = slice(start, start + _CHUNK_ROWS)
        both = np.hstack([np.asarray(found[rows], np.float64), np.asarray(truth[rows], np.float64)])
        both = both[np.isfinite(both).all(axis=1)]
        if not len(both):
            continue
        # A shift near the mean keeps the difference of squares below accurate.
        shift = both.mean(axis=0) if shift is None else shift
        both -= shift
        sums += both.sum(axis=0)
        gram += both.T @ both
        n_rows += len(both)
    if n_rows < 2:
        raise BadInput("fewer than two rows are finite on both sides; nothing to correlate")
    covariance = gram - np.outer(sums, sums) / n_rows
    variance = np.diag(covariance)
    constant = variance <= 1e-12 * np.maximum(np.diag(gram), np.finfo(np.float64).tiny)
    scale = np.where(constant, np.inf, np.sqrt(np.where(constant, 1.0, variance)))
    correlation = covariance[:n_found, n_found:] / np.outer(scale[:n_found], scale[n_found:])
    return np.clip(correlation, -1.0, 1.0)


def matched_correlation(found: np.ndarray, truth: np.ndarray) -> FactorMatch:
    """Measure how well known factors were recovered, up to permutation and scale.

    Pearson correlations of all pairs of columns, then the pairing of the largest total (Hungarian).
    Works alike on factors (spots in rows) and on loadings (genes in rows).

    Parameters
    ----------
    found
        Shape (n, K).
    truth
        Shape (n, L). Rows that are not finite on either side are left out; a constant column correlates 0.

    Raises
    ------
    BadInput
        Row numbers differ, or fewer than two rows are finite.

    Examples
    --------
    >>> truth = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.2]])
    >>> match = matched_correlation(truth[:, ::-1] * 7, truth)
    >>> match.found.tolist(), match.truth.tolist(), round(match.mean, 6)
    ([0, 1], [1, 0], 1.0)
    """
    found, truth = np.asarray(found), np.asarray(truth)
    if len(found) != len(truth):
        raise BadInput(
            f"{len(found)} found and {len(truth)} true rows; pass the same spots or genes in the same order"
        )
    correlations = _correlations(found, truth)
    rows, columns = hungarian_match(correlations)
    paired = correlations[rows, columns]
    return FactorMatch(rows, columns, paired, float(paired.sum() / truth.shape[1]))
