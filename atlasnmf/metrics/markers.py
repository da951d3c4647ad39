"""Which genes make which pattern: importance, markers, and reconstructions that go together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from atlasnmf.errors import BadInput

__all__ = ["Markers", "genes_per_pattern", "marker_genes", "patterns_per_gene", "reconstruction_similarity"]


@dataclass(frozen=True)
class Markers:
    """The pattern of each gene, and how much it is that pattern's alone.

    Parameters
    ----------
    pattern
        Pattern with the gene's largest coefficient, -1 for genes without any, int64, shape (G,).
    importance
        That coefficient over the sum of the gene's coefficients, float64, shape (G,); NaN without any.
    """

    pattern: np.ndarray
    importance: np.ndarray

    def ranked(self, pattern: int, n_top: int | None = None) -> np.ndarray:
        """Return the genes of a pattern, the most important first; equal ones in their own order."""
        own = np.flatnonzero(self.pattern == pattern)
        return own[np.argsort(-self.importance[own], kind="stable")][:n_top]


def marker_genes(coefficients: np.ndarray) -> Markers:
    """Give every gene to the pattern it has the largest coefficient for, and rate it: a_kj / sum_k a_kj.

    Parameters
    ----------
    coefficients
        Non-negative, shape (G, K); rows of NaN for genes outside the model.

    Raises
    ------
    BadInput
        A coefficient is negative, or there are none.

    References
    ----------
    Cahill et al., PNAS (2024), "From PPs to marker genes".

    Examples
    --------
    >>> markers = marker_genes(np.array([[3.0, 1.0], [0.0, 2.0], [0.0, 0.0]]))
    >>> markers.pattern.tolist(), markers.importance.tolist()
    ([0, 1, -1], [0.75, 1.0, nan])
    """
    loadings = np.asarray(coefficients, np.float64)
    if loadings.ndim != 2 or not loadings.size:
        raise BadInput(f"coefficients have genes in rows and patterns in columns; got shape {loadings.shape}")
    if (loadings < 0).any():
        raise BadInput("a coefficient is negative; importance is defined for non-negative patterns only")
    total = np.where(np.isfinite(loadings).all(axis=1), np.nan_to_num(loadings).sum(axis=1), 0.0)
    used = total > 0
    pattern = np.where(used, np.nan_to_num(loadings).argmax(axis=1), -1)
    importance = np.divide(loadings.max(axis=1), total, out=np.full(len(total), np.nan), where=used)
    return Markers(pattern.astype(np.int64), importance)


def genes_per_pattern(coefficients: np.ndarray) -> np.ndarray:
    """Count the genes each pattern is the main one of, int64, shape (K,).

    Examples
    --------
    >>> genes_per_pattern(np.array([[3.0, 1.0], [0.0, 2.0], [0.0, 4.0]])).tolist()
    [1, 2]
    """
    markers = marker_genes(coefficients)
    return np.bincount(markers.pattern[markers.pattern >= 0], minlength=np.shape(coefficients)[1])


def patterns_per_gene(coefficients: np.ndarray, *, share: float = 0.0) -> np.ndarray:
    """Count the patterns a gene takes part in.

    Parameters
    ----------
    coefficients
        Shape (G, K).
    share
        A pattern counts when its coefficient is above this share of the gene's sum; 0 counts every
        coefficient above zero, as published.

    Returns
    -------
    numpy.ndarray
        int64, shape (G,); 0 for genes outside the model.

    Examples
    --------
    >>> patterns_per_gene(np.array([[3.0, 1.0], [0.0, 2.0], [0.0, 0.0]])).tolist()
    [2, 1, 0]
    """
    loadings = np.nan_to_num(np.asarray(coefficients, np.float64))
    return (loadings > share * loadings.sum(axis=1, keepdims=True)).sum(axis=1)


def reconstruction_similarity(
    coefficients: np.ndarray, gram: np.ndarray, sums: np.ndarray, n_spots: int
) -> np.ndarray:
    """Correlate the reconstructions of genes with each other, without a spot.

    Parameters
    ----------
    coefficients
        Of the m genes, shape (m, K).
    gram, sums
        Sums over spots of d d', shape (K, K), and of d, shape (K,).
    n_spots
        Spots.

    Returns
    -------
    numpy.ndarray
        Pearson correlations, float64, shape (m, m); 0 with a constant reconstruction.

    Notes
    -----
    O(m K^2 + m^2 K): ``corr(D a, D b) = a' C b / sqrt(a' C a  b' C b)`` with C the centred Gram matrix.

    Examples
    --------
    >>> patterns = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 2.0]])
    >>> sums = patterns.T @ patterns, patterns.sum(axis=0)
    >>> reconstruction_similarity(np.eye(2), *sums, 3).round(3).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    loadings = np.asarray(coefficients, np.float64)
    centred = gram - np.outer(sums, sums) / n_spots
    covariance = loadings @ centred @ loadings.T
    spread = np.diag(covariance)
    constant = spread <= 1e-12 * ((loadings @ gram) * loadings).sum(axis=1)
    scale = np.where(constant, np.inf, np.sqrt(np.where(constant, 1.0, spread)))
    return np.clip(covariance / np.outer(scale, scale), -1.0, 1.0)
