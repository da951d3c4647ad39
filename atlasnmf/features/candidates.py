"""Which spots of another slice a spot may correspond to: those near it, or those of clusters alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.kernels.cpu.pairs import pair_dots
from atlasnmf.kernels.cpu.tops import row_tops
from atlasnmf.kernels.dispatch import carrier, kernel, namespace

__all__ = ["Candidates", "candidates_alike", "candidates_within", "unit_rows"]

#: Rows worked on at a time.
BLOCK_ROWS = 65_536
#: Candidates at most: 16 bytes each through the transport.
_MOST = 2**30
#: Without a radius: spots a cluster on average, clusters at most, spots k-means looks at, and clusters
#: matched to a cluster from either side.
_CLUSTER_SPOTS, _MOST_CLUSTERS, _CLUSTERED, _PARTNERS = 250, 400, 20_000, 4


@dataclass(frozen=True)
class Candidates:
    """Pairs of spots that may correspond, CSR from the rows of one slice to those of another.

    The arrays are of the side that listed them: numpy's, or CuPy's.

    Parameters
    ----------
    indptr
        int64, shape (n_source + 1,).
    indices
        Rows of the target, ascending within a row, int32, shape (m,).
    cosines
        Of the embeddings of each pair, float32, shape (m,).
    n_target
        Spots of the target.
    """

    indptr: Any
    indices: Any
    cosines: Any
    n_target: int

    @property
    def n_source(self) -> int:
        """Spots of the source."""
        return len(self.indptr) - 1

    def n_without(self) -> tuple[int, int]:
        """Return how many spots of the source, and of the target, have no candidate."""
        seen = namespace(self.indices).zeros(self.n_target, dtype=bool)
        seen[self.indices] = True
        return int((self.indptr[1:] == self.indptr[:-1]).sum()), self.n_target - int(seen.sum())


def unit_rows(embedding: np.ndarray) -> np.ndarray:
    """Return rows scaled to length 1, float32; rows of zeros stay.

    Raises
    ------
    BadInput
        A value is not finite.

    Examples
    --------
    >>> unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    units = np.array(embedding, dtype=np.float32, order="C")
    for start in range(0, len(units), BLOCK_ROWS):
        block = units[start : start + BLOCK_ROWS]
        if not np.isfinite(block).all():
            raise BadInput(
                "an embedding has values that are not finite; spots without counts must be left out"
            )
        lengths = np.linalg.norm(block, axis=1, keepdims=True)
        block /= np.where(lengths > 0, lengths, 1)
    return units


def candidates_within(
    source: np.ndarray,
    target: np.ndarray,
    source_units: np.ndarray,
    target_units: np.ndarray,
    radius: float,
    *,
    block_rows: int = BLOCK_ROWS,
    device: str = "cpu",
) -> Candidates:
    """List the pairs of spots of two slices closer than a radius, with their cosines.

    Parameters
    ----------
    source, target
        Positions in one frame, shapes (n, d) and (p, d) with d of 2 or 3.
    source_units, target_units
        Embeddings with rows of length 1 (see :func:`unit_rows`), shapes (n, k) and (p, k).
    radius
        Distances strictly below it count.
    block_rows
        Rows of the source worked on at a time; the result does not depend on it.
    device
        Where they are listed, and stay.

    Raises
    ------
    BadOption
        The radius is not positive, or so large that the pairs are too many.
    BadInput
        No pair lies within the radius.

    Notes
    -----
    8 bytes a pair, and 16 d bytes a spot while at work.
    """
    if not radius > 0:
        raise BadOption(f"radius: must be positive (got {radius})")
    n = len(source)
    there, xp, rows_of = carrier(device), namespace(device), kernel("rows", device).row_of_values
    neighbours, dots = kernel("neighbours", device), kernel("pairs", device).pair_dots
    both = there(np.concatenate([np.asarray(source, np.float64), np.asarray(target, np.float64)]))
    left, right = there(source_units), there(target_units)
    index = neighbours.radius_index(both, radius)
    counts, indices, cosines, total = [], [], [], 0
    for start in range(0, n, block_rows):
        stop = min(start + block_rows, n)
        ends, near = neighbours.radius_neighbours(both, radius, (start, stop), index=index)
        other = near >= n
        rows = rows_of(ends)[other]
        indices.append(near[other] - np.int32(n))
        cosines.append(dots(rows + np.int32(start), indices[-1], left, right))
        before = xp.zeros(len(other) + 1, dtype=np.int64)
        before[1:] = xp.cumsum(other)
        counts.append(before[ends[1:]] - before[ends[:-1]])
        total += len(rows)
        if total > _MOST:
            raise BadOption(
                f"radius: {radius:g} gives {total / stop:.0f} candidates a spot; take a smaller one"
            )
    if total == 0:
        raise BadInput(
            f"no spot of the one slice lies within {radius:g} of a spot of the other (their extents: "
            f"{_extent(source)} and {_extent(target)}); register them first, or take a larger radius"
        )
    indptr = xp.zeros(n + 1, dtype=np.int64)
    indptr[1:] = xp.cumsum(xp.concatenate(counts))
    return Candidates(indptr, xp.concatenate(indices), xp.concatenate(cosines), len(target))


def _extent(points: np.ndarray) -> str:
    low, high = np.round(points.min(axis=0), 2).tolist(), np.round(points.max(axis=0), 2).tolist()
    return f"{low} to {high}"


def candidates_alike(
    source_units: np.ndarray,
    target_units: np.ndarray,
    *,
    n_candidates: int = 30,
    temperature: float = 0.1,
    rng: np.random.Generator,
) -> Candidates:
    """List pairs of spots of two slices where nothing is known of their places: transport of clusters first.

    Parameters
    ----------
    source_units, target_units
        Embeddings with rows of length 1, shapes (n, k) and (p, k).
    n_candidates
        Spots listed for each spot, from either side.
    temperature
        As in :func:`atlasnmf.features.matching.match`.
    rng
        Draws the spots that the clusters are learned from.

    Raises
    ------
    BadOption
        POT is not installed.

    Notes
    -----
    Either slice is cut into up to 400 clusters (k-means), whose masses are transported onto each other with
    dustbins (POT); a cluster goes on with the four that it moves most to, and those that move most to it.
    Within these the cosines are taken densely and the largest kept. O(n^2 / 50) products above 10^5 spots.
    """
    first, second = _clusters(source_units, rng), _clusters(target_units, rng)
    moved = _moved(first, second, source_units, target_units, temperature)
    linked = np.zeros(moved.shape, dtype=bool)
    k = min(_PARTNERS, moved.shape[1]), min(_PARTNERS, moved.shape[0])
    np.put_along_axis(linked, np.argsort(-moved, axis=1, kind="stable")[:, : k[0]], True, axis=1)
    np.put_along_axis(linked, np.argsort(-moved, axis=0, kind="stable")[: k[1]], True, axis=0)
    ahead = _nearest_linked(first, second, source_units, target_units, linked, n_candidates)
    back = _nearest_linked(second, first, target_units, source_units, linked.T, n_candidates)
    n_target = len(target_units)
    keys = np.concatenate([ahead[0] * n_target + ahead[1], back[1] * n_target + back[0]])
    keys.sort()
    keys = keys[np.append(True, keys[1:] != keys[:-1])]
    rows, columns = keys // n_target, (keys % n_target).astype(np.int32)
    indptr = np.zeros(len(source_units) + 1, dtype=np.int64)
    np.cumsum(np.bincount(rows, minlength=len(source_units)), out=indptr[1:])
    return Candidates(indptr, columns, pair_dots(rows, columns, source_units, target_units), n_target)


def _clusters(units: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the cluster of each row, int64, numbered without gaps."""
    from sklearn.cluster import MiniBatchKMeans

    n_clusters = int(np.clip(len(units) // _CLUSTER_SPOTS, min(8, len(units)), _MOST_CLUSTERS))
    learned = np.sort(rng.permutation(len(units))[:_CLUSTERED])
    means = MiniBatchKMeans(
        n_clusters, n_init=1, batch_size=4096, max_iter=30, random_state=int(rng.integers(2**31))
    )
    means.fit(units[learned])
    return np.unique(means.predict(units), return_inverse=True)[1]


def _moved(
    first: np.ndarray, second: np.ndarray, left: np.ndarray, right: np.ndarray, temperature: float
) -> np.ndarray:
    """Transport the clusters of one slice onto those of the other."""
    try:
        import ot
    except ImportError as error:
        raise BadOption("matching without a radius needs POT: pip install atlasnmf[transport]") from error
    scores = (_means(first, left) @ _means(second, right).T + 1) / (2 * temperature)
    augmented = np.full(np.array(scores.shape) + 1, np.median(scores))
    augmented[:-1, :-1] = scores
    rows, columns = np.bincount(first).astype(float), np.bincount(second).astype(float)
    rows, columns = np.append(rows, columns.sum()), np.append(columns, rows.sum())
    plan = ot.bregman.sinkhorn_log(
        rows / rows.sum(),
        columns / columns.sum(),
        -augmented,
        reg=1.0,
        numItermax=200,
        stopThr=1e-7,
        warn=False,
    )
    return np.asarray(plan[:-1, :-1])


def _means(labels: np.ndarray, units: np.ndarray) -> np.ndarray:
    sums = np.column_stack([np.bincount(labels, column) for column in units.T])
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    return sums / np.where(lengths > 0, lengths, 1)


def _nearest_linked(
    first: np.ndarray, second: np.ndarray, left: np.ndarray, right: np.ndarray, linked: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return for every row the k of largest cosine within the clusters linked to its own, as int64 pairs."""
    rows, columns = [], []
    order = np.argsort(second, kind="stable")
    ends = np.append(0, np.cumsum(np.bincount(second)))
    own = np.split(np.argsort(first, kind="stable"), np.cumsum(np.bincount(first))[:-1])
    for cluster, members in enumerate(own):
        partners = np.flatnonzero(linked[cluster])
        if len(partners) == 0:
            continue
        near = np.concatenate([order[ends[c] : ends[c + 1]] for c in partners])
        step = max(1, 2**23 // len(near))
        for start in range(0, len(members), step):
            block = members[start : start + step]
            cosines = left[block] @ right[near].T
            best = row_tops(cosines, min(k, len(near)))
            rows.append(np.repeat(block, best.shape[1]))
            columns.append(near[best].ravel())
    return np.concatenate(rows), np.concatenate(columns)
