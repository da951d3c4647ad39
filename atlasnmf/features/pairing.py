"""Which coarse spots a fine cell lies in, and whether two frames of coordinates are the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.spatial import cKDTree

from atlasnmf.errors import BadInput, BadOption

__all__ = ["Alignment", "Links", "align_rigid", "link_spots", "parse_affine", "spacing", "transformed"]

#: An estimated alignment is trusted from this score on.
TRUSTED = 0.3
#: Turns tried, and spots the search looks at.
_TURNS, _SEARCH_SPOTS = 24, 2000


@dataclass(frozen=True)
class Links:
    """Coarse spots of each fine cell.

    Parameters
    ----------
    spots
        Coarse spots, nearest first, int32, shape (n_fine, k); -1 where there is none within reach.
    weights
        Share of the cell that each sees, rows sum to 1 (or 0 for a cell with no spot), float32, shape
        (n_fine, k).
    distances
        To the nearest coarse spot, float64, shape (n_fine,).
    """

    spots: np.ndarray
    weights: np.ndarray
    distances: np.ndarray

    @property
    def share_linked(self) -> float:
        """Share of the cells with a coarse spot."""
        return float((self.spots[:, 0] >= 0).mean())

    def n_empty(self, n_coarse: int) -> int:
        """Return how many coarse spots no cell is linked to."""
        used = np.unique(self.spots[self.spots >= 0])
        return int(n_coarse - len(used))


def link_spots(
    fine: np.ndarray, coarse: np.ndarray, max_distance: float, *, n_spots: int = 1, unit: str = ""
) -> Links:
    """Link every fine cell to its nearest coarse spots.

    Parameters
    ----------
    fine, coarse
        Positions in one frame, shapes (n_fine, d) and (n_coarse, d).
    max_distance
        Spots farther than this are not linked, in the unit of the positions.
    n_spots
        1 links the nearest spot alone (published). More share a cell among as many of the nearest, by the
        Gaussian of their distance whose standard deviation is half of ``max_distance``.
    unit
        Name of the unit, for messages.

    Raises
    ------
    BadOption
        ``max_distance`` is not positive.
    BadInput
        No cell lies within reach of a spot: the frames are not the same, or the distance is too small.

    Notes
    -----
    O(n_fine log n_coarse).

    Examples
    --------
    >>> links = link_spots(np.array([[0.0, 0], [9, 0], [50, 0]]), np.array([[1.0, 0], [10, 0]]), 5.0)
    >>> links.spots.ravel().tolist()
    [0, 1, -1]
    """
    if not max_distance > 0:
        raise BadOption(f"--max-distance: must be positive (got {max_distance})")
    k = min(n_spots, len(coarse))
    distances, spots = cKDTree(coarse).query(fine, k=k)
    distances, spots = distances.reshape(len(fine), k), spots.reshape(len(fine), k)
    near = distances <= max_distance
    if not near[:, 0].any():
        where = (fine.min(axis=0), fine.max(axis=0), coarse.min(axis=0), coarse.max(axis=0))
        low, high, first, last = (np.round(corner, 1).tolist() for corner in where)
        raise BadInput(
            f"no cell lies within {max_distance:g}{unit and ' ' + unit} of a coarse spot (0% linked): cells "
            f"span {low} to {high}, spots {first} to {last}; give an --affine, or a larger --max-distance"
        )
    weights = np.where(near, np.exp(-2.0 * (distances / max_distance) ** 2), 0.0)
    if k == 1:
        weights = near.astype(np.float64)
    sums = weights.sum(axis=1, keepdims=True)
    weights /= np.where(sums > 0, sums, 1.0)
    return Links(
        np.where(near, spots, -1).astype(np.int32), weights.astype(np.float32), distances[:, 0].copy()
    )


def parse_affine(text: str, n_dims: int = 2) -> np.ndarray:
    """Read an affine from text: the rows of ``[A | b]``, numbers split by commas, rows by semicolons.

    Returns
    -------
    affine
        float64, shape (d, d + 1).

    Raises
    ------
    BadOption
        The numbers are not a matrix of that shape.

    Examples
    --------
    >>> parse_affine("1,0,5; 0,1,-2").tolist()
    [[1.0, 0.0, 5.0], [0.0, 1.0, -2.0]]
    """
    try:
        affine = np.array([[float(x) for x in row.split(",")] for row in text.split(";")])
    except ValueError:
        affine = np.empty(0)
    if affine.shape != (n_dims, n_dims + 1) or not np.isfinite(affine).all():
        raise BadOption(
            f"--affine: {n_dims} rows of {n_dims + 1} numbers are needed, such as 1,0,5;0,1,-2 (got {text!r})"
        )
    return affine


def transformed(points: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Apply an affine ``[A | b]`` to points, shape (n, d).

    Examples
    --------
    >>> transformed(np.array([[1.0, 2.0]]), np.array([[0.0, -1, 10], [1, 0, 0]])).tolist()
    [[8.0, 1.0]]
    """
    return points @ affine[:, :-1].T + affine[:, -1]


def spacing(coarse: np.ndarray) -> float:
    """Return the median distance of a place with a spot to the nearest other one, in the positions' unit.

    Raises
    ------
    BadInput
        All spots lie at one place.
    """
    places = np.unique(coarse, axis=0)
    if len(places) < 2:
        raise BadInput(
            f"a slice of {len(coarse)} spots at one place has no spacing; give --max-distance, or check the "
            "positions"
        )
    return float(np.median(cKDTree(places).query(places, k=2)[0][:, 1]))


@dataclass(frozen=True)
class Alignment:
    """A rigid move of the fine frame onto the coarse one.

    Parameters
    ----------
    affine
        ``[A | b]`` to apply to the fine positions, float64, shape (2, 3).
    score
        Between -1 and 1: the mean correlation, over genes, of the counts of spots with those of the cells on
        them, less what the best alignment of shuffled spots reaches. See :attr:`trusted`.
    share_linked
        Share of the cells that have a spot after the move.
    """

    affine: np.ndarray
    score: float
    share_linked: float

    @property
    def trusted(self) -> bool:
        """Whether the two agree well enough after the move to be taken for one tissue in one frame."""
        return self.score >= TRUSTED


def align_rigid(
    fine: np.ndarray,
    coarse: np.ndarray,
    fine_counts: np.ndarray,
    coarse_counts: np.ndarray,
    *,
    max_distance: float,
    rng: np.random.Generator,
    reflect: bool = True,
) -> Alignment:
    """Estimate the rotation and shift that bring two sections of a tissue together.

    Parameters
    ----------
    fine, coarse
        Positions in the plane, in one unit of length, shapes (n_fine, 2) and (n_coarse, 2).
    fine_counts, coarse_counts
        Counts of the same few informative genes, shapes (n_fine, G) and (n_coarse, G).
    max_distance
        As in :func:`link_spots`.
    rng
        Draws the cells the search looks at, and the shuffled spots of the score.
    reflect
        Whether a section may lie on its other side.

    Notes
    -----
    24 turns (and their mirror images) about the centroids are scored by the mean correlation of genes
    between a spot and the mean of the cells nearest to it; the best three are refined in angle and shift by
    the simplex method. The score subtracts what the same search finds with the spots' counts shuffled: a
    value near 0 says that the frames could not be brought together.
    """
    chosen = np.sort(rng.permutation(len(fine))[: 10 * _SEARCH_SPOTS])
    cells = _Cells(fine[chosen], _logged(fine_counts[chosen]), max_distance)
    shuffled = rng.permutation(len(coarse))
    logged = _logged(coarse_counts)
    best, move = _search(cells, coarse, logged, reflect)
    chance, _ = _search(cells, coarse, logged[shuffled], reflect)
    # the search moves spots onto cells; the answer moves cells onto spots
    turn, shift = move[:, :2], move[:, 2]
    affine = np.column_stack([turn.T, -turn.T @ shift])
    distances, _ = cKDTree(coarse).query(transformed(fine, affine))
    return Alignment(affine, float(best - chance), float((distances <= max_distance).mean()))


def _logged(counts: np.ndarray) -> np.ndarray:
    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1.0)
    return np.log1p(1e3 * counts / totals)


class _Cells:
    """Cells that spots are laid over."""

    def __init__(self, positions: np.ndarray, values: np.ndarray, reach: float) -> None:
        self.tree, self.values, self.reach = cKDTree(positions), values, reach
        self.centre = positions.mean(axis=0)

    def under(self, spots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean of the nearest cells of every spot that has some, and which those spots are."""
        distances, nearest = self.tree.query(spots, k=8, distance_upper_bound=self.reach)
        near = np.isfinite(distances)
        inside = near[:, 0]
        weights = near[inside][:, :, None]
        cells = np.where(near, nearest, 0)[inside]
        return (self.values[cells] * weights).sum(axis=1) / weights.sum(axis=1), inside


def _agreement(cells: _Cells, spots: np.ndarray, values: np.ndarray) -> float:
    """Return the mean correlation of genes, less where few spots lie on cells."""
    from atlasnmf.metrics.imputation import pearson

    under, inside = cells.under(spots)
    if inside.sum() < 10:
        return -1.0
    covered = inside.mean()
    return float(pearson(values[inside], under).mean() * np.sqrt(covered))


def _search(cells: _Cells, spots: np.ndarray, values: np.ndarray, reflect: bool) -> tuple[float, np.ndarray]:
    centre = spots.mean(axis=0)
    extent = float(np.ptp(spots, axis=0).max())

    def move(angle: float, x: float, y: float, mirror: float) -> np.ndarray:
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        turn = turn @ np.diag([mirror, 1.0])
        return np.column_stack([turn, cells.centre + [x, y] - turn @ centre])

    def loss(point: np.ndarray, mirror: float) -> float:
        angle, x, y = point[0], point[1] * extent, point[2] * extent
        return -_agreement(cells, transformed(spots, move(angle, x, y, mirror)), values)

    starts = [
        (loss(np.array([angle, 0.0, 0.0]), mirror), angle, mirror)
        for mirror in ((1.0, -1.0) if reflect else (1.0,))
        for angle in np.arange(_TURNS) * 2 * np.pi / _TURNS
    ]
    found: list[tuple[float, np.ndarray]] = []
    for _, angle, mirror in sorted(starts)[:3]:
        simplex = np.array([angle, 0.0, 0.0]) + np.vstack([np.zeros(3), np.diag([0.15, 0.08, 0.08])])
        end = minimize(
            loss,
            simplex[0],
            args=(mirror,),
            method="Nelder-Mead",
            options={"initial_simplex": simplex, "xatol": 1e-4, "fatol": 1e-5, "maxiter": 200},
        )
        angle, x, y = end.x[0], end.x[1] * extent, end.x[2] * extent
        found.append((-end.fun, move(angle, x, y, mirror)))
    return max(found, key=lambda one: one[0])
