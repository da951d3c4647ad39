"""Iterations on a sketch that stay on the path of the exact ones.

X ~ S V' leaves out what X does outside the span of V, and gene draws turn A out of it. So some iterations
read the data and are noted, the anchors: A and D of that moment, X diag(w) A and X'D. With

    E = (I - VV') diag(w) A                    what the sketch does not see of diag(w) A
    P = X'D - V S'D                            what it misses of X'D

the iterations in between write the present E (and D) as a combination of the last two anchors' by least
squares and add as much of what was noted:

    X diag(w) A ~ S (V'diag(w) A - [V'diag(w) A]_noted alpha) + [X diag(w) A]_noted alpha,
    X'D ~ V S'D + P_noted beta.

Two anchors make that exact for fits that move in a straight line. An iteration costs n·m·C and G·m·C instead
of nnz·C, in memory, and an anchor makes it exact again. It also says how far off they were: the
X diag(w) A they would have used beside the true one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from atlasnmf.batches.passes import Pass
from atlasnmf.models.stanmf.solver import (
    Fits,
    Iteration,
    Sums,
    Task,
    losses_of,
    spot_sums,
    sweep_factor,
    sweep_genes,
    sweep_spots,
)
from atlasnmf.models.stanmf.values import Transform
from atlasnmf.schema import SliceBatch

__all__ = ["Anchors", "Sketch", "anchor", "iterate_on_sketch"]

#: Keeps the least squares of the anchors solvable where fits hardly move, or hardly leave the sketch.
_RIDGE = 1e-6
#: Rows of a fit gone over together: what all steps touch stays in the second-level cache (measured).
_BLOCK_ROWS = 512
#: Rows of a tile that say how far off the sketch was.
_CHECKED_ROWS = 512


def _nothing() -> np.ndarray:
    return np.empty((0, 0))


@dataclass(frozen=True)
class Sketch:
    """X ~ S V' with S = X V.

    Parameters
    ----------
    rows
        S, shape (n, m).
    basis
        V, orthonormal columns, shape (G, m).
    inverse
        (S'S)^-1, shape (m, m).
    """

    rows: np.ndarray
    basis: np.ndarray
    inverse: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray, basis: np.ndarray, gram: np.ndarray) -> Sketch:
        """Make a sketch of its rows, its directions and S'S."""
        return cls(rows, basis.astype(rows.dtype), np.linalg.pinv(gram, hermitian=True))


@dataclass
class Anchors:
    """What was noted at the last exact iterations, for all fits of a stack.

    Of every quantity the last anchor's and, in ``steps``, the way back to the one before: a second anchor
    would be nearly the same, and single precision could not tell them apart.

    Parameters
    ----------
    products, patterns
        X diag(w) A and D of the spots that are learned from, by fit: shape (F, n, 2K) for the largest K, the
        steps beside each fit's own columns. What a fit needs lies together in memory.
    genes, cross
        E and P, and their steps after them, shape (2G, C) each.
    seen, small
        V'diag(w) A and S'D, and their steps after them, shape (2m, C) each.
    gene_grams, grams
        Products with each other, shape (2K, 2C) for the largest K, of a fit's E and of its steps; and of what
        the sketch does not hold of its D and of its steps.
    """

    products: np.ndarray = field(default_factory=_nothing)
    patterns: np.ndarray = field(default_factory=_nothing)
    genes: np.ndarray = field(default_factory=_nothing)
    cross: np.ndarray = field(default_factory=_nothing)
    seen: np.ndarray = field(default_factory=_nothing)
    small: np.ndarray = field(default_factory=_nothing)
    gene_grams: np.ndarray = field(default_factory=_nothing)
    grams: np.ndarray = field(default_factory=_nothing)

    @classmethod
    def room_for(cls, n_spots: int, n_genes: int, width: int, fits: Fits, dtype: Any) -> Anchors:
        """Make room for the anchors of a stack."""
        widest, columns = 2 * max(fits.widths), fits.n_columns
        shapes = (
            [(fits.n_fits, n_spots, widest)] * 2 + [(2 * n_genes, columns)] * 2 + [(2 * width, columns)] * 2
        )
        room = cls(*(np.zeros(shape, dtype=dtype) for shape in shapes))
        room.gene_grams, room.grams = np.zeros((widest, 2 * columns)), np.zeros((widest, 2 * columns))
        return room

    def of_spots(self, task: Task) -> tuple[np.ndarray, ...]:
        """Return what is noted by spot of the fits at work: (n, 2K) of products by fit, then of patterns."""
        widths = [2 * len(gram) for gram in task.grams]
        return tuple(
            noted[fit, :, :width]
            for noted in (self.products, self.patterns)
            for fit, width in zip(task.fits, widths, strict=True)
        )


def _noted(array: np.ndarray, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what was noted of a fit by gene or direction: the last anchor's and the steps, (., K) each."""
    half = len(array) // 2
    return array[:half, start:stop], array[half:, start:stop]


def _products(new: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Return the products of an anchor and its steps with each other, float64, shape (2K, 2K)."""
    between = new.T @ step
    return np.block([[new.T @ new, between], [between.T, step.T @ step]]).astype(np.float64)


def _beside(new: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Return a new anchor of some spots and the steps back to the one before, shape (t, 2K)."""
    rank = new.shape[1]
    both = np.empty_like(before)
    both[:, :rank] = new
    np.subtract(before[:, :rank], new, out=both[:, rank:])
    return both


def _mixed(noted: tuple[np.ndarray, np.ndarray], parts: np.ndarray) -> np.ndarray:
    """Return a combination of an anchor and its steps."""
    rank = len(parts) // 2
    return noted[0] @ parts[:rank] + noted[1] @ parts[rank:]


def _against(noted: tuple[np.ndarray, np.ndarray], present: np.ndarray) -> np.ndarray:
    """Return the products of an anchor and its steps with something present, float64, shape (2K, K)."""
    return np.concatenate([each.T @ present for each in noted]).astype(np.float64)


def _note(array: np.ndarray, columns: np.ndarray, new: np.ndarray) -> None:
    """Put a new anchor by gene or direction in the place of the last, and the step back to it after it."""
    array[len(new) :, columns] = array[: len(new), columns] - new
    array[: len(new), columns] = new


@dataclass(frozen=True)
class _Foretold:
    """How the present X diag(w) A is made of the sketch and the anchors.

    Parameters
    ----------
    seen, missed
        V'diag(w) A, shape (m, c), and E, shape (G, c).
    turned
        V'diag(w) A less the anchors' share, shape (m, c).
    alphas
        The combination of what was noted by fit, shape (2K, K).
    """

    seen: np.ndarray
    missed: np.ndarray
    turned: np.ndarray
    alphas: list[np.ndarray]

    @classmethod
    def of(cls, task: Task, sketch: Sketch, anchors: Anchors) -> _Foretold:
        """Take it from the genes' side alone."""
        seen = sketch.basis.T @ task.weighted
        missed = task.weighted - sketch.basis @ seen
        turned, alphas = seen.copy(), []
        for (a, b), place in zip(task.spans, task.places, strict=True):
            gram = anchors.gene_grams[: 2 * (b - a), 2 * place[0] : 2 * place[1]]
            alpha = _solved(gram, _against(_noted(anchors.genes, *place), missed[:, a:b])).astype(seen.dtype)
            turned[:, a:b] -= _mixed(_noted(anchors.seen, *place), alpha)
            alphas.append(alpha)
        return cls(seen, missed, turned, alphas)

    def product(self, task: Task, sketch: np.ndarray, products: Sequence[np.ndarray]) -> np.ndarray:
        """Return X diag(w) A of some spots, (t, c), from their rows of the sketch and of the anchors."""
        cross = sketch @ self.turned
        for (a, b), noted, alpha in zip(task.spans, products, self.alphas, strict=True):
            cross[:, a:b] += noted @ alpha
        return cross


def anchor(
    unit: Pass,
    transform: Transform,
    sketch: Sketch,
    anchors: Anchors,
    fits: Fits,
    coefficients: np.ndarray,
    patterns: np.ndarray,
    gene_squares: np.ndarray,
    at_work: Sequence[int],
) -> Iteration:
    """Take one exact iteration and note it, and how well the anchors before foretold it.

    See :func:`solver.iterate` for the parameters.
    """
    task = Task.of(fits, coefficients, at_work, transform.device)
    foretold = _Foretold.of(task, sketch, anchors)
    beside = (sketch.rows, *(() if fits.spot_weights is None else (fits.spot_weights,)))
    rows = (patterns, *anchors.of_spots(task))
    sums, (overlaps, errors) = unit.reduce(_OnBoth(transform, task, foretold), rows=rows, beside=beside)
    cross = sums.cross.astype(coefficients.dtype)
    small = sketch.basis.T @ cross  # V'X'D is S'D
    _note(anchors.genes, task.columns, foretold.missed)
    _note(anchors.seen, task.columns, foretold.seen)
    _note(anchors.cross, task.columns, cross - sketch.basis @ small)
    _note(anchors.small, task.columns, small)
    for (start, stop), overlap in zip(task.places, overlaps, strict=True):
        own = slice(len(overlap)), slice(2 * start, 2 * stop)
        anchors.gene_grams[own] = _products(*_noted(anchors.genes, start, stop))
        inside = np.concatenate(_noted(anchors.small, start, stop), axis=1).astype(np.float64)
        anchors.grams[own] = overlap - inside.T @ sketch.inverse @ inside
    swept, violation = sweep_genes(fits, task, coefficients, cross, sums)
    losses = losses_of(fits, task, swept, cross, sums.grams, gene_squares)
    wide = np.zeros(fits.n_fits)
    wide[task.fits] = np.sqrt(errors[0] / np.maximum(errors[1], np.finfo(np.float64).tiny))
    return Iteration(swept, violation, losses, wide)


def iterate_on_sketch(
    unit: Pass,
    sketch: Sketch,
    anchors: Anchors,
    fits: Fits,
    coefficients: np.ndarray,
    patterns: np.ndarray,
    at_work: Sequence[int],
    device: str = "cpu",
) -> Iteration:
    """Take one iteration without reading the data; its losses are not known."""
    task = Task.of(fits, coefficients, at_work, device)
    beside = (*anchors.of_spots(task), sketch.rows)
    beside = (*beside, *(() if fits.spot_weights is None else (fits.spot_weights,)))
    chunk = _OnSketch(task, _Foretold.of(task, sketch, anchors))
    sums, overlaps = unit.sweep(chunk, patterns, *beside)
    cross = sketch.basis @ sums.cross.astype(coefficients.dtype)
    for (a, b), (start, stop), overlap in zip(task.spans, task.places, overlaps, strict=True):
        inside = _against(_noted(anchors.small, start, stop), sketch.inverse @ sums.cross[:, a:b])
        gram = anchors.grams[: len(inside), 2 * start : 2 * stop]
        beta = _solved(gram, overlap - inside).astype(coefficients.dtype)
        cross[:, a:b] += _mixed(_noted(anchors.cross, start, stop), beta)
    swept, violation = sweep_genes(fits, task, coefficients, cross, sums)
    return Iteration(swept, violation, np.full(fits.n_fits, np.nan))


def _solved(gram: np.ndarray, cross: np.ndarray) -> np.ndarray:
    """Return gram^-1 cross, columns scaled alike first; columns of zeros take no part."""
    scale = np.sqrt(np.maximum(np.diag(gram), 0).astype(np.float64))
    scale = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    scaled = gram * scale[:, None] * scale + _RIDGE * np.eye(len(gram))
    return scale[:, None] * np.linalg.solve(scaled, scale[:, None] * cross)


@dataclass(frozen=True)
class _OnBoth:
    """One tile of an exact iteration that is noted, and how far off the anchors before are."""

    transform: Transform
    task: Task
    foretold: _Foretold

    def __call__(
        self, batch: SliceBatch, own: np.ndarray, *rows: np.ndarray
    ) -> tuple[tuple[Sums, Any], tuple[np.ndarray, ...]]:
        task, values = self.task, self.transform(batch)
        products, anchored, sketch, draws = _parted(task, rows)
        cross = values.dot(task.weighted)
        some = slice(_CHECKED_ROWS)
        off = cross[some] - self.foretold.product(task, sketch[some], [noted[some] for noted in products])
        errors = np.array([self._squares(off), self._squares(cross[some])])
        kept, patterns, violation = sweep_spots(task, cross, own)
        left, grams = spot_sums(task, patterns, draws)
        sums = Sums(values.t_dot(left).astype(np.float64), grams, violation)
        noted = [
            tuple(_beside(new[:, a:b], each) for (a, b), each in zip(task.spans, before, strict=True))
            for new, before in ((cross, products), (left, anchored))
        ]
        overlaps = tuple(_doubled([each.T @ each for each in noted[1]]))
        return (sums, (overlaps, errors)), (kept, *noted[0], *noted[1])

    def _squares(self, values: np.ndarray) -> list[float]:
        return [float(np.vdot(values[:, a:b], values[:, a:b])) for a, b in self.task.spans]


def _parted(
    task: Task, rows: Sequence[np.ndarray]
) -> tuple[Sequence[np.ndarray], Sequence[np.ndarray], np.ndarray, np.ndarray | None]:
    """Part what a tile of an anchor is given: noted products and patterns by fit, sketch, draws if any."""
    n = len(task.fits)
    return rows[:n], rows[n : 2 * n], rows[2 * n], rows[2 * n + 1] if len(rows) > 2 * n + 1 else None


@dataclass(frozen=True)
class _OnSketch:
    """One tile of an iteration on the sketch."""

    task: Task
    foretold: _Foretold

    def __call__(self, own: np.ndarray, *rows: np.ndarray) -> tuple[tuple[Sums, Any], np.ndarray]:
        found = [self._of_fit(at, own, *rows) for at in range(len(self.task.fits))]
        small, grams, overlaps, violation = zip(*found, strict=True)
        cross = np.concatenate(small, axis=1).astype(np.float64)
        return (Sums(cross, _doubled(grams), np.array(violation)), tuple(_doubled(overlaps))), own

    def _of_fit(
        self, at: int, own: np.ndarray, *rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """Sweep the patterns of a fit in place; return S'D, D'D, noted D with D, and the violation."""
        task, (products, anchored, sketch, draws) = self.task, _parted(self.task, rows)
        place, (a, b), side = slice(*task.places[at]), task.spans[at], task.side
        turned, alpha = np.ascontiguousarray(self.foretold.turned[:, a:b]), self.foretold.alphas[at]
        small, overlap = np.zeros_like(turned), np.zeros_like(alpha)
        gram, violation = np.zeros_like(alpha[: b - a]), 0.0
        for start in range(0, len(own), _BLOCK_ROWS):
            block = slice(start, start + _BLOCK_ROWS)
            cross = sketch[block] @ turned
            cross += products[at][block] @ alpha
            patterns, away = sweep_factor(own[block, place], task.grams[at], cross, 1, side)
            own[block, place] = left = patterns
            if draws is not None:
                left = patterns * draws[block, task.fits[at], None].astype(patterns.dtype)
            small += sketch[block].T @ left
            gram += left.T @ patterns
            overlap += anchored[at][block].T @ left
            violation += away
        return small, gram, overlap, violation


def _doubled(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [array.astype(np.float64) for array in arrays]
