"""Edges of tissue: where a slice ends, which way is out, and moves that lay edges together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from atlasnmf.features.rigid import Rigid, fit_rigid
from atlasnmf.kernels.cpu.neighbours import radius_neighbours

__all__ = ["Edge", "closest_edges", "edge_agreement", "find_edge"]

#: Radius within which the way out is felt, in spacings; how far off centre a point of the edge is (at a
#: straight edge the centre of its neighbours lies 0.42 radii away).
_RADIUS, _OFF = 8.0, 0.2
#: Spacings that a difference of 1 between two ways out counts for in a search for the nearest edge.
_TURN = 8.0


@dataclass(frozen=True)
class Edge:
    """Points of the edge of a slice.

    Parameters
    ----------
    points
        Shape (m, 2).
    outward
        Way out of the tissue at each, of length 1, shape (m, 2).
    spacing
        Of the points of the slice.
    """

    points: np.ndarray
    outward: np.ndarray
    spacing: float


def find_edge(points: np.ndarray, spacing: float) -> Edge:
    """Find the points whose neighbours lie on one side.

    Parameters
    ----------
    points
        Shape (n, 2).
    spacing
        Median distance of a point to the nearest other.

    Notes
    -----
    The edges of holes wider than a few spacings are edges too. About 50 neighbours a point.
    """
    radius = _RADIUS * spacing
    indptr, near = radius_neighbours(points, radius)
    means = np.add.reduceat(points[near], indptr[:-1], axis=0) / np.diff(indptr)[:, None]
    away = points - means
    lengths = np.linalg.norm(away, axis=1)
    edge = lengths > _OFF * radius
    return Edge(points[edge], away[edge] / lengths[edge, None], spacing)


def closest_edges(moving: Edge, fixed: Edge, start: Rigid, *, reaches: tuple[float, ...]) -> Rigid:
    """Refine a move by ICP on edges that face the same way.

    Parameters
    ----------
    moving, fixed
        The edges.
    start
        Where to begin; a reflection stays one.
    reaches
        Distances within which a partner is looked for, three rounds each.

    Notes
    -----
    Edges without a partner, such as where one slice was cut, do not count.
    """
    if min(len(moving.points), len(fixed.points)) < 10:
        return start
    weight = _TURN * fixed.spacing
    tree = cKDTree(np.hstack([fixed.points, weight * fixed.outward]))
    move = start
    for reach in np.repeat(reaches, 3):
        moved = np.hstack([move.apply(moving.points), weight * moving.outward @ move.rotation.T])
        gaps, nearest = tree.query(moved, distance_upper_bound=float(reach))
        near = np.flatnonzero(np.isfinite(gaps))
        if len(near) < 10:
            return move
        kept = near[gaps[near] <= np.quantile(gaps[near], 0.8)]
        move = fit_rigid(moving.points[kept], fixed.points[nearest[kept]], reflected=start.reflected)
    return move


def edge_agreement(moving: Edge, fixed: Edge, move: Rigid) -> float:
    """Return how far the edges of two slices lie on edges of the other that face the same way, 0 to 1.

    Notes
    -----
    The mean, over the points of both edges, of a Gaussian of the distance to the nearest point of the other
    edge, a spacing wide, times the squared cosine of their ways out. Sharp, so that a part of the edges that
    fits weighs more than all of them roughly together: slices that share a part of the tissue are told from
    shapes that happen to be alike.
    """
    if min(len(moving.points), len(fixed.points)) < 10:
        return 0.0
    points, outward = move.apply(moving.points), moving.outward @ move.rotation.T
    width = max(moving.spacing, fixed.spacing)
    one = _matched(points, outward, fixed.points, fixed.outward, width)
    return (one + _matched(fixed.points, fixed.outward, points, outward, width)) / 2


def _matched(
    points: np.ndarray, outward: np.ndarray, others: np.ndarray, theirs: np.ndarray, width: float
) -> float:
    gaps, nearest = cKDTree(others).query(points)
    cosines = (outward * theirs[nearest]).sum(axis=1)
    return float((np.exp(-0.5 * (gaps / width) ** 2) * np.clip(cosines, 0, 1) ** 2).mean())
