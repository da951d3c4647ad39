"""What SIID keeps between passes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from atlasnmf.models.siid.em import Shared

__all__ = ["COARSE", "FINE", "Lane", "State"]

#: Places of the two slices.
FINE, COARSE = 0, 1


@dataclass(frozen=True)
class Lane:
    """One of the fits that share every pass.

    Parameters
    ----------
    start
        Number of its draw.
    n_factors
        h.
    hidden
        Panel genes it does not see in the fine slice, positions, int64.
    fold
        Number of its fold; -1 for a fit that is no fold of several.
    """

    start: int
    n_factors: int
    hidden: np.ndarray
    fold: int = -1


@dataclass
class State:
    """All there is to save.

    Parameters
    ----------
    phase
        ``choose`` a number of factors, ``fit``, fit the ``rest`` of the genes, ``done``.
    step
        Passes done in this phase.
    n_factors
        h, once it is chosen.
    lanes
        Positions in the phase's lanes of the fits that go on, int64, shape (R,).
    shared
        What all rows share.
    factors, depths, shares
        p, n and m of all working rows (those of coarse rows are not used), float32, shapes (n, R, H), (n, R)
        and (n, R).
    losses
        Loss before the last pass, float64, shape (R,); infinite before the first.
    rest
        Loadings of the genes that only the coarse slice has, float64, shape (G - fitted, H).
    """

    phase: str
    step: int
    n_factors: int
    lanes: np.ndarray
    shared: Shared
    factors: np.ndarray
    depths: np.ndarray
    shares: np.ndarray
    losses: np.ndarray
    rest: np.ndarray
