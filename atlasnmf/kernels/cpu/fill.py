"""Values where none were measured: the mean of the nearest that were, the nearer the heavier."""

from __future__ import annotations

import numpy as np

from atlasnmf.kernels._cells import as_points
from atlasnmf.kernels.cpu._kdtree import build_tree, nearest

__all__ = ["inverse_distance_mean"]


def inverse_distance_mean(
    coords: np.ndarray, values: np.ndarray, targets: np.ndarray, n_neighbors: int
) -> np.ndarray:
    """Predict values at some points from the nearest measured ones, weighted by one over their distance.

    Parameters
    ----------
    coords
        Points with a value, finite, shape (n, d) with d of 1, 2 or 3 and n at least 1.
    values
        Their values, shape (n,).
    targets
        Points asked for, shape (m, d).
    n_neighbors
        Points averaged; all when there are fewer.

    Returns
    -------
    numpy.ndarray
        float64, shape (m,). Among equally distant points those with the smaller number are taken, so the
        answer is unique; at the place of a measured point it is the mean of what was measured there.

    Notes
    -----
    O((n + m) log n) and ``12 * m * n_neighbors`` bytes.

    Examples
    --------
    >>> inverse_distance_mean(np.array([[0.0], [3.0]]), np.array([1.0, 4.0]), np.array([[1.0]]), 2).tolist()
    [2.0]
    """
    points, asked = as_points(coords), as_points(targets)
    if not len(asked):
        return np.empty(0)
    # The tree leaves out a point's own number: numbers of targets follow those of the points.
    rows = np.arange(len(points), len(points) + len(asked), dtype=np.int64)
    together = np.concatenate([points, asked])
    found, squared = nearest(together, min(n_neighbors, len(points)), rows, build_tree(points))
    here = squared == 0
    weights = np.where(here.any(axis=1, keepdims=True), here, 1.0 / np.sqrt(np.where(here, 1.0, squared)))
    return (weights * np.asarray(values, np.float64)[found]).sum(axis=1) / weights.sum(axis=1)
