"""How far a neighbour may be: a radius chosen from the coordinates, and absurd ones refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.kernels.cpu.neighbours import count_neighbours, knn_distances

__all__ = [
    "FEWEST_NEIGHBOURS",
    "MOST_NEIGHBOURS",
    "Spacing",
    "check_degrees",
    "default_radius",
    "published_radius",
    "radius_for_degree",
    "spacing",
]

#: Spots looked at: every so many along the curve, so all regions of a slice count.
_SAMPLE = 2000
#: Mean neighbours, the spot itself not counted, outside which a graph is a mistake (a wrong unit, mostly).
FEWEST_NEIGHBOURS, MOST_NEIGHBOURS = 0.5, 200.0
#: Below this many spots a slice may be its own neighbourhood.
_SMALL_SLICE = 60
#: What the mend aims at.
_USUAL_DEGREE = 6.0


@dataclass(frozen=True)
class Spacing:
    """How the spots of a slice lie.

    Parameters
    ----------
    distance
        Median distance to the nearest spot elsewhere, in the unit of the coordinates.
    regular
        Whether the spots lie on a grid: nine tenths of them have their nearest neighbour at that distance
        within a fifth (the spread of points at random is threefold).
    """

    distance: float
    regular: bool


def spacing(coords: np.ndarray) -> Spacing:
    """Measure how the spots of a slice lie, on a sample of 2000.

    Parameters
    ----------
    coords
        Finite, shape (n, 2) or (n, 3).

    Raises
    ------
    BadInput
        All spots lie at one place.
    """
    distances = knn_distances(coords, 8, _sample(len(coords)))
    apart = np.where(distances > 0, distances, np.inf).min(axis=1, initial=np.inf)
    apart = apart[np.isfinite(apart)]
    if len(apart) == 0:
        return Spacing(_smallest_distance(coords), regular=False)
    low, middle, high = np.quantile(apart, [0.05, 0.5, 0.95])
    return Spacing(float(middle), bool(high <= 1.2 * middle and low >= middle / 1.2))


def radius_for_degree(coords: np.ndarray, degree: float = _USUAL_DEGREE) -> float:
    """Find the radius within which spots have a given number of neighbours on average.

    Parameters
    ----------
    coords
        Finite, shape (n, 2) or (n, 3).
    degree
        Mean number of neighbours, the spot itself not counted.

    Returns
    -------
    radius
        In the unit of the coordinates; from the pooled distances of a sample of 2000 spots.

    Raises
    ------
    BadInput
        All spots lie at one place.
    """
    rows = _sample(len(coords))
    distances = np.sort(knn_distances(coords, int(8 * np.ceil(degree)), rows), axis=None)
    positive = distances[distances > 0]
    if len(positive) == 0:
        return 1.1 * _smallest_distance(coords)
    wanted = min(round(degree * len(rows)), len(distances) - 1)
    # Just above the last distance that counts: "closer than" is strict, and grids have ties.
    return float(max(distances[wanted], positive[0]) * (1 + 1e-9))


def published_radius(coords: np.ndarray, rad_coef: float = 1.1) -> float:
    """Return the published rule's radius: ``rad_coef`` times the smallest non-zero distance of a slice.

    Parameters
    ----------
    coords
        The first slice, finite, shape (n, 2) or (n, 3).
    rad_coef
        Factor.

    Notes
    -----
    INSPIRE applies the first slice's radius to all slices. It makes sense for grids only: of points at
    random the smallest distance is an accident and the graph has next to no edges.
    """
    return rad_coef * _smallest_distance(coords)


def default_radius(coords_by_slice: Sequence[np.ndarray]) -> list[float]:
    """Choose a radius for each slice.

    Parameters
    ----------
    coords_by_slice
        Finite coordinates, each of shape (n, 2) or (n, 3).

    Returns
    -------
    radii
        For spots on a grid 1.1 times its spacing: the 4 nearest of a square grid, the 6 of a hexagonal
        or cubic one, as by the published rule but without its trust in one pair of spots. For irregular
        spots (cells) the radius within which they have 6 neighbours on average. Each slice gets its own,
        so slices in different units or at different densities have like graphs.

    Raises
    ------
    BadInput
        All spots of a slice lie at one place.
    """
    radii = []
    for index, coords in enumerate(coords_by_slice):
        if len(coords) < 2:
            radii.append(1.0)  # nobody to be near to: any radius gives the same graph
            continue
        try:
            found = spacing(coords)
            radii.append(1.1 * found.distance if found.regular else radius_for_degree(coords))
        except BadInput as problem:
            raise BadInput(f"slice {index + 1} of {len(coords_by_slice)}: {problem}") from None
    return radii


def check_degrees(coords: np.ndarray, radius: float, *, slice_name: str = "") -> float:
    """Refuse a radius that makes an absurd graph, before the graph is built.

    Parameters
    ----------
    coords
        Finite, shape (n, 2) or (n, 3).
    radius
        In the unit of the coordinates.
    slice_name
        For the message.

    Returns
    -------
    mean_degree
        Mean neighbours of a sample of 500 spots, the spots themselves not counted.

    Raises
    ------
    BadOption
        More than 200 neighbours a spot or, in a slice of 60 spots or more, half of them; or fewer than 0.5
        where there are two spots or more: almost always a radius in another unit. Says the mean degree and
        a radius that gives about 6.
    """
    rows = _sample(len(coords), 500)
    if len(coords) < 2:
        return 0.0
    mean_degree = float(count_neighbours(coords, radius, rows).mean() - 1)
    most = min(MOST_NEIGHBOURS, max(len(coords), _SMALL_SLICE) / 2)
    if not FEWEST_NEIGHBOURS <= mean_degree <= most:
        where = f" in slice {slice_name!r}" if slice_name else ""
        raise BadOption(
            f"a radius of {radius:g} gives a mean degree of {mean_degree:,.1f} neighbours a spot{where}; "
            f"try --radius {radius_for_degree(coords):.4g} for about 6, or --n-neighbors 6"
        )
    return mean_degree


def _sample(n: int, most: int = _SAMPLE) -> np.ndarray:
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64)) if n else np.zeros(0, np.int64)


def _smallest_distance(coords: np.ndarray) -> float:
    places = np.unique(np.asarray(coords, dtype=np.float64), axis=0)
    if len(places) < 2:
        raise BadInput("all spots lie at the same coordinates; check which coordinates the store gives")
    return float(knn_distances(places, 1, np.arange(len(places))).min())
