"""A field of Gaussians in the cells of shifted grids: what points score in it, and which way is up."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["field_scores"]


def field_scores(
    points: np.ndarray,
    lowest: np.ndarray,
    width: float,
    offsets: np.ndarray,
    means: np.ndarray,
    inverses: np.ndarray,
    weights: np.ndarray,
) -> tuple[float, np.ndarray]:
    """Sum the weighted Gaussians of the cells that points lie in.

    Parameters
    ----------
    points
        float64, shape (m, 2).
    lowest, width
        Corner of the grids, shape (2,), and side of a cell.
    offsets
        By how much of a cell each grid is shifted, shape (g, 2).
    means, inverses, weights
        Centre, inverse covariance and weight of each cell, float64, shapes (g, a, b, 2), (g, a, b, 3), as xx,
        xy, yy, and (g, a, b).

    Returns
    -------
    score
        The sum over points and grids of weight times exp(-d^2 / 2), d the Mahalanobis distance.
    slopes
        Its derivative by each point, shape (m, 2).
    """
    slopes = np.zeros_like(points)
    return _scores(points, lowest, float(width), offsets, means, inverses, weights, slopes), slopes


@njit(nogil=True, cache=True)
def _scores(points, lowest, width, offsets, means, inverses, weights, slopes):  # type: ignore[no-untyped-def]
    total = 0.0
    for g in range(len(offsets)):
        for i in range(len(points)):
            a = int(np.floor((points[i, 0] - lowest[0]) / width + offsets[g, 0]))
            b = int(np.floor((points[i, 1] - lowest[1]) / width + offsets[g, 1]))
            if a < 0 or b < 0 or a >= weights.shape[1] or b >= weights.shape[2]:
                continue
            if weights[g, a, b] == 0.0:
                continue
            x, y = points[i, 0] - means[g, a, b, 0], points[i, 1] - means[g, a, b, 1]
            xx, xy, yy = inverses[g, a, b, 0], inverses[g, a, b, 1], inverses[g, a, b, 2]
            along, across = xx * x + xy * y, xy * x + yy * y
            value = weights[g, a, b] * np.exp(-0.5 * (x * along + y * across))
            total += value
            slopes[i, 0] -= value * along
            slopes[i, 1] -= value * across
    return total
