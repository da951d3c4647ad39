"""Filling what was not measured, gene by gene, and a score of how well that works on hidden values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from atlasnmf.kernels.cpu.fill import inverse_distance_mean

__all__ = ["FillScore", "fill_missing", "hidden_score"]


def fill_missing(values: np.ndarray, coords: np.ndarray, *, n_neighbors: int = 6) -> np.ndarray:
    """Fill the missing values of one gene from the nearest measured ones, weighted by one over distance.

    Parameters
    ----------
    values
        One gene, NaN where missing, shape (n,); at least one is measured.
    coords
        Positions, finite, shape (n, 2 or 3).
    n_neighbors
        Measured spots averaged.

    Returns
    -------
    numpy.ndarray
        float32, shape (n,); what was measured is unchanged.

    References
    ----------
    Cahill et al., "Unsupervised pattern identification in spatial gene expression atlas", PNAS (2024),
    "Data description and preprocessing": k nearest neighbours, k = 6.

    Examples
    --------
    >>> fill_missing(np.array([1.0, np.nan, 4.0]), np.array([[0.0], [1], [3]]), n_neighbors=2).tolist()
    [1.0, 2.0, 4.0]
    """
    filled = np.array(values, dtype=np.float32)
    missing = np.isnan(filled)
    if missing.any():
        known = ~missing
        filled[missing] = inverse_distance_mean(coords[known], filled[known], coords[missing], n_neighbors)
    return filled


@dataclass(frozen=True)
class FillScore:
    """Sums over hidden values y and what they were filled with, z; add scores to pool genes.

    Parameters
    ----------
    n
        Hidden values.
    residual, spread
        Sum of (y - z)^2, and of (y - mean of the gene's hidden y)^2.
    absolute
        Sum of the absolute differences.
    moments
        Sums of y, z, y^2, z^2 and y z, shape (5,).
    """

    n: int
    residual: float
    spread: float
    absolute: float
    moments: tuple[float, float, float, float, float]

    def __add__(self, other: FillScore) -> FillScore:
        return FillScore(
            self.n + other.n,
            self.residual + other.residual,
            self.spread + other.spread,
            self.absolute + other.absolute,
            tuple(a + b for a, b in zip(self.moments, other.moments, strict=True)),  # type: ignore[arg-type]
        )

    @property
    def r2(self) -> float:
        """Share of the hidden values' variance within genes that is explained; NaN without variance."""
        return 1.0 - self.residual / self.spread if self.spread > 0 else float("nan")

    @property
    def correlation(self) -> float:
        """Pearson correlation over all hidden values, the published figure."""
        y, z, yy, zz, yz = self.moments
        scale = (self.n * yy - y * y) * (self.n * zz - z * z)
        return float((self.n * yz - y * z) / np.sqrt(scale)) if scale > 0 else float("nan")

    @property
    def mean_error(self) -> float:
        """Mean absolute error."""
        return self.absolute / self.n if self.n else float("nan")


NOTHING_HIDDEN = FillScore(0, 0.0, 0.0, 0.0, (0.0,) * 5)


def hidden_score(
    values: np.ndarray,
    coords: np.ndarray,
    rng: np.random.Generator,
    *,
    share: float = 0.05,
    n_neighbors: int = 6,
) -> FillScore:
    """Hide some measured values of a gene, fill them from the others, and compare.

    Parameters
    ----------
    values, coords, n_neighbors
        As in :func:`fill_missing`.
    rng
        Chooses what is hidden.
    share
        Of the measured values; at least one, and never so many that none is left.

    Examples
    --------
    >>> coords = np.arange(40.0)[:, None]
    >>> hidden_score(coords[:, 0] ** 2, coords, np.random.default_rng(0), share=0.1, n_neighbors=2).r2 > 0.99
    True
    """
    measured = np.flatnonzero(~np.isnan(values))
    n_hidden = min(max(round(share * len(measured)), 1), len(measured) - 1)
    if share <= 0 or n_hidden < 1:
        return NOTHING_HIDDEN
    hidden = np.sort(rng.choice(measured, n_hidden, replace=False))
    kept = np.setdiff1d(measured, hidden, assume_unique=True)
    y = values[hidden].astype(np.float64)
    z = inverse_distance_mean(coords[kept], values[kept], coords[hidden], n_neighbors)
    moments = (y.sum(), z.sum(), y @ y, z @ z, y @ z)
    return FillScore(
        n_hidden,
        float(((y - z) ** 2).sum()),
        float(((y - y.mean()) ** 2).sum()),
        float(np.abs(y - z).sum()),
        tuple(float(moment) for moment in moments),  # type: ignore[arg-type]
    )
