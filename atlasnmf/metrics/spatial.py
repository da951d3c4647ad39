"""How smoothly values lie over a graph of spots."""

from __future__ import annotations

import numpy as np

from atlasnmf.errors import BadInput
from atlasnmf.schema import Csr

__all__ = ["morans_i"]


def morans_i(values: np.ndarray, weights: Csr) -> np.ndarray:
    """Measure the spatial autocorrelation of values over a graph: Moran's I.

    ``I = (n / W) * sum_ij w_ij z_i z_j / sum_i z_i^2`` with z the centred values, W the sum of the weights,
    self-loops left out; near 1 for smooth patterns, ``-1 / (n - 1)`` expected without any.

    Parameters
    ----------
    values
        Shape (n,) or (n, K). Spots with a value that is not finite are left out with their edges.
    weights
        Edge weights, n rows and n columns, directed or not; several slices as one block-diagonal graph.

    Returns
    -------
    numpy.ndarray
        float64 of shape () or (K,); NaN for constant values or a graph without edges.

    Raises
    ------
    BadInput
        The graph and the values have different numbers of spots.

    References
    ----------
    Moran, "Notes on continuous stochastic phenomena", Biometrika 37 (1950).

    Notes
    -----
    O((E + n) K), one column at a time: 8 n bytes of scratch a few times over, whatever K.

    Examples
    --------
    >>> chain = Csr(np.array([0, 1, 3, 5, 6]), np.array([1, 0, 2, 1, 3, 2]), np.ones(6), 4)
    >>> round(float(morans_i(np.array([0.0, 0.0, 1.0, 1.0]), chain)), 6)
    0.333333
    """
    values = np.asarray(values)
    if not len(values) == weights.n_rows == weights.n_cols:
        raise BadInput(f"{len(values)} values on a graph of {weights.n_rows} x {weights.n_cols} spots")
    columns = values if values.ndim == 2 else values[:, None]
    graph = weights.to_scipy()
    loops = graph.diagonal().astype(np.float64)
    out = np.array([_one(columns[:, k], graph, loops) for k in range(columns.shape[1])])
    return out if values.ndim == 2 else out.reshape(())


def _one(column: np.ndarray, graph: object, loops: np.ndarray) -> float:
    column = column.astype(np.float64)
    kept = np.isfinite(column)
    if not kept.any():
        return float("nan")
    here = kept.astype(np.float64)
    centred = np.where(kept, column - column[kept].mean(), 0.0)
    total = float(here @ (graph @ here) - here @ (loops * here))  # type: ignore[operator]
    spread = float(centred @ centred)
    if total == 0 or spread <= 1e-24 * float((column[kept] ** 2).sum()) or spread == 0:
        return float("nan")
    shared = float(centred @ (graph @ centred) - centred @ (loops * centred))  # type: ignore[operator]
    return kept.sum() / total * shared / spread
