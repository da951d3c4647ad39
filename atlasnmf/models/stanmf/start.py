"""Where fits start: the non-negative parts of the leading singular vectors (NNDSVDa), or chance.

Boutsidis & Gallopoulos 2008, in the variant that fills zeros with the mean, as scikit-learn's ``nndsvda``.
The singular vectors of X diag(sqrt w) are first those of a sketch S = X V, from small products alone; drawn
genes turn the leading directions out of the sketch, so subspace iterations on the data sharpen them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from atlasnmf.batches.passes import Pass
from atlasnmf.models.stanmf.solver import Fits, spans_of
from atlasnmf.models.stanmf.values import Transform
from atlasnmf.schema import SliceBatch

__all__ = ["Singular", "nndsvda", "right_vectors", "sharpen", "singular"]

#: Smaller entries of the parts become zero before they are filled (scikit-learn's eps).
_EPS = 1e-6
#: Singular vectors beyond the rank that subspace iterations carry along.
_OVERSAMPLED = 5
#: Smaller shares of the largest squared singular value are rounding errors.
_NOISE = 1e-12


@dataclass(frozen=True)
class Singular:
    """Leading singular triplets of X diag(sqrt w).

    Parameters
    ----------
    left
        What rows are multiplied with to be left vectors: rows of the sketch, shape (m, K), or of the data,
        shape (G, K).
    values
        Singular values s, descending, shape (K,).
    genes
        Right vectors by gene, x_g'u / s, shape (G, K): a gene drawn w times has w such entries.
    """

    left: np.ndarray
    values: np.ndarray
    genes: np.ndarray


def singular(basis: np.ndarray, gram: np.ndarray, weights: np.ndarray, rank: int) -> Singular:
    """Find the leading singular triplets of a weighted data set from its sketch.

    Parameters
    ----------
    basis
        V, shape (G, m).
    gram
        S'S, shape (m, m).
    weights
        Draws of every gene, shape (G,).
    rank
        Triplets K, at most m.
    """
    values, vectors = np.linalg.eigh(gram)
    kept = values > values[-1] * _NOISE
    root = vectors[:, kept] * np.sqrt(values[kept])  # S'S = root root'
    inner = root.T @ ((basis.T * weights) @ basis) @ root
    s, turn = _leading(*np.linalg.eigh(inner), rank)
    left = (vectors[:, kept] / np.sqrt(values[kept])) @ turn
    return Singular(left, s, basis @ (gram @ left) / s)


def _leading(squares: np.ndarray, vectors: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest values' roots and their vectors; zeros where the data have fewer."""
    lead = np.argsort(squares)[::-1][:rank]
    s = np.sqrt(np.maximum(squares[lead], np.finfo(np.float64).tiny))
    missing = rank - len(lead)
    if missing > 0:
        s = np.pad(s, (0, missing), constant_values=np.finfo(np.float64).tiny)
    return s, np.pad(vectors[:, lead], ((0, 0), (0, max(missing, 0))))


def right_vectors(basis: np.ndarray, gram: np.ndarray, fits: Fits) -> np.ndarray:
    """Return first right vectors of every fit, some more than its rank, side by side, float64, (G, C')."""
    found = []
    for weights, n_vectors in zip(fits.gene_weights.T, _widths(fits, basis.shape[1]), strict=True):
        found.append(_orthonormal(singular(basis, gram, weights, n_vectors).genes, weights))
    return np.concatenate(found, axis=1)


def _widths(fits: Fits, n_directions: int) -> list[int]:
    return [min(width + _OVERSAMPLED, n_directions) for width in fits.widths]


def sharpen(
    unit: Pass, transform: Transform, fits: Fits, right: np.ndarray, n_directions: int
) -> tuple[np.ndarray, list[Singular]]:
    """Take one subspace iteration of every fit on the data.

    Parameters
    ----------
    unit, transform
        The pass, and what is factorised.
    fits
        The stack.
    right
        Right vectors Z with Z'diag(w)Z = I by fit, shape (G, C').
    n_directions
        Directions m of the sketch they came from.

    Returns
    -------
    right
        The next ones.
    found
        The triplets they hold by Rayleigh and Ritz, the rank's of every fit.
    """
    spans = spans_of(_widths(fits, n_directions))
    weighted = np.empty_like(right)
    for fit, (a, b) in enumerate(spans):
        weighted[:, a:b] = right[:, a:b] * fits.gene_weights[:, fit, None]
    product, grams = unit.reduce(_Power(transform, weighted.astype(transform.dtype), spans))
    following, found = np.empty_like(right), []
    for fit, (a, b) in enumerate(spans):
        s, turn = _leading(*np.linalg.eigh(grams[fit]), b - a)
        genes = product[:, a:b] @ (turn / s**2)
        following[:, a:b] = _orthonormal(genes, fits.gene_weights[:, fit])
        rank = fits.widths[fit]
        left = weighted[:, a:b] @ (turn / s)
        found.append(Singular(left[:, :rank], s[:rank], genes[:, :rank]))
    return following, found


def _orthonormal(genes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return columns of the same span with Z'diag(w)Z = I."""
    values, vectors = np.linalg.eigh(genes.T @ (genes * weights[:, None]))
    kept = np.maximum(values, max(values[-1], np.finfo(np.float64).tiny) * _NOISE)
    return genes @ (vectors / np.sqrt(kept))


@dataclass(frozen=True)
class _Power:
    """X'(X diag(w) Z) of a tile, and the products of X diag(w) Z with itself by fit."""

    transform: Transform
    weighted: np.ndarray
    spans: list[tuple[int, int]]

    def __call__(self, batch: SliceBatch) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        values = self.transform(batch)
        left = values.dot(self.weighted)
        grams = tuple((left[:, a:b].T @ left[:, a:b]).astype(np.float64) for a, b in self.spans)
        return values.t_dot(left).astype(np.float64), grams


def nndsvda(
    unit: Pass,
    transform: Transform,
    fits: Fits,
    found: list[Singular],
    gene_means: np.ndarray,
    patterns: np.ndarray,
) -> np.ndarray:
    """Start every fit of a stack.

    Parameters
    ----------
    unit, transform
        The pass, and what is factorised.
    fits, found
        The stack, and the singular triplets of each of its fits, the left vectors by rows of the data.
    gene_means
        Mean of every gene's values, shape (G,).
    patterns
        Overwritten with the first patterns, shape (n, C); left alone when its width is 0.

    Returns
    -------
    coefficients
        The first coefficients, of the type of the patterns, shape (G, C).

    Notes
    -----
    Two passes over the data: the sizes of the positive and negative parts of the left vectors decide which
    of them start a pattern.
    """
    left = np.concatenate([each.left for each in found], axis=1).astype(transform.dtype)
    plus, minus = unit.reduce(_Parts(transform, left))
    coefficients = np.zeros((len(gene_means), fits.n_columns))
    signs, scales, fills = np.ones(fits.n_columns), np.zeros(fits.n_columns), np.zeros(fits.n_columns)
    for fit, ((a, b), each) in enumerate(zip(fits.spans, found, strict=True)):
        weights = fits.gene_weights[:, fit]
        mean = float(weights @ gene_means / weights.sum())
        for k in range(b - a):
            own = _start_of(each.genes[:, k], weights, plus[a + k], minus[a + k], each.values[k], k == 0)
            signs[a + k], scales[a + k], genes = own
            genes[genes < _EPS] = 0
            coefficients[:, a + k] = np.where(genes == 0, mean, genes)
        fills[a:b] = mean
    if patterns.shape[1]:
        unit.reduce(_First(transform, left, signs, scales, fills), rows=patterns)
    return coefficients.astype(patterns.dtype)


def _start_of(
    genes: np.ndarray, weights: np.ndarray, plus: float, minus: float, value: float, first: bool
) -> tuple[float, float, np.ndarray]:
    """Return the sign and the scale of a left vector's part, and the first coefficients."""
    up, down = np.maximum(genes, 0), np.maximum(-genes, 0)
    if first:  # Perron: one sign, the sizes of both vectors are 1
        part = up if plus >= minus else down
        return (1.0 if plus >= minus else -1.0), float(np.sqrt(value)), np.sqrt(value) * part
    up_size = np.sqrt(weights @ up**2)
    down_size = np.sqrt(weights @ down**2)
    positive = np.sqrt(plus) * up_size > np.sqrt(minus) * down_size
    part, part_size, own = (up, up_size, np.sqrt(plus)) if positive else (down, down_size, np.sqrt(minus))
    size = own * part_size
    if size == 0:
        return 1.0, 0.0, np.zeros_like(genes)
    amount = np.sqrt(value * size)
    return (1.0 if positive else -1.0), float(amount / own), amount * part / part_size


@dataclass(frozen=True)
class _Parts:
    """Sums of squares of the positive and of the negative parts of the left vectors."""

    transform: Transform
    left: np.ndarray

    def __call__(self, batch: SliceBatch) -> tuple[np.ndarray, np.ndarray]:
        vectors = self.transform(batch).dot(self.left).astype(np.float64)
        return (np.maximum(vectors, 0) ** 2).sum(axis=0), (np.minimum(vectors, 0) ** 2).sum(axis=0)


@dataclass(frozen=True)
class _First:
    """The first patterns of a tile."""

    transform: Transform
    left: np.ndarray
    signs: np.ndarray
    scales: np.ndarray
    fills: np.ndarray

    def __call__(self, batch: SliceBatch, own: np.ndarray) -> tuple[int, np.ndarray]:
        parts = np.maximum(self.transform(batch).dot(self.left) * self.signs, 0) * self.scales
        parts[parts < _EPS] = 0
        return 0, np.where(parts == 0, self.fills, parts)
