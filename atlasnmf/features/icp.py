"""Iterative closest points: pairs of nearest spots, or of those alike among the near, refit until steady."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from atlasnmf.features.rigid import Rigid, fit_rigid

__all__ = ["closest_alike", "closest_points", "consensus_moves", "mutual_alike"]

_ROUNDS = 40


def closest_points(
    moving: np.ndarray, tree: cKDTree, start: Rigid, *, reach: float, trim: float = 0.9
) -> Rigid:
    """Refine a move by trimmed ICP.

    Parameters
    ----------
    moving
        Points to move, shape (n, 2).
    tree
        Of the fixed points.
    start
        Where to begin; a reflection stays one.
    reach
        Pairs farther apart than this do not count.
    trim
        Share of the pairs within reach that count, the closest.

    Returns
    -------
    Rigid
        Of the last round; the start where fewer than three pairs are within reach.

    Notes
    -----
    Source: Besl and McKay 1992; trimmed after Chetverikov et al. 2005. O(n log p) a round, at most 40.
    """
    move, last = start, np.inf
    for _ in range(_ROUNDS):
        moved = move.apply(moving)
        gaps, nearest = tree.query(moved, distance_upper_bound=reach)
        near = np.flatnonzero(np.isfinite(gaps))
        if len(near) < 3:
            return move
        kept = near[np.argsort(gaps[near], kind="stable")[: max(3, int(trim * len(near)))]]
        error = float(np.mean(gaps[kept]))
        move = fit_rigid(moving[kept], tree.data[nearest[kept]], reflected=start.reflected)
        if last - error < 1e-6 * reach:
            break
        last = error
    return move


def closest_alike(
    moving: np.ndarray,
    tree: cKDTree,
    moving_features: np.ndarray,
    fixed_features: np.ndarray,
    start: Rigid,
    *,
    reaches: tuple[float, ...],
    n_near: int = 40,
) -> Rigid:
    """Refine a move by ICP on pairs that agree in their features.

    Parameters
    ----------
    moving, tree, start
        As in :func:`closest_points`.
    moving_features, fixed_features
        Rows of length 1, shapes (n, k) and (p, k).
    reaches
        Distances within which a partner is looked for, one round after the other.
    n_near
        Fixed points looked at, the nearest of those within reach.

    Notes
    -----
    A point's partner is the most alike of the fixed points within reach; the half of the pairs that is most
    alike counts, and of these the 70 % that the move fits best.
    """
    move = start
    for reach in reaches:
        moved = move.apply(moving)
        gaps, near = tree.query(moved, k=n_near, distance_upper_bound=reach)
        inside = np.isfinite(gaps)
        some = inside.sum(axis=1) >= 3
        if some.sum() < 10:
            return move
        near, inside = near[some], inside[some]
        partners = np.where(inside, near, 0)
        likeness = np.einsum("nk,nmk->nm", moving_features[some], fixed_features[partners])
        likeness = np.where(inside, likeness, -np.inf)
        best = np.argmax(likeness, axis=1)
        rows = np.arange(len(best))
        aim, strength = partners[rows, best], likeness[rows, best]
        kept = strength >= np.quantile(strength, 0.5)
        aims = tree.data[aim[kept]]
        move = _trimmed_fit(moving[some][kept], aims, move)
    return move


def _trimmed_fit(moving: np.ndarray, aims: np.ndarray, start: Rigid) -> Rigid:
    move = fit_rigid(moving, aims, reflected=start.reflected)
    for _ in range(3):
        gaps = np.linalg.norm(move.apply(moving) - aims, axis=1)
        kept = gaps <= np.quantile(gaps, 0.7)
        move = fit_rigid(moving[kept], aims[kept], reflected=start.reflected)
    return move


def mutual_alike(moving_features: np.ndarray, fixed_features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of rows that are each other's nearest in cosine, int64; rows have length 1."""
    best_of_fixed = np.full(len(fixed_features), -np.inf)
    row_of_fixed = np.zeros(len(fixed_features), dtype=np.int64)
    best_of_moving = np.empty(len(moving_features), dtype=np.int64)
    for start in range(0, len(moving_features), 2048):
        likeness = moving_features[start : start + 2048] @ fixed_features.T
        best_of_moving[start : start + 2048] = likeness.argmax(axis=1)
        rows = likeness.argmax(axis=0)
        values = likeness[rows, np.arange(len(fixed_features))]
        better = values > best_of_fixed
        best_of_fixed[better], row_of_fixed[better] = values[better], rows[better] + start
    rows = np.arange(len(moving_features))
    mutual = row_of_fixed[best_of_moving] == rows
    return rows[mutual], best_of_moving[mutual]


def consensus_moves(
    moving: np.ndarray,
    fixed: np.ndarray,
    *,
    tolerance: float,
    reflection: bool,
    rng: np.random.Generator,
    n_trials: int = 3000,
) -> list[Rigid]:
    """Return the moves that most of some noisy pairs agree on, one of each handedness.

    Parameters
    ----------
    moving, fixed
        The pairs, shape (m, 2).
    tolerance
        A pair agrees when it ends up closer than this.
    reflection
        Whether to look for reflections too.
    rng
        Draws the pairs of pairs that moves are guessed from.
    n_trials
        Guesses of each handedness.

    Notes
    -----
    Source: RANSAC (Fischler and Bolles 1981), refit to those that agree. Guesses whose two distances differ
    by more than the tolerance allows are not counted. O(n_trials m).
    """
    if len(moving) < 3:
        return []
    found = []
    for reflected in (False, True) if reflection else (False,):
        mirror = np.array([1.0, -1.0]) if reflected else np.ones(2)
        flat = (moving * mirror) @ np.array([1, 1j])
        aims = fixed @ np.array([1, 1j])
        i, j = rng.integers(len(moving), size=(2, n_trials))
        span, aim = flat[j] - flat[i], aims[j] - aims[i]
        sound = (abs(span) > 4 * tolerance) & (abs(abs(span) - abs(aim)) < 2 * tolerance)
        if not sound.any():
            continue
        turn = aim[sound] / span[sound]
        turn /= abs(turn)
        middle = (flat[i] + flat[j])[sound] / 2, (aims[i] + aims[j])[sound] / 2
        shift = middle[1] - turn * middle[0]
        agreeing = np.array(
            [(abs(t * flat + s - aims) < tolerance).sum() for t, s in zip(turn, shift, strict=True)]
        )
        best = int(agreeing.argmax())
        move = _turned_by(turn[best], shift[best], reflected)
        for _ in range(5):
            inside = np.linalg.norm(move.apply(moving) - fixed, axis=1) < tolerance
            if inside.sum() < 3:
                break
            move = fit_rigid(moving[inside], fixed[inside], reflected=reflected)
        found.append(move)
    return found


def _turned_by(turn: complex, shift: complex, reflected: bool) -> Rigid:
    """Return the move z -> turn z + shift of complex numbers, after a reflection of y where asked for."""
    rotation = np.array([[turn.real, -turn.imag], [turn.imag, turn.real]])
    if reflected:
        rotation = rotation @ np.diag([1.0, -1.0])
    return Rigid(rotation, np.array([shift.real, shift.imag]))
