"""Two slices being registered: starts, refinements, and how well each move makes them agree."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from scipy.optimize import minimize
from scipy.spatial import cKDTree

from atlasnmf.features.edges import Edge, closest_edges, edge_agreement, find_edge
from atlasnmf.features.icp import closest_alike, closest_points, consensus_moves, mutual_alike
from atlasnmf.features.ndt import NormalField, climb
from atlasnmf.features.overlay import (
    far_apart,
    feature_agreement,
    overlap_agreement,
    overlay_starts,
    shared_excess,
)
from atlasnmf.features.rigid import Rigid, turned

__all__ = ["SEARCHED", "SlicePair", "turned_about"]

#: Points of either slice that the search looks at, and those that a refinement moves.
SEARCHED, _MOVED = 12_000, 3_000
#: What the overlap counts beside the edges, where there are no features.
_OVERLAP = 0.2


class SlicePair:
    """The search for the move of one slice onto another.

    Parameters
    ----------
    moving, fixed
        Positions, float64, shapes (n, 2) and (p, 2); 12 000 of either are searched.
    features
        Scores of the spots on the same components, shapes (n, k) and (p, k), or None.
    rng
        Draws what is searched.
    """

    def __init__(
        self,
        moving: np.ndarray,
        fixed: np.ndarray,
        features: tuple[np.ndarray, np.ndarray] | None,
        rng: np.random.Generator,
    ) -> None:
        self.rng, self.all_fixed = rng, fixed
        rows, columns = (np.sort(rng.permutation(len(x))[:SEARCHED]) for x in (moving, fixed))
        self.moving, self.fixed = moving[rows], fixed[columns]
        self.centred = None if features is None else _centred(features, rows, columns)
        self.tree = cKDTree(self.fixed)
        self.spacing, self.is_grid = _spacing(self.fixed)
        # what the refinement moves: a part of what is searched
        self.few = np.sort(rng.permutation(len(self.moving))[:_MOVED])

    @cached_property
    def full_tree(self) -> cKDTree:
        """Tree of all fixed points, for the last refinement."""
        return self.tree if len(self.all_fixed) == len(self.fixed) else cKDTree(self.all_fixed)

    @cached_property
    def full_spacing(self) -> float:
        """Spacing of all fixed points."""
        # fewer points lie farther apart
        return self.spacing * float(np.sqrt(len(self.fixed) / len(self.all_fixed)))

    @cached_property
    def fields(self) -> list[NormalField]:
        """Gaussian fields from coarse to fine cells, of all fixed points."""
        width, fields = 16 * self.spacing, []
        while width > 6 * self.full_spacing:
            fields.append(NormalField(self.all_fixed, width))
            width /= 2
        return fields

    @cached_property
    def edges(self) -> tuple[Edge, Edge]:
        """Edges of the moving and of the fixed slice."""
        return find_edge(self.moving, _spacing(self.moving)[0]), find_edge(self.fixed, self.spacing)

    @cached_property
    def units(self) -> tuple[np.ndarray, np.ndarray]:
        """Centred features with rows of length 1."""
        assert self.centred is not None
        first, second = (
            x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in self.centred
        )
        return first, second

    def starts(self, method: str, reflection: bool) -> list[Rigid]:
        """Return moves to begin from."""
        moves: list[Rigid] = []
        if method != "features":
            shown = overlay_starts(self.moving, self.fixed, None, None, reflection=reflection)
            moves += [start.move for start in shown[:4]]
            moves += self._edge_starts(reflection)
        if method in ("auto", "features") and self.centred is not None:
            shown = overlay_starts(self.moving, self.fixed, *self.centred, reflection=reflection)
            moves += [start.move for start in shown[:4]]
            rows, columns = mutual_alike(*(units.astype(np.float32) for units in self.units))
            extent = float(np.ptp(self.fixed, axis=0).max())
            moves += consensus_moves(
                self.moving[rows],
                self.fixed[columns],
                tolerance=0.05 * extent,
                reflection=reflection,
                rng=self.rng,
            )
        return self._apart(moves)

    def _edge_starts(self, reflection: bool) -> list[Rigid]:
        """Return moves that lay edge on edge: right where the slices share a part of the tissue only."""
        moving, fixed = self.edges
        if min(len(moving.points), len(fixed.points)) < 10:
            return []
        shown = overlay_starts(
            moving.points,
            fixed.points,
            moving.outward,
            fixed.outward,
            reflection=reflection,
            are_vectors=True,
        )
        return [start.move for start in shown[:4]]

    def _apart(self, moves: list[Rigid]) -> list[Rigid]:
        """Leave out moves close to an earlier one."""
        centre = self.moving.mean(axis=0)[None]
        near = 0.05 * float(np.ptp(self.fixed, axis=0).max())
        kept: list[Rigid] = []
        for move in moves:
            if all(
                far_apart(move, other, 8.0) or np.linalg.norm(move.apply(centre) - other.apply(centre)) > near
                for other in kept
            ):
                kept.append(move)
        return kept

    def refined(self, start: Rigid, method: str) -> list[tuple[str, Rigid]]:
        """Refine a start in every way the method allows."""
        points, found = self.moving[self.few], []
        if method in ("auto", "ndt"):
            move = start
            for field in self.fields:
                move = climb(points, field, move)
            found.append(("ndt", move))
        if method in ("auto", "icp"):
            found.append(("icp", self._settled(found[-1][1] if found else self._drawn(start))))
            extent = float(np.ptp(self.fixed, axis=0).max())
            reaches = (0.1 * extent, 0.05 * extent, 8 * self.spacing, 4 * self.spacing)
            laid = closest_edges(*self.edges, start, reaches=reaches)
            found += [("icp", laid), ("icp", self._settled(laid))]
        if method in ("auto", "features") and self.centred is not None:
            reaches = tuple(self.spacing * np.array([16, 12, 8, 6, 6, 6, 6]))
            units = self.units[0][self.few], self.units[1]
            found.append(("features", closest_alike(points, self.tree, *units, start, reaches=reaches)))
        return found

    def polished(self, how: str, move: Rigid) -> list[tuple[str, Rigid]]:
        """Refine the best move found by features once more, and let ICP try from there."""
        if how != "features":
            return []
        polished = self._polished(move)
        return [(how, polished), (how, self._settled(polished))]

    def _drawn(self, start: Rigid) -> Rigid:
        """Refine by ICP within shrinking reach."""
        extent = float(np.ptp(self.fixed, axis=0).max())
        for share in (0.1, 0.05, 0.025):
            start = closest_points(self.moving[self.few], self.tree, start, reach=share * extent)
        return start

    def _settled(self, start: Rigid) -> Rigid:
        """Refine by ICP on the nearest of all fixed points."""
        return closest_points(self.moving[self.few], self.full_tree, start, reach=4 * self.full_spacing)

    def _polished(self, start: Rigid) -> Rigid:
        """Refine by the simplex method on the agreement of the features."""
        assert self.centred is not None
        points, centre = self.moving[self.few], self.fixed.mean(axis=0)
        own, reach = self.centred[0][self.few], float(np.linalg.norm(np.ptp(self.fixed, axis=0))) / 4

        def stepped(step: np.ndarray) -> Rigid:
            turn = turned(float(np.degrees(step[0] / reach)))
            back = Rigid(np.eye(2), -centre).compose(start)
            return Rigid(np.eye(2), centre + step[1:]).compose(turn).compose(back)

        def loss(step: np.ndarray) -> float:
            return -self._alike(stepped(step).apply(points), own)

        simplex = np.vstack([np.zeros(3), 2 * self.spacing * np.eye(3)])
        options = {"initial_simplex": simplex, "maxfev": 90, "xatol": 0.05 * self.spacing, "fatol": 1e-5}
        return stepped(minimize(loss, np.zeros(3), method="Nelder-Mead", options=options).x)

    def _alike(self, moved: np.ndarray, own: np.ndarray) -> float:
        assert self.centred is not None
        return feature_agreement(moved, self.tree, own, self.centred[1], 3 * self.spacing)

    def worth(self, move: Rigid) -> float:
        """Return how well the slices agree after a move; 1 at the most, or 2 where they share cells."""
        moved = move.apply(self.moving)
        excess = 0.0
        if not self.is_grid:
            excess = max(0.0, shared_excess(moved[self.few], self.full_tree, self.full_spacing))
        if self.centred is None:
            overlap = overlap_agreement(moved, self.fixed, self._pixel)
            edges = edge_agreement(*self.edges, move)
            return _OVERLAP * overlap + (1 - _OVERLAP) * edges + excess
        return self._alike(moved[self.few], self.centred[0][self.few]) + excess

    @property
    def _pixel(self) -> float:
        return max(4 * self.spacing, float(np.ptp(self.fixed, axis=0).max()) / 40)

    def score(self, worth: float, rival: float) -> float:
        """Return the share of what can be reached that a move gains over its rival."""
        rival = max(rival, 0.0)
        # two outlines always agree somewhat, and so do a few noisy features: the gain must be of some size
        gain = (worth - rival) / max(self._ceiling - rival, 0.2)
        if self.centred is None:
            # a shape that fits poorly, but better than any other turn, is still a poor fit
            gain *= min(1.0, max(worth, 0.0) / self._ceiling)
        return float(np.clip(gain, 0.0, 1.0))

    @cached_property
    def _ceiling(self) -> float:
        """Agreement of the fixed slice with itself: of its halves, or of spots with those around them."""
        if self.centred is None:
            order = self.rng.permutation(len(self.fixed))
            halves = np.array_split(self.fixed[order], 2)
            share = overlap_agreement(halves[0], halves[1], self._pixel)
            one, other = (find_edge(half, _spacing(half)[0]) for half in halves)
            sharp = edge_agreement(one, other, Rigid.identity())
            return _OVERLAP * 2 * share / (1 + share) + (1 - _OVERLAP) * sharp
        _, near = self.tree.query(self.fixed, k=min(7, len(self.fixed)))
        own = self.centred[1]
        around = own[near[:, 1:]].mean(axis=1)
        return float((own * around).sum() / np.sqrt((own**2).sum() * (around**2).sum()))


def _centred(
    features: tuple[np.ndarray, np.ndarray], rows: np.ndarray, columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    first, second = (np.asarray(x, dtype=np.float64) for x in (features[0][rows], features[1][columns]))
    return first - first.mean(axis=0), second - second.mean(axis=0)


def _spacing(points: np.ndarray) -> tuple[float, bool]:
    """Return the median distance to the nearest other point, and whether the points lie on a grid."""
    nearest = cKDTree(points).query(points, k=2)[0][:, 1]
    nearest = nearest[nearest > 0]
    if not len(nearest):  # every place is taken twice or more
        nearest = cKDTree(np.unique(points, axis=0)).query(np.unique(points, axis=0), k=2)[0][:, 1]
    spacing = float(np.median(nearest))
    return spacing, bool(np.quantile(nearest, 0.9) < 1.1 * np.quantile(nearest, 0.1))


def turned_about(move: Rigid, centre: np.ndarray) -> list[Rigid]:
    """Return a move followed by quarter turns about a point."""
    back, forth = Rigid(np.eye(2), -centre), Rigid(np.eye(2), centre)
    return [forth.compose(turned(angle)).compose(back).compose(move) for angle in (90.0, 180.0, 270.0)]
