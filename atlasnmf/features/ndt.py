"""Normal distributions transform: fixed points as a field of Gaussians that moving points climb."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize

from atlasnmf.features.rigid import Rigid
from atlasnmf.kernels.cpu.gaussians import field_scores

__all__ = ["NormalField", "climb"]

#: Points of a uniform cell that every cell is blended with: a cell of one or two points is no needle.
_PRIOR = 5.0


class NormalField:
    """Gaussians of the points in the cells of four grids, each half a cell apart from the others.

    Parameters
    ----------
    points
        Fixed points, shape (n, 2).
    width
        Side of a cell.

    Notes
    -----
    A cell's covariance is blended with that of a uniform cell, width^2 / 12, as if that had five points, and
    the cell counts in proportion n / (n + 5): the published field lets a cell of one or two points score 1
    for anything. O(n) to make, O(m) to ask.
    """

    def __init__(self, points: np.ndarray, width: float) -> None:
        self.width = width
        self._lowest = points.min(axis=0) - width
        size = np.ceil((points.max(axis=0) - self._lowest) / width).astype(np.int64) + 2
        self._offsets = np.array([[0.0, 0.0], [0.5, 0.0], [0.0, 0.5], [0.5, 0.5]])
        grids = [self._grid(points, offset, size) for offset in self._offsets]
        self._means, self._inverses, self._weights = (np.stack(parts) for parts in zip(*grids, strict=True))

    def _grid(
        self, points: np.ndarray, offset: np.ndarray, size: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the centre, the inverse covariance (xx, xy, yy) and the weight of each cell."""
        places = np.floor((points - self._lowest) / self.width + offset).astype(np.int64)
        cells, n_cells = places[:, 0] * size[1] + places[:, 1], int(size.prod())
        counts = np.bincount(cells, minlength=n_cells).astype(float)
        sums = np.column_stack([np.bincount(cells, points[:, a], n_cells) for a in (0, 1)])
        means = sums / np.maximum(counts, 1)[:, None]
        gaps = points - means[cells]
        spread = [np.bincount(cells, gaps[:, a] * gaps[:, b], n_cells) for a, b in ((0, 0), (0, 1), (1, 1))]
        prior = _PRIOR * self.width**2 / 12
        xx, xy, yy = (
            (part + own) / (counts + _PRIOR) for part, own in zip(spread, (prior, 0, prior), strict=True)
        )
        inverses = np.column_stack([yy, -xy, xx]) / (xx * yy - xy**2)[:, None]
        shape = tuple(size)
        return (
            means.reshape(*shape, 2),
            inverses.reshape(*shape, 3),
            (counts / (counts + _PRIOR)).reshape(shape),
        )

    def score(self, points: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the mean score of points, 0 to 1, and its slope at each of them, shape (m, 2)."""
        total, slopes = field_scores(
            points, self._lowest, self.width, self._offsets, self._means, self._inverses, self._weights
        )
        share = 1.0 / (len(points) * len(self._offsets))
        return total * share, slopes * share


def climb(moving: np.ndarray, field: NormalField, start: Rigid) -> Rigid:
    """Refine a move so that the moved points score highest.

    Parameters
    ----------
    moving
        Points to move, shape (m, 2).
    field
        Of the fixed points.
    start
        Where to begin; a reflection stays one.

    Notes
    -----
    Quasi-Newton with the exact slope in the angle and the shift, in units of a cell's width.

    Source: Biber and Strasser 2003; Magnusson 2009.
    """
    begun = start.apply(moving)
    centre = begun.mean(axis=0)
    arms = begun - centre
    reach = float(np.sqrt((arms**2).sum(axis=1).mean())) or 1.0

    def loss(step: np.ndarray) -> tuple[float, np.ndarray]:
        angle = step[0] * field.width / reach
        cosine, sine = np.cos(angle), np.sin(angle)
        turn = np.array([[cosine, -sine], [sine, cosine]])
        moved = arms @ turn.T
        value, slopes = field.score(moved + centre + step[1:] * field.width)
        swing = np.column_stack([-moved[:, 1], moved[:, 0]])
        return -value, -np.append(
            (slopes * swing).sum() * field.width / reach, slopes.sum(axis=0) * field.width
        )

    step = minimize(loss, np.zeros(3), jac=True, method="L-BFGS-B", options={"maxiter": 60}).x
    angle = step[0] * field.width / reach
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return Rigid(turn @ start.rotation, turn @ (start.shift - centre) + centre + step[1:] * field.width)
