"""Rotations, reflections and shifts of point sets, and the one that fits pairs best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Rigid", "fit_rigid", "turned"]


@dataclass(frozen=True)
class Rigid:
    """The move x -> rotation x + shift.

    Parameters
    ----------
    rotation
        Orthogonal, float64, shape (d, d); of determinant -1 with a reflection.
    shift
        float64, shape (d,).

    Examples
    --------
    >>> quarter = turned(90.0)
    >>> quarter.apply(np.array([[1.0, 0.0]])).round(6).tolist()
    [[0.0, 1.0]]
    >>> quarter.compose(quarter.inverse()).apply(np.array([[3.0, 4.0]])).round(6).tolist()
    [[3.0, 4.0]]
    """

    rotation: np.ndarray
    shift: np.ndarray

    @classmethod
    def identity(cls, n_dims: int = 2) -> Rigid:
        """Return the move that leaves everything where it is."""
        return cls(np.eye(n_dims), np.zeros(n_dims))

    @property
    def reflected(self) -> bool:
        """Whether the move turns the slice over."""
        return bool(np.linalg.det(self.rotation) < 0)

    @property
    def degrees(self) -> float:
        """Counter-clockwise angle in the plane, -180 to 180; after the reflection of y where there is one."""
        return float(np.degrees(np.arctan2(self.rotation[1, 0], self.rotation[0, 0])))

    def apply(self, points: np.ndarray) -> np.ndarray:
        """Move points, shape (n, d), to a new float64 array."""
        return np.asarray(points, np.float64) @ self.rotation.T + self.shift

    def inverse(self) -> Rigid:
        """Return the move back."""
        return Rigid(self.rotation.T, -self.rotation.T @ self.shift)

    def compose(self, first: Rigid) -> Rigid:
        """Return the move that does ``first``, then this one."""
        return Rigid(self.rotation @ first.rotation, self.apply(first.shift[None])[0])


def turned(degrees: float, *, reflected: bool = False) -> Rigid:
    """Return a turn about the origin of the plane, after a reflection of y where it is asked for."""
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.array([[cosine, -sine], [sine, cosine]])
    return Rigid(turn @ np.diag([1.0, -1.0]) if reflected else turn, np.zeros(2))


def fit_rigid(
    moving: np.ndarray, fixed: np.ndarray, *, reflected: bool = False, weights: np.ndarray | None = None
) -> Rigid:
    """Return the move of least squares between pairs of points.

    Parameters
    ----------
    moving, fixed
        The pairs, shape (m, d), m at least 2.
    reflected
        Whether the move is to be a reflection (of determinant -1) or a rotation.
    weights
        Of the pairs, shape (m,); alike by default.

    Notes
    -----
    Source: Kabsch 1976; Umeyama 1991.
    """
    weights = np.ones(len(moving)) if weights is None else weights
    share = weights / weights.sum()
    from_centre, to_centre = share @ moving, share @ fixed
    cross = (fixed - to_centre).T @ ((moving - from_centre) * share[:, None])
    left, _, right = np.linalg.svd(cross)
    signs = np.ones(len(left))
    wanted = -1.0 if reflected else 1.0
    signs[-1] = wanted * np.sign(np.linalg.det(left) * np.linalg.det(right))
    rotation = left @ np.diag(signs) @ right
    return Rigid(rotation, to_centre - rotation @ from_centre)
