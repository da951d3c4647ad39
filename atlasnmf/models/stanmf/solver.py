"""Many factorisations in one pass: each tile's patterns are swept, then all sums they need are taken.

A stack of fits shares every read. Fit f has its own columns of the stacked patterns D (spots x C) and of the
stacked coefficients A (genes x C). One iteration is that of cyclic coordinate descent: sweep D with A fixed,
then A with D fixed; the second needs only X'D and D'D, which are sums over tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np

from atlasnmf.batches.passes import Pass
from atlasnmf.kernels.dispatch import carrier, kernel, to_host
from atlasnmf.models.stanmf.values import Transform
from atlasnmf.schema import SliceBatch

__all__ = [
    "Fits",
    "Iteration",
    "Sums",
    "Task",
    "compare",
    "iterate",
    "losses_of",
    "sweep_factor",
    "sweep_genes",
    "sweep_spots",
]

#: The kernels of a device, and what brings arrays there.
_Side = tuple[ModuleType, Callable[[Any], Any]]
#: Sweeps that find the patterns anew where they are not kept.
_FRESH_SWEEPS = 10


@dataclass(frozen=True)
class Fits:
    """A stack of fits.

    Parameters
    ----------
    widths
        Rank of each fit, K_1 .. K_F.
    gene_weights
        How often each fit drew each gene, float64, shape (G, F): a resampled data set is X diag(w), without a
        copy of it.
    spot_weights
        How often each fit drew each spot, shape (n, F); None when every fit has every spot once.
    """

    widths: tuple[int, ...]
    gene_weights: np.ndarray
    spot_weights: np.ndarray | None = None

    @property
    def n_fits(self) -> int:
        """Number of fits F."""
        return len(self.widths)

    @property
    def spans(self) -> list[tuple[int, int]]:
        """First and last column of each fit in the stack."""
        return spans_of(self.widths)

    @property
    def n_columns(self) -> int:
        """Columns C of the stack."""
        return sum(self.widths)

    def weighted(self, coefficients: np.ndarray) -> np.ndarray:
        """Return diag(w) A for every fit, shape (G, C), of the type of A."""
        weights = self.gene_weights.astype(coefficients.dtype)
        out = np.empty_like(coefficients)
        for fit, (a, b) in enumerate(self.spans):
            np.multiply(coefficients[:, a:b], weights[:, fit, None], out=out[:, a:b])
        return out


@dataclass(frozen=True)
class Task:
    """The fits at work in a pass, and what stays fixed in it.

    Parameters
    ----------
    fits
        Positions in the stack.
    places
        Their columns in the stack.
    columns
        The same columns as one index.
    weighted
        diag(w) A of these fits side by side, shape (G, c).
    grams
        A'diag(w)A of each, float64, shape (K, K).
    device
        Where the sweeps run.
    """

    fits: list[int]
    places: list[tuple[int, int]]
    columns: np.ndarray
    weighted: np.ndarray
    grams: list[np.ndarray]
    device: str = "cpu"

    @classmethod
    def of(cls, fits: Fits, coefficients: np.ndarray, at_work: Sequence[int], device: str = "cpu") -> Task:
        """Fix the coefficients of the fits at work."""
        places = [fits.spans[fit] for fit in at_work]
        columns = np.concatenate([np.arange(*place) for place in places])
        weighted = fits.weighted(coefficients)
        grams = [(coefficients[:, a:b].T @ weighted[:, a:b]).astype(np.float64) for a, b in places]
        chosen = weighted if len(columns) == fits.n_columns else weighted[:, columns]
        return cls(list(at_work), places, columns, chosen, grams, device)

    @property
    def side(self) -> _Side:
        """The sweeps' kernels, and what brings arrays to them."""
        return kernel("hals", self.device), carrier(self.device)

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Columns of each fit among those at work."""
        return spans_of([len(gram) for gram in self.grams])


@dataclass(frozen=True)
class Sums:
    """What the coefficients need of some spots.

    Parameters
    ----------
    cross
        X'D, shape (G, c); or S'D of a sketch.
    grams
        D'D of every fit at work.
    violation
        How far the patterns were from their optimum, by fit at work.
    """

    cross: np.ndarray
    grams: list[np.ndarray]
    violation: np.ndarray

    def __add__(self, other: Sums) -> Sums:
        grams = [mine + theirs for mine, theirs in zip(self.grams, other.grams, strict=True)]
        return Sums(self.cross + other.cross, grams, self.violation + other.violation)


@dataclass(frozen=True)
class Iteration:
    """What one iteration found.

    Parameters
    ----------
    coefficients
        The next A, shape (G, C).
    violation
        Distance from the optimum by fit, shape (F,), as scikit-learn measures it.
    losses
        ||(X - D A') diag(sqrt w)||^2 / ||X diag(sqrt w)||^2 by fit, after the iteration, shape (F,); NaN
        where it was not taken.
    off
        Relative error of the X diag(w) A that the sketch would have used, shape (F,); None without a sketch.
    """

    coefficients: np.ndarray
    violation: np.ndarray
    losses: np.ndarray
    off: np.ndarray | None = None


def spans_of(widths: Sequence[int]) -> list[tuple[int, int]]:
    """Return first and last column of blocks side by side.

    Examples
    --------
    >>> spans_of([2, 3])
    [(0, 2), (2, 5)]
    """
    return list(pairwise(np.cumsum([0, *widths]).tolist()))


def iterate(
    unit: Pass,
    transform: Transform,
    fits: Fits,
    coefficients: np.ndarray,
    patterns: np.ndarray,
    gene_squares: np.ndarray,
    at_work: Sequence[int],
    *,
    anew: bool = False,
) -> Iteration:
    """Take one exact iteration of some fits: sweep the patterns tile by tile, then the coefficients.

    Parameters
    ----------
    unit
        The pass.
    transform
        What is factorised.
    fits
        The stack.
    coefficients
        A, shape (G, C).
    patterns
        D, shape (n, C), overwritten; or shape (n, 0), and they are found anew from A.
    gene_squares
        Sum of squares of every gene's values, shape (G,).
    at_work
        Fits to iterate; the others stay.
    anew
        Find the patterns from A alone, whatever they were.

    Notes
    -----
    4·nnz·C multiply-adds and 2·n·sum of K^2. With patterns kept, equal to scikit-learn's coordinate
    descent from the same start.
    """
    task = Task.of(fits, coefficients, at_work, transform.device)
    beside = () if fits.spot_weights is None else (fits.spot_weights,)
    sums: Sums = unit.reduce(_OnData(transform, task, anew), rows=patterns, beside=beside)
    cross = sums.cross.astype(coefficients.dtype)
    swept, violation = sweep_genes(fits, task, coefficients, cross, sums)
    return Iteration(swept, violation, losses_of(fits, task, swept, cross, sums.grams, gene_squares))


@dataclass(frozen=True)
class _OnData:
    """One tile of an exact iteration."""

    transform: Transform
    task: Task
    anew: bool

    def __call__(
        self, batch: SliceBatch, own: np.ndarray, draws: np.ndarray | None = None
    ) -> tuple[Sums, np.ndarray]:
        values = self.transform(batch)
        cross = values.dot(self.task.weighted)
        kept, patterns, violation = sweep_spots(self.task, cross, own, anew=self.anew)
        left, grams = spot_sums(self.task, patterns, draws)
        return Sums(values.t_dot(left).astype(np.float64), grams, violation), kept


def sweep_spots(
    task: Task, cross: np.ndarray, own: np.ndarray, *, anew: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sweep the patterns of the spots of a tile.

    Parameters
    ----------
    task
        The fits at work.
    cross
        X diag(w) A of the tile, shape (t, c).
    own
        Patterns of all fits of the stack, shape (t, C); or (t, 0) where none are kept.
    anew
        Do not start from them.

    Returns
    -------
    kept
        The rows that take the place of ``own``.
    patterns
        Those of the fits at work, shape (t, c).
    violation
        By fit at work.
    """
    patterns, violation = np.empty_like(cross), np.zeros(len(task.fits))
    side = task.side
    for fit, (gram, (a, b), (start, stop)) in enumerate(
        zip(task.grams, task.spans, task.places, strict=True)
    ):
        if own.shape[1] and not anew:
            given = own[:, start:stop]
            patterns[:, a:b], violation[fit] = sweep_factor(given, gram, cross[:, a:b], 1, side)
        else:
            patterns[:, a:b], violation[fit] = fresh(gram, cross[:, a:b], side)
    if not own.shape[1]:
        return own, patterns, violation
    if len(task.columns) == own.shape[1]:
        return patterns, patterns, violation
    kept = own.copy()
    kept[:, task.columns] = patterns
    return kept, patterns, violation


def spot_sums(
    task: Task, patterns: np.ndarray, draws: np.ndarray | None
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return diag(draws) D of a tile, shape (t, c), and D'diag(draws)D of each fit at work."""
    left = patterns
    if draws is not None:
        widths = [b - a for a, b in task.spans]
        left = patterns * np.repeat(draws[:, task.fits], widths, axis=1).astype(patterns.dtype)
    return left, [(left[:, a:b].T @ patterns[:, a:b]).astype(np.float64) for a, b in task.spans]


def fresh(gram: np.ndarray, cross: np.ndarray, side: _Side) -> tuple[np.ndarray, float]:
    """Find patterns from the coefficients alone: some sweeps from a start that is a function of them."""
    scale = np.maximum(gram.sum(axis=1), np.finfo(np.float32).tiny).astype(cross.dtype)
    return sweep_factor(np.maximum(cross, 0) / scale, gram, cross, _FRESH_SWEEPS, side)


def sweep_factor(
    factor: np.ndarray, gram: np.ndarray, cross: np.ndarray, n_sweeps: int, side: _Side
) -> tuple[np.ndarray, float]:
    """Sweep a factor some times where the kernels run; return it, and the violation of the last sweep."""
    hals, there = side
    given, gram, cross, violation = there(factor), there(gram), there(cross), 0.0
    for _ in range(n_sweeps):
        given, violation = hals.hals_sweep(given, gram, cross)
    return to_host(given), violation


def sweep_genes(
    fits: Fits, task: Task, coefficients: np.ndarray, cross: np.ndarray, sums: Sums
) -> tuple[np.ndarray, np.ndarray]:
    """Sweep the coefficients of the fits at work.

    Parameters
    ----------
    fits, task
        The stack, and its fits at work.
    coefficients
        A, shape (G, C).
    cross
        X'D of the fits at work, shape (G, c).
    sums
        Their D'D, and the violation of the patterns.

    Returns
    -------
    coefficients
        The next A, shape (G, C). The draws of genes do not enter: every gene's least squares are its own.
    violation
        Of both sweeps, by fit of the stack, 0 for those not at work.
    """
    swept, violation = coefficients.copy(), np.zeros(fits.n_fits)
    side = kernel("hals", "cpu"), carrier("cpu")
    for at, fit in enumerate(task.fits):
        (a, b), (start, stop) = task.spans[at], task.places[at]
        given = coefficients[:, start:stop]
        swept[:, start:stop], away = sweep_factor(given, sums.grams[at], cross[:, a:b], 1, side)
        violation[fit] = sums.violation[at] + away
    return swept, violation


def losses_of(
    fits: Fits,
    task: Task,
    coefficients: np.ndarray,
    cross: np.ndarray,
    grams: Sequence[np.ndarray],
    gene_squares: np.ndarray,
) -> np.ndarray:
    """Return the relative loss of the fits at work, shape (F,), from sums alone: no pass over spots.

    With resampled spots the loss is over the spots as drawn and the norm over all of them once, which is its
    expectation.
    """
    losses = np.full(fits.n_fits, np.nan)
    for at, fit in enumerate(task.fits):
        (a, b), (start, stop) = task.spans[at], task.places[at]
        own, weights = coefficients[:, start:stop].astype(np.float64), fits.gene_weights[:, fit]
        aligned = np.einsum("gk,gk->g", own, cross[:, a:b])
        total = weights @ gene_squares
        rest = np.sum(grams[at] * (own.T @ (own * weights[:, None])))
        losses[fit] = (total - 2 * weights @ aligned + rest) / total
    return losses


def compare(
    unit: Pass, transform: Transform, fits: Fits, coefficients: np.ndarray, patterns: np.ndarray
) -> np.ndarray:
    """Return the products of the patterns of all fits with each other, float64, shape (C, C)."""
    if patterns.shape[1]:
        return unit.sweep(_Products(), patterns)
    task = Task.of(fits, coefficients, range(fits.n_fits), transform.device)
    return unit.reduce(_FreshProducts(transform, task))


@dataclass(frozen=True)
class _Products:
    """Products of the kept patterns of a tile with each other."""

    def __call__(self, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (own.T @ own).astype(np.float64), own


@dataclass(frozen=True)
class _FreshProducts:
    """The same where patterns are found anew."""

    transform: Transform
    task: Task

    def __call__(self, batch: SliceBatch) -> np.ndarray:
        cross = self.transform(batch).dot(self.task.weighted)
        side = self.task.side
        for gram, (a, b) in zip(self.task.grams, self.task.spans, strict=True):
            cross[:, a:b] = fresh(gram, cross[:, a:b], side)[0]
        return (cross.T @ cross).astype(np.float64)
