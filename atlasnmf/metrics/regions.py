"""Regions as sums: which touch, and how a pattern agrees with any union of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from atlasnmf.errors import BadInput
from atlasnmf.schema import Csr

__all__ = ["RegionSums", "adjacency_on_graph", "adjacency_on_grid", "region_sums"]

_CHUNK_ROWS = 65_536
_BINS = 256


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
    """Sum patterns over labelled regions and over the larger regions these are part of, run by run.

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
    O(n K + R L K) in runs of 65,536 spots; Otsu's threshold from a histogram of 256 bins.

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
    n_spots, means, low, high = _extent(patterns)
    if not n_spots:
        raise BadInput("no spot has finite patterns; fit a model before linking")
    n_labels, n_patterns = contains.shape[1], patterns.shape[1]
    edges = [np.histogram_bin_edges([lo, hi], _BINS) for lo, hi in zip(low, high, strict=True)]
    counts, squares = np.zeros((n_patterns, _BINS), np.int64), np.zeros((2, n_patterns))
    sizes, deviations = np.zeros(n_labels), np.zeros((n_labels, n_patterns))
    for values, places in _finite_runs(patterns, labels):
        centred = values - means
        squares += (centred**2).sum(axis=0), (values**2).sum(axis=0)
        sizes += _by_label(places, None, n_labels)
        for k in range(n_patterns):
            counts[k] += np.histogram(values[:, k], edges[k])[0]
            deviations[:, k] += _by_label(places, centred[:, k], n_labels)
    thresholds = np.array([_otsu(count, edge) for count, edge in zip(counts, edges, strict=True)])
    above, n_high = np.zeros((n_labels, n_patterns)), np.zeros(n_patterns)
    for values, places in _finite_runs(patterns, labels):
        over = (values > thresholds).astype(np.float64)
        n_high += over.sum(axis=0)
        for k in range(n_patterns):
            above[:, k] += _by_label(places, over[:, k], n_labels)
    spreads = np.where(squares[0] <= 1e-24 * squares[1], 0.0, squares[0])
    holds = contains.astype(np.float64)
    return RegionSums(n_spots, holds @ sizes, holds @ deviations, spreads, holds @ above, n_high, thresholds)


def _finite_runs(patterns: np.ndarray, labels: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield runs of the spots with finite patterns, in float64, and their labels."""
    for start in range(0, len(patterns), _CHUNK_ROWS):
        rows = np.asarray(patterns[start : start + _CHUNK_ROWS], np.float64)
        finite = np.isfinite(rows).all(axis=1)
        if finite.any():
            yield rows[finite], labels[start : start + _CHUNK_ROWS][finite]


def _extent(patterns: np.ndarray) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """Return the number of spots with finite patterns, and means, smallest and largest values."""
    n_spots, total = 0, np.zeros(patterns.shape[1])
    low, high = np.full(patterns.shape[1], np.inf), np.full(patterns.shape[1], -np.inf)
    for rows, _ in _finite_runs(patterns, np.empty(len(patterns), np.int8)):
        n_spots += len(rows)
        total += rows.sum(axis=0)
        low, high = np.minimum(low, rows.min(axis=0)), np.maximum(high, rows.max(axis=0))
    return n_spots, total / max(n_spots, 1), low, high


def _by_label(labels: np.ndarray, weights: np.ndarray | None, n_labels: int) -> np.ndarray:
    return np.bincount(labels + 1, weights=weights, minlength=n_labels + 1)[1:]


def _otsu(counts: np.ndarray, edges: np.ndarray) -> float:
    from skimage.filters import threshold_otsu

    if np.count_nonzero(counts) < 2:  # as good as constant: nothing is high
        return float(edges[-1])
    return float(threshold_otsu(hist=(counts, (edges[:-1] + edges[1:]) / 2)))
