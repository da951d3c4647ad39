"""Iterations on a sketch that stay on the path of the exact ones.

X ~ S V' leaves out what X does outside the span of V, and gene draws turn A out of it. So some iterations
read the data and note what the sketch missed, for the A and the D of that moment, the anchors:

    R = X E,  E = (I - VV') diag(w) A          what the sketch misses of X diag(w) A
    P = X'D - V S'D                            what it misses of X'D

The iterations in between write the missed part of the present A (and D) as a combination of the anchor's by
least squares and add as much of what was noted:

    X diag(w) A ~ S V'diag(w) A + R alpha,     X'D ~ V S'D + P beta.

They cost n·m·C and G·m·C instead of nnz·C, in memory, and an anchor makes them exact again. It also says how
far off they were: the X diag(w) A they would have used beside the true one.
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
    sweep_genes,
    sweep_spots,
)
from atlasnmf.models.stanmf.values import Transform
from atlasnmf.schema import SliceBatch

__all__ = ["Anchors", "Sketch", "anchor", "iterate_on_sketch"]

#: Keeps the least squares of the anchors solvable where fits hardly leave the sketch.
_RIDGE = 1e-6


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
    """What was noted at the last exact iteration, for all fits of a stack.

    Parameters
    ----------
    missed, patterns
        R and D by spot, shape (n, C) each.
    genes, cross
        E and P by gene, shape (G, C) each.
    small
        S'D, shape (m, C).
    """

    missed: np.ndarray = field(default_factory=_nothing)
    patterns: np.ndarray = field(default_factory=_nothing)
    genes: np.ndarray = field(default_factory=_nothing)
    cross: np.ndarray = field(default_factory=_nothing)
    small: np.ndarray = field(default_factory=_nothing)

    @classmethod
    def room_for(cls, n_spots: int, n_genes: int, width: int, n_columns: int, dtype: Any) -> Anchors:
        """Make room for the anchors of a stack."""
        spots, genes = (n_spots, n_columns), (n_genes, n_columns)
        shapes = spots, spots, genes, genes, (width, n_columns)
        return cls(*(np.zeros(shape, dtype=dtype) for shape in shapes))


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
    """Take one exact iteration, note what the sketch misses of it, and how well the last anchor foretold it.

    See :func:`solver.iterate` for the parameters.
    """
    task = Task.of(fits, coefficients, at_work, transform.device)
    seen, missed, alphas = _foretold(task, sketch, anchors)
    beside = (sketch.rows, *(() if fits.spot_weights is None else (fits.spot_weights,)))
    chunk = _OnBoth(transform, task, seen, alphas)
    rows = (patterns, anchors.missed, anchors.patterns)
    sums, (small, errors) = unit.reduce(chunk, rows=rows, beside=beside)
    cross, small = sums.cross.astype(coefficients.dtype), small.astype(coefficients.dtype)
    anchors.genes[:, task.columns] = missed
    anchors.cross[:, task.columns] = cross - sketch.basis @ small
    anchors.small[:, task.columns] = small
    swept, violation = sweep_genes(fits, task, coefficients, cross, sums)
    losses = losses_of(fits, task, swept, cross, sums.grams, gene_squares)
    wide = np.zeros(fits.n_fits)
    wide[task.fits] = np.sqrt(errors[0] / np.maximum(errors[1], np.finfo(np.float64).tiny))
    return Iteration(swept, violation, losses, wide)


def _foretold(
    task: Task, sketch: Sketch, anchors: Anchors
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Return V'diag(w) A, what the sketch misses of diag(w) A, and its combination of the anchor's."""
    seen = sketch.basis.T @ task.weighted
    missed = task.weighted - sketch.basis @ seen
    alphas = [
        _combination(anchors.genes[:, start:stop], missed[:, a:b])
        for (start, stop), (a, b) in zip(task.places, task.spans, strict=True)
    ]
    return seen, missed, alphas


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
    seen, _, alphas = _foretold(task, sketch, anchors)
    chunk = _OnSketch(task, seen, alphas)
    beside = (sketch.rows, anchors.missed, anchors.patterns)
    beside = (*beside, *(() if fits.spot_weights is None else (fits.spot_weights,)))
    sums, overlaps = unit.sweep(chunk, patterns, *beside)
    small = sums.cross.astype(coefficients.dtype)
    cross = sketch.basis @ small
    for at, ((start, stop), (a, b)) in enumerate(zip(task.places, task.spans, strict=True)):
        before = anchors.small[:, start:stop].astype(np.float64)
        inside = before.T @ sketch.inverse
        own, other = overlaps[at][0] - inside @ before, overlaps[at][1] - inside @ sums.cross[:, a:b]
        beta = _solved(own, other).astype(coefficients.dtype)
        cross[:, a:b] += anchors.cross[:, start:stop] @ beta
    swept, violation = sweep_genes(fits, task, coefficients, cross, sums)
    return Iteration(swept, violation, np.full(fits.n_fits, np.nan))


def _combination(anchor: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Return the combination of the anchor's columns that is nearest the present ones."""
    found = _solved((anchor.T @ anchor).astype(np.float64), (anchor.T @ present).astype(np.float64))
    return found.astype(present.dtype)


def _solved(gram: np.ndarray, cross: np.ndarray) -> np.ndarray:
    ridge = _RIDGE * np.trace(gram) / len(gram) + np.finfo(np.float64).tiny
    return np.linalg.solve(gram + ridge * np.eye(len(gram)), cross)


def _cross_on_sketch(
    task: Task, sketch: np.ndarray, seen: np.ndarray, missed: np.ndarray, alphas: list[np.ndarray]
) -> np.ndarray:
    """Return S V'diag(w) A + R alpha of a tile."""
    cross = sketch @ seen
    for (a, b), (start, stop), alpha in zip(task.spans, task.places, alphas, strict=True):
        cross[:, a:b] += missed[:, start:stop] @ alpha
    return cross


@dataclass(frozen=True)
class _OnBoth:
    """One tile of an exact iteration, what the sketch misses of it, and how far off the last anchor is."""

    transform: Transform
    task: Task
    seen: np.ndarray
    alphas: list[np.ndarray]

    def __call__(
        self,
        batch: SliceBatch,
        own: np.ndarray,
        missed: np.ndarray,
        anchored: np.ndarray,
        sketch: np.ndarray,
        draws: np.ndarray | None = None,
    ) -> tuple[tuple[Sums, Any], tuple[np.ndarray, np.ndarray, np.ndarray]]:
        values, columns = self.transform(batch), self.task.columns
        cross = values.dot(self.task.weighted)
        off = cross - _cross_on_sketch(self.task, sketch, self.seen, missed, self.alphas)
        errors = np.array([self._squares(off), self._squares(cross)])
        kept, patterns, violation = sweep_spots(self.task, cross, own)
        left, grams = spot_sums(self.task, patterns, draws)
        missed, anchored = missed.copy(), anchored.copy()
        missed[:, columns] = cross - sketch @ self.seen
        anchored[:, columns] = left
        sums = Sums(values.t_dot(left).astype(np.float64), grams, violation)
        return (sums, ((sketch.T @ left).astype(np.float64), errors)), (kept, missed, anchored)

    def _squares(self, values: np.ndarray) -> list[float]:
        return [float(np.vdot(values[:, a:b], values[:, a:b])) for a, b in self.task.spans]


@dataclass(frozen=True)
class _OnSketch:
    """One tile of an iteration on the sketch."""

    task: Task
    seen: np.ndarray
    alphas: list[np.ndarray]

    def __call__(
        self,
        own: np.ndarray,
        sketch: np.ndarray,
        missed: np.ndarray,
        anchored: np.ndarray,
        draws: np.ndarray | None = None,
    ) -> tuple[tuple[Sums, Any], np.ndarray]:
        cross = _cross_on_sketch(self.task, sketch, self.seen, missed, self.alphas)
        kept, patterns, violation = sweep_spots(self.task, cross, own)
        left, grams = spot_sums(self.task, patterns, draws)
        overlaps = []
        for (a, b), (start, stop) in zip(self.task.spans, self.task.places, strict=True):
            before = anchored[:, start:stop]
            overlaps.append(
                ((before.T @ before).astype(np.float64), (before.T @ left[:, a:b]).astype(np.float64))
            )
        return (Sums((sketch.T @ left).astype(np.float64), grams, violation), tuple(overlaps)), kept
