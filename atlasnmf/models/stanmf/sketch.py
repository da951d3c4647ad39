"""The leading gene directions of the data by a streamed randomised range finder, and the sketch on them.

X ~ (X V) V' with V from subspace iteration: Y <- X'(X Omega), orthonormalised between passes (Halko,
Martinsson & Tropp 2011, algorithm 4.4). The same passes give each gene's sum and sum of squares.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from atlasnmf.batches.passes import Pass
from atlasnmf.models.stanmf.values import Transform
from atlasnmf.schema import SliceBatch
from atlasnmf.seeds import rng_for

__all__ = ["Moments", "first_directions", "gram_of", "moments_and_range", "project", "turn", "widen"]


@dataclass(frozen=True)
class Moments:
    """Sum and sum of squares of every gene's values, float64, shape (G,)."""

    sums: np.ndarray
    squares: np.ndarray


def first_directions(n_genes: int, width: int, seed: int) -> np.ndarray:
    """Return random directions, float64, shape (G, m)."""
    return rng_for(seed, "stanmf", "sketch").standard_normal((n_genes, min(width, n_genes)))


def moments_and_range(unit: Pass, transform: Transform, directions: np.ndarray) -> tuple[Moments, np.ndarray]:
    """Return the moments of the genes, and X'(X directions), shape (G, m), in one pass."""
    sums, squares, product = unit.reduce(_Range(transform, directions.astype(transform.dtype)))
    return Moments(sums, squares), product


def widen(product: np.ndarray) -> np.ndarray:
    """Return orthonormal columns that span those of a product, shape (G, m)."""
    return np.linalg.qr(product)[0]


def project(unit: Pass, transform: Transform, basis: np.ndarray, sketch: np.ndarray) -> np.ndarray:
    """Fill a sketch with X V in one pass and return its products with itself, float64, shape (m, m)."""
    return unit.reduce(_Project(transform, basis.astype(transform.dtype)), rows=sketch)


def turn(
    unit: Pass, basis: np.ndarray, gram: np.ndarray, sketch: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Turn a sketch to its principal directions: the first columns are then the best sketch of their number.

    Parameters
    ----------
    unit
        A pass over all spots; nothing is read.
    basis, gram
        V, shape (G, m), and S'S, shape (m, m).
    sketch
        S, shape (n, m), overwritten.

    Returns
    -------
    basis, gram
        Of the turned sketch; S'S is diagonal and descends.
    """
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1], vectors[:, ::-1]
    unit.sweep(_Turn(vectors.astype(sketch.dtype)), sketch)
    return basis @ vectors, np.diag(values)


def gram_of(unit: Pass, sketch: np.ndarray) -> np.ndarray:
    """Return the products of a sketch's rows, those of the pass, with themselves, float64, shape (m, m)."""
    return unit.sweep(_Gram(), sketch)


@dataclass(frozen=True)
class _Turn:
    vectors: np.ndarray

    def __call__(self, own: np.ndarray) -> tuple[int, np.ndarray]:
        return 0, own @ self.vectors


@dataclass(frozen=True)
class _Gram:
    def __call__(self, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (own.T @ own).astype(np.float64), own


@dataclass(frozen=True)
class _Range:
    transform: Transform
    directions: np.ndarray

    def __call__(self, batch: SliceBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        values = self.transform(batch)
        return (*values.moments(), values.t_dot(values.dot(self.directions)).astype(np.float64))


@dataclass(frozen=True)
class _Project:
    transform: Transform
    basis: np.ndarray

    def __call__(self, batch: SliceBatch, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sketch = self.transform(batch).dot(self.basis)
        return (sketch.T @ sketch).astype(np.float64), sketch
