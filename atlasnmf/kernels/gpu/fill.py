"""CuPy twin of :mod:`atlasnmf.kernels.cpu.fill`: same names, arrays on the device."""

from __future__ import annotations

from typing import Any

import numpy as np

from atlasnmf.kernels._cells import as_points
from atlasnmf.kernels.gpu.neighbours import nearest

__all__ = ["inverse_distance_mean"]


def inverse_distance_mean(coords: Any, values: Any, targets: Any, n_neighbors: int) -> Any:
    """Predict values at some points from the nearest measured ones; see the CPU twin."""
    import cupy as cp

    points, asked = as_points(coords, cp), as_points(targets, cp)
    if not len(asked):
        return cp.empty(0)
    # numbers of targets follow those of the points, which alone may be found
    rows = cp.arange(len(points), len(points) + len(asked), dtype=np.int64)
    together = cp.concatenate([points, asked])
    found, squared = nearest(together, min(n_neighbors, len(points)), rows, n_points=len(points))
    here = squared == 0
    weights = cp.where(here.any(axis=1, keepdims=True), here, 1.0 / cp.sqrt(cp.where(here, 1.0, squared)))
    known = cp.asarray(values).astype(np.float64)
    return (weights * known[found]).sum(axis=1) / weights.sum(axis=1)
