"""A k-d tree over points: nearest neighbours whatever the density, ties broken by number."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

__all__ = ["KdTree", "build_tree", "nearest"]

_LEAF = 12


class KdTree(NamedTuple):
    """Points split at medians until a leaf holds at most a dozen.

    Parameters
    ----------
    order
        Points in tree order, int32, shape (n,).
    points
        Coordinates in tree order, float64, shape (n, d).
    spans
        First point, end and second child of each node, int32, shape (m, 3); a node's first child follows
        it, and a leaf has second child 0.
    boxes
        Lowest and highest coordinates of each node's points, float64, shape (m, 2, d).
    """

    order: np.ndarray
    points: np.ndarray
    spans: np.ndarray
    boxes: np.ndarray


def build_tree(coords: np.ndarray) -> KdTree:
    """Build the tree of points with coordinates of shape (n, d), finite; O(n log n)."""
    points = np.array(coords, dtype=np.float64, order="C")
    order = np.arange(len(points), dtype=np.int32)
    spans, boxes = _build(points, order)
    return KdTree(order, points, spans, boxes)


@njit(nogil=True, cache=True)
def _build(points, order):  # type: ignore[no-untyped-def]
    n, d = points.shape
    most = 4 * (n // _LEAF + 1)
    spans = np.zeros((most, 3), dtype=np.int32)
    boxes = np.empty((most, 2, d), dtype=np.float64)
    # Waiting nodes: first point, end, and the parent that waits for its second child's number (or -1).
    waiting = np.empty((64, 3), dtype=np.int64)
    waiting[0, 0], waiting[0, 1], waiting[0, 2] = 0, n, -1
    n_waiting, n_nodes = 1, 0
    while n_waiting:
        n_waiting -= 1
        lo, hi, parent = waiting[n_waiting]
        node = n_nodes
        n_nodes += 1
        if parent >= 0:
            spans[parent, 2] = node
        spans[node, 0], spans[node, 1] = lo, hi
        axis, widest = 0, -1.0
        for a in range(d):
            low, high = np.inf, -np.inf
            for i in range(lo, hi):
                low = min(low, points[i, a])
                high = max(high, points[i, a])
            boxes[node, 0, a], boxes[node, 1, a] = low, high
            if high - low > widest:
                axis, widest = a, high - low
        if hi - lo > _LEAF:
            middle = (lo + hi) // 2
            _split(points, order, axis, lo, hi, middle)
            waiting[n_waiting, 0], waiting[n_waiting, 1], waiting[n_waiting, 2] = middle, hi, node
            waiting[n_waiting + 1, 0], waiting[n_waiting + 1, 1], waiting[n_waiting + 1, 2] = lo, middle, -1
            n_waiting += 2
    return spans[:n_nodes].copy(), boxes[:n_nodes].copy()


@njit(nogil=True, cache=True)
def _split(points, order, axis, lo, hi, middle):  # type: ignore[no-untyped-def]
    # Hoare's quickselect: swaps equal keys too, so duplicated coordinates do not make it quadratic.
    first, last = lo, hi - 1
    while first < last:
        pivot = points[(first + last) // 2, axis]
        i, j = first, last
        while i <= j:
            while points[i, axis] < pivot:
                i += 1
            while points[j, axis] > pivot:
                j -= 1
            if i <= j:
                for a in range(points.shape[1]):
                    points[i, a], points[j, a] = points[j, a], points[i, a]
                order[i], order[j] = order[j], order[i]
                i += 1
                j -= 1
        if middle <= j:
            last = j
        elif middle >= i:
            first = i
        else:
            return


def nearest(coords: np.ndarray, k: int, rows: np.ndarray, tree: KdTree) -> tuple[np.ndarray, np.ndarray]:
    """Return the k nearest others of some points, nearest first, ties by number.

    Parameters
    ----------
    coords
        The tree's points in their own order, float64, shape (n, d).
    k
        At least 1 and less than n.
    rows
        Points asked for, int64, shape (m,).
    tree
        Made of ``coords``.

    Returns
    -------
    found, distances
        int32 and float64 (squared distances), shape (m, k).
    """
    found = np.empty((len(rows), k), dtype=np.int32)
    distances = np.empty((len(rows), k), dtype=np.float64)
    _nearest(coords, rows, tree.order, tree.points, tree.spans, tree.boxes, found, distances)
    return found, distances


@njit(nogil=True, cache=True, inline="always")
def _box_distance(boxes, node, coords, i):  # type: ignore[no-untyped-def]
    # Operations as for points, in the same order, and rounding is monotone: never above a point inside.
    total = 0.0
    for a in range(boxes.shape[2]):
        x = coords[i, a]
        gap = max(boxes[node, 0, a] - x, x - boxes[node, 1, a], 0.0)
        total += gap * gap
    return total


@njit(nogil=True, cache=True)
def _nearest(coords, rows, order, points, spans, boxes, all_found, all_distances):  # type: ignore[no-untyped-def]
    k = all_found.shape[1]
    stack = np.empty(128, dtype=np.int64)
    gaps = np.empty(128, dtype=np.float64)
    for row in range(len(rows)):
        i = rows[row]
        found, distances = all_found[row], all_distances[row]
        distances[:] = np.inf
        found[:] = np.iinfo(np.int32).max
        stack[0], gaps[0], depth = 0, 0.0, 1
        while depth:
            depth -= 1
            node = stack[depth]
            # Equal is not enough to skip: a tie may have the smaller number.
            if gaps[depth] > distances[k - 1]:
                continue
            second = spans[node, 2]
            if second:
                near, far = node + 1, np.int64(second)
                near_gap, far_gap = (
                    _box_distance(boxes, near, coords, i),
                    _box_distance(boxes, far, coords, i),
                )
                if far_gap < near_gap:
                    near, far, near_gap, far_gap = far, near, far_gap, near_gap
                stack[depth], gaps[depth] = far, far_gap
                stack[depth + 1], gaps[depth + 1] = near, near_gap
                depth += 2
                continue
            for q in range(spans[node, 0], spans[node, 1]):
                j = order[q]
                distance = 0.0
                for a in range(points.shape[1]):
                    gap = points[q, a] - coords[i, a]
                    distance += gap * gap
                last = distances[k - 1]
                if j == i or distance > last or (distance == last and j >= found[k - 1]):
                    continue
                at = k - 1
                while at and (
                    distances[at - 1] > distance or (distances[at - 1] == distance and found[at - 1] > j)
                ):
                    distances[at], found[at] = distances[at - 1], found[at - 1]
                    at -= 1
                distances[at], found[at] = distance, j
