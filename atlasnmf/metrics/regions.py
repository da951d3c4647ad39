"""Regions as sums: which touch, and how a pattern agrees with any union of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from atlasnmf.errors import BadInput
from atlasnmf.schema import Csr

__all__ = ["RegionSums", "adjacency_on_graph", "adjacency_on_grid", "region_sums"]


def adjacency_on_grid(labels: np.ndarray) -> np.ndarray:
    """Tell which labels of a voxel grid share a face: one of them, dilated by a voxel, meets the other.

    Parameters
    ----------
    labels
        Integer labels 0 .. L - 1, -1 outside, of two or three axes.

    Returns
    -------
    numpy.ndarray
        bool, symmetric, False on the diagonal, shape (L, L).

    Examples
    --------
    >>> adjacency_on_grid(np.array([[0, 0, 1], [0, -1, 2]])).astype(int).tolist()
    [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
    """
    labels = np.asarray(labels)
    n_labels = int(labels.max(initial=-1)) + 1
    touching = np.zeros((n_labels, n_labels), bool)
    for axis in range(labels.ndim):
        near = np.take(labels, range(labels.shape[axis] - 1), axis).ravel()
        far = np.take(labels, range(1, labels.shape[axis]), axis).ravel()
        both = (near >= 0) & (far >= 0) & (near != far)
        touching[near[both], far[both]] = True
    return touching | touching.T


def adjacency_on_graph(labels: np.ndarray, graph: Csr, n_labels: int) -> np.ndarray:
    """Tell which labels are joined by an edge of a graph of spots.

    Parameters
    ----------
    labels
        Label of each spot, -1 for none, shape (n,).
    graph
        Edges, n rows and n columns, directed or not.
    n_labels
        Number of labels L.

    Returns
    -------
    numpy.ndarray
        bool, symmetric, False on the diagonal, shape (L, L).

    Examples
    --------
    >>> chain = Csr(np.array([0, 1, 2, 2]), np.array([1, 2]), np.ones(2), 3)
    >>> adjacency_on_graph(np.array([0, 0, 1]), chain, 2).astype(int).tolist()
    [[0, 1], [1, 0]]
    """
    labels = np.asarray(labels)
    if not len(labels) == graph.n_rows == graph.n_cols:
        raise BadInput(f"{len(labels)} labels on a graph of {graph.n_rows} x {graph.n_cols} spots")
    near, far = np.repeat(labels, np.diff(graph.indptr)), labels[graph.indices]
    both = (near >= 0) & (far >= 0) & (near != far)
    touching = np.zeros((n_labels, n_labels), bool)
    touching[near[both], far[both]] = True
    return touching | touching.T


@dataclass(frozen=True)
class RegionSums:
    """What agreement with any union of disjoint regions follows from, whatever the number of spots.

    Parameters
    ----------
    n_spots
        Spots n with a finite pattern.
    sizes
        Spots of each region, float64, shape (R,).
    deviations
        Sum of the centred patterns over each region, float64, shape (R, K).
    spreads
        Sum of squares of the centred patterns, float64, shape (K,).
    high
        Spots of each region at which a pattern is high (see ``thresholds``), float64, shape (R, K).
    n_high
        Spots at which each pattern is high, float64, shape (K,).
    thresholds
        Above which a pattern is high: Otsu's, float64, shape (K,).
    """

    n_spots: int
    sizes: np.ndarray
    deviations: np.ndarray
    spreads: np.ndarray
    high: np.ndarray
    n_high: np.ndarray
    thresholds: np.ndarray

    def pearson(self, unions: np.ndarray) -> np.ndarray:
        """Correlate every pattern with the indicator of each union.

        Parameters
        ----------
        unions
            Regions of each union, pairwise disjoint, integer, shape (m, s); -1 stands for no region.

        Returns
        -------
        numpy.ndarray
            float64, shape (m, K); NaN for constant patterns, and unions of no spot or of all.
        """
        size = self._gather(self.sizes[:, None], unions)
        spread = size * (1.0 - size / self.n_spots)
        scale = np.sqrt(spread * self.spreads)
        shared = self._gather(self.deviations, unions)
        return np.divide(shared, scale, out=np.full_like(shared, np.nan), where=scale > 1e-12)

    def dice(self, unions: np.ndarray) -> np.ndarray:
        """Return twice the spots high and inside over the spots high plus the spots inside, shape (m, K)."""
        total = self._gather(self.sizes[:, None], unions) + self.n_high
        shared = 2.0 * self._gather(self.high, unions)
        return np.divide(shared, total, out=np.full_like(shared, np.nan), where=total > 0)

    def only(self, regions: np.ndarray) -> RegionSums:
        """Return the sums of some regions alone."""
        return replace(
            self, sizes=self.sizes[regions], deviations=self.deviations[regions], high=self.high[regions]
        )

    @staticmethod
    def _gather(parts: np.ndarray, unions: np.ndarray) -> np.ndarray:
        # a row of zeros at the end is what -1 adds
        padded = np.vstack([parts, np.zeros((1, parts.shape[1]))])
        total = padded[unions[:, 0]]
        for column in range(1, unions.shape[1]):
            total += padded[unions[:, column]]
        return total


def region_sums(patterns: np.ndarray, labels: np.ndarray, contains: np.ndarray) -> RegionSums:
    """Sum patterns over labelled regions and over the larger regions these are part of, in one pass.

    Parameters
    ----------
    patterns
        Shape (n, K); spots with a value that is not finite are left out.
    labels
        Label of each spot, -1 for none, integer, shape (n,).
    contains
        Which region holds which label, bool, shape (R, L).

    Raises
    ------
    BadInput
        Numbers of spots differ, or no spot has finite patterns.

    Notes
    -----
    O(n K + R L K); Otsu's threshold from a histogram of 256 bins.

    References
    ----------
    Cahill et al., PNAS (2024), "Spatial correlation analysis and entity linking"; Otsu, "A threshold
    selection method from gray-level histograms", IEEE Trans. SMC 9 (1979).

    Examples
    --------
    >>> pattern = np.array([[2.0], [2.0], [0.0], [0.0]])
    >>> sums = region_sums(pattern, np.array([0, 1, 2, 2]), np.eye(3, dtype=bool))
    >>> sums.pearson(np.array([[0, 1], [2, -1]])).round(6).tolist(), sums.dice(np.array([[0, 1]])).tolist()
    ([[1.0], [-1.0]], [[1.0]])
    """
    patterns, labels = np.asarray(patterns), np.asarray(labels)
    if len(patterns) != len(labels):
        raise BadInput(
            f"{len(patterns)} spots have patterns and {len(labels)} have labels; pass the same spots"
        )
    finite = np.isfinite(patterns).all(axis=1)
    if not finite.any():
        raise BadInput("no spot has finite patterns; fit a model before linking")
    values = patterns[finite].astype(np.float64)
    places = labels[finite] + 1
    n_labels = contains.shape[1]
    centred = values - values.mean(axis=0)
    spreads = (centred**2).sum(axis=0)
    spreads[spreads <= 1e-24 * (values**2).sum(axis=0)] = 0.0
    thresholds = np.array([_otsu(column) for column in values.T])
    high = values > thresholds
    holds = contains.astype(np.float64)

    def by_region(weights: np.ndarray | None) -> np.ndarray:
        return holds @ np.bincount(places, weights=weights, minlength=n_labels + 1)[1:]

    return RegionSums(
        int(finite.sum()),
        by_region(None),
        np.stack([by_region(column) for column in centred.T], axis=1),
        spreads,
        np.stack([by_region(column.astype(np.float64)) for column in high.T], axis=1),
        high.sum(axis=0).astype(np.float64),
        thresholds,
    )


def _otsu(values: np.ndarray) -> float:
    from skimage.filters import threshold_otsu

    if values.min() == values.max():
        return float(values.max())
    return float(threshold_otsu(values))
