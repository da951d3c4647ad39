"""How well patterns times coefficients give back the values, from sums that do not grow with spots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from atlasnmf.errors import BadInput

__all__ = ["ReconstructionSums", "reconstruction_correlation", "reconstruction_sums"]


@dataclass(frozen=True)
class ReconstructionSums:
    """Sums over spots of values x and patterns d; add parts to pool spots.

    Parameters
    ----------
    n_spots
        Spots.
    values
        Sum of x, float64, shape (G,).
    squares
        Sum of x^2, shape (G,).
    patterns
        Sum of d, shape (K,).
    gram
        Sum of d d', shape (K, K).
    cross
        Sum of x d', shape (G, K).
    """

    n_spots: int
    values: np.ndarray
    squares: np.ndarray
    patterns: np.ndarray
    gram: np.ndarray
    cross: np.ndarray

    def __add__(self, other: ReconstructionSums) -> ReconstructionSums:
        return ReconstructionSums(
            self.n_spots + other.n_spots,
            self.values + other.values,
            self.squares + other.squares,
            self.patterns + other.patterns,
            self.gram + other.gram,
            self.cross + other.cross,
        )


def reconstruction_sums(values: Any, patterns: np.ndarray) -> ReconstructionSums:
    """Sum over a run of spots.

    Parameters
    ----------
    values
        An array or a scipy sparse matrix, shape (n, G).
    patterns
        Shape (n, K).

    Raises
    ------
    BadInput
        Numbers of spots differ.

    Notes
    -----
    O(nnz K + n K^2), in float64.

    Examples
    --------
    >>> patterns = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> sums = reconstruction_sums(np.array([[2.0], [4.0]]), patterns)
    >>> sums.n_spots
    2
    """
    import scipy.sparse

    patterns = np.asarray(patterns, np.float64)
    if values.shape[0] != len(patterns):
        raise BadInput(f"{values.shape[0]} spots have values and {len(patterns)} patterns; pass the same")
    wide: Any = values.astype(np.float64)
    squares = wide.multiply(wide) if scipy.sparse.issparse(wide) else wide**2
    return ReconstructionSums(
        len(patterns),
        np.asarray(wide.sum(axis=0)).ravel(),
        np.asarray(squares.sum(axis=0)).ravel(),
        patterns.sum(axis=0),
        patterns.T @ patterns,
        np.asarray(wide.T @ patterns),
    )


def reconstruction_correlation(sums: ReconstructionSums, coefficients: np.ndarray) -> np.ndarray:
    """Correlate every gene's values with their reconstruction: Pearson, over all spots summed.

    Parameters
    ----------
    sums
        From :func:`reconstruction_sums`.
    coefficients
        Shape (G, K); rows of NaN for genes outside the model.

    Returns
    -------
    numpy.ndarray
        float64, shape (G,); NaN for genes outside the model, constant ones, and constant reconstructions.

    References
    ----------
    Cahill et al., PNAS (2024): "reconstruction accuracy".

    Notes
    -----
    O(G K^2).

    Examples
    --------
    >>> patterns = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> sums = reconstruction_sums(patterns @ np.array([[2.0, 1.0], [0.0, 1.0]]), patterns)
    >>> reconstruction_correlation(sums, np.array([[2.0, 0.0], [1.0, 1.0]])).round(6).tolist()
    [1.0, 1.0]
    """
    loadings = np.asarray(coefficients, np.float64)
    mean = sums.patterns / sums.n_spots
    centred = sums.gram - sums.n_spots * np.outer(mean, mean)
    shared = sums.cross - np.outer(sums.values, mean)
    covariance = (shared * loadings).sum(axis=1)
    fitted = ((loadings @ centred) * loadings).sum(axis=1)
    spread = sums.squares - sums.values**2 / sums.n_spots
    # differences of large sums: what is left of a constant is rounding
    known = (spread > 1e-12 * sums.squares) & (
        fitted > 1e-12 * ((loadings @ sums.gram) * loadings).sum(axis=1)
    )
    scale = np.sqrt(np.where(known, spread * fitted, 1.0))
    return np.where(known, np.clip(covariance / scale, -1.0, 1.0), np.nan)
