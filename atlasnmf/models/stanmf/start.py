"""Where fits start: the non-negative parts of the leading singular vectors (NNDSVDa), or chance.

Boutsidis & Gallopoulos 2008, in the variant that fills zeros with the mean, as scikit-learn's ``nndsvda``.
Its singular vectors are those of a randomised range finder (Halko, Martinsson & Tropp 2011, algorithm 4.4)
with a fixed seed, which have not converged where singular values lie close: which optimum a fit ends in
depends on them. So they are found here by the same iterations from the same directions, streamed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from atlasnmf.batches.passes import Pass
from atlasnmf.models.stanmf.params import OVERSAMPLED, START_ITERATIONS
from atlasnmf.models.stanmf.solver import Fits, spans_of
from atlasnmf.models.stanmf.values import Transform
from atlasnmf.schema import SliceBatch

__all__ = [
    "Genes",
    "Singular",
    "Spots",
    "first_right",
    "gene_gram",
    "is_tall",
    "n_sharpenings",
    "nndsvda",
    "sharpen",
    "singular",
    "triplets",
]

#: Smaller entries of the parts become zero before they are filled (scikit-learn's eps).
_EPS = 1e-6
#: The iterations where the rank is at least a tenth of the smaller side.
_ITERATIONS_OF_MANY, _MANY = 4, 0.1
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
    """Return the largest values' roots and their vectors; zeros for those that the data do not have."""
    lead = np.argsort(squares)[::-1][:rank]
    s = np.sqrt(np.maximum(squares[lead], np.finfo(np.float64).tiny))
    found = vectors[:, lead] * (squares[lead] > squares[lead[0]] * _NOISE**2)
    missing = rank - len(lead)
    if missing > 0:
        s = np.pad(s, (0, missing), constant_values=np.finfo(np.float64).tiny)
    return s, np.pad(found, ((0, 0), (0, max(missing, 0))))


def n_sharpenings(fits: Fits, n_spots: int, n_genes: int) -> int:
    """Return the subspace iterations that scikit-learn's start takes."""
    many = max(fits.widths) >= _MANY * min(n_spots, n_genes)
    return _ITERATIONS_OF_MANY if many else START_ITERATIONS


def first_right(unit: Pass, transform: Transform, fits: Fits, seed: int) -> np.ndarray:
    """Return the directions that every fit's subspace iterations start from, float64, shape (G, C').

    Parameters
    ----------
    unit, transform
        The pass, and what is factorised.
    fits
        The stack.
    seed
        scikit-learn's ``random_state``: every fit has the same normal numbers, one row a drawn gene; or one
        row a spot where there are fewer spots than genes.

    Returns
    -------
    right
        Z with diag(w) Z the sums of the rows of every gene's draws; or Z = X'Omega.
    """
    n_genes, widths, found = len(fits.gene_weights), _widths(fits), []
    if not is_tall(unit.n_read, n_genes):
        directions = {width: _normal(seed, unit.n_rows, width) for width in set(widths)}
        side_by_side = np.concatenate(list(directions.values()), axis=1).astype(transform.dtype)
        product = unit.reduce(_Back(transform), beside=(side_by_side,))
        starts = dict(zip(directions, spans_of(list(directions)), strict=True))
        return np.concatenate([product[:, slice(*starts[width])] for width in widths], axis=1)
    for weights, width in zip(fits.gene_weights.T, widths, strict=True):
        drawn = np.repeat(np.arange(n_genes), weights.astype(np.int64))
        total = np.zeros((n_genes, width))
        np.add.at(total, drawn, _normal(seed, len(drawn), width))
        found.append(total / np.maximum(weights, 1)[:, None])
    return np.concatenate(found, axis=1)


def _normal(seed: int, n_rows: int, width: int) -> np.ndarray:
    # scikit-learn's generator, since its very numbers are what is repeated
    return np.random.RandomState(seed % 2**32).normal(size=(n_rows, width))


def is_tall(n_spots: int, n_genes: int) -> bool:
    """Say whether there are at least as many spots as genes: scikit-learn works on the longer side."""
    return n_spots >= n_genes


def _widths(fits: Fits) -> list[int]:
    return [min(width + OVERSAMPLED, len(fits.gene_weights)) for width in fits.widths]


@dataclass(frozen=True)
class Spots:
    """Products with X'X by a pass over the spots.

    Parameters
    ----------
    unit, transform
        The pass, and what is factorised.
    """

    unit: Pass
    transform: Transform

    def power(self, fits: Fits, right: np.ndarray, *, back: bool) -> tuple[np.ndarray, Sequence[np.ndarray]]:
        """Return X'X diag(w) Z if wanted, (G, C'), and the products of X diag(w) Z with itself by fit."""
        spans = spans_of(_widths(fits))
        return self.unit.reduce(
            _Power(self.transform, _weighted(fits, right, self.transform.dtype), spans, back)
        )


@dataclass(frozen=True)
class Genes:
    """Products with X'X where it is held: nothing is read.

    Parameters
    ----------
    gram
        X'X, shape (G, G).
    """

    gram: np.ndarray

    def power(self, fits: Fits, right: np.ndarray, *, back: bool) -> tuple[np.ndarray, Sequence[np.ndarray]]:
        """Return what :meth:`Spots.power` does."""
        weighted = _weighted(fits, right, self.gram.dtype)
        product = (self.gram @ weighted).astype(np.float64)
        return product, [weighted[:, a:b].T @ product[:, a:b] for a, b in spans_of(_widths(fits))]


def gene_gram(unit: Pass, transform: Transform) -> np.ndarray:
    """Return X'X of the spots of a pass, of the type of the values, shape (G, G)."""
    return unit.reduce(_Gram(transform)).astype(transform.dtype)


def sharpen(data: Spots | Genes, fits: Fits, right: np.ndarray) -> np.ndarray:
    """Take one subspace iteration of every fit.

    Parameters
    ----------
    data
        What multiplies with X'X.
    fits
        The stack.
    right
        Directions Z by fit, shape (G, C').

    Returns
    -------
    right
        Columns that span those of X'X diag(w) Z, with Z'diag(w)Z = I by fit.
    """
    product, _ = data.power(fits, right, back=True)
    following = np.empty_like(right)
    for fit, (a, b) in enumerate(spans_of(_widths(fits))):
        weights = fits.gene_weights[:, fit]
        # in the order of their sizes, so that single precision serves the small ones too
        s, turn = _leading(*np.linalg.eigh(_product(product[:, a:b], weights)), b - a)
        genes = product[:, a:b] @ (turn / s)
        following[:, a:b] = genes @ _root(_product(genes, weights))
    return following


def triplets(data: Spots | Genes, fits: Fits, right: np.ndarray, *, tall: bool) -> list[Singular]:
    """Return the singular triplets that the subspace iterations end with, the rank's of every fit.

    Parameters
    ----------
    data, fits, right
        As in :func:`sharpen`.
    tall
        Whether there are at least as many spots as genes, as :func:`is_tall` says.

    Notes
    -----
    Of X diag(sqrt w) projected on the span of X diag(w) Z; or of Z where there are fewer spots than genes.
    """
    found = []
    product, grams = data.power(fits, right, back=tall)
    for fit, (a, b) in enumerate(spans_of(_widths(fits))):
        weights, rank, own = fits.gene_weights[:, fit], fits.widths[fit], right[:, a:b]
        if tall:
            whitened = _whitener(grams[fit])
            genes = product[:, a:b] @ whitened  # X'Q
            s, turn = _leading(*np.linalg.eigh(_product(genes, weights)), rank)
            left, genes = whitened @ turn, genes @ (turn / s)
        else:
            s, turn = _leading(*np.linalg.eigh(grams[fit]), rank)
            left, genes = turn / s, own @ turn
        found.append(Singular((own * weights[:, None]) @ left, s, genes))
    return found


def _weighted(fits: Fits, right: np.ndarray, kind: Any) -> np.ndarray:
    """Return diag(w) Z by fit, shape (G, C')."""
    weighted = np.empty(right.shape, dtype=kind)
    for fit, (a, b) in enumerate(spans_of(_widths(fits))):
        weighted[:, a:b] = right[:, a:b] * fits.gene_weights[:, fit, None]
    return weighted


def _product(genes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return genes.T @ (genes * weights[:, None])


def _root(gram: np.ndarray) -> np.ndarray:
    """Return gram^-1/2, which turns columns the least."""
    values, vectors = np.linalg.eigh(gram)
    kept = np.maximum(values, max(values[-1], np.finfo(np.float64).tiny) * _NOISE)
    return (vectors / np.sqrt(kept)) @ vectors.T


def _whitener(gram: np.ndarray) -> np.ndarray:
    """Return T with T'gram T = I, directions of rounding errors left out."""
    values, vectors = np.linalg.eigh(gram)
    kept = values > max(values[-1], np.finfo(np.float64).tiny) * _NOISE
    return vectors * np.divide(1, np.sqrt(np.where(kept, values, 1)), where=kept, out=np.zeros_like(values))


@dataclass(frozen=True)
class _Power:
    transform: Transform
    weighted: np.ndarray
    spans: list[tuple[int, int]]
    back: bool

    def __call__(self, batch: SliceBatch) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        values = self.transform(batch)
        left = values.dot(self.weighted)
        grams = tuple((left[:, a:b].T @ left[:, a:b]).astype(np.float64) for a, b in self.spans)
        return values.t_dot(left).astype(np.float64) if self.back else np.zeros(()), grams


@dataclass(frozen=True)
class _Gram:
    transform: Transform

    def __call__(self, batch: SliceBatch) -> np.ndarray:
        return self.transform(batch).gram().astype(np.float64)


@dataclass(frozen=True)
class _Back:
    transform: Transform

    def __call__(self, batch: SliceBatch, left: np.ndarray) -> np.ndarray:
        return self.transform(batch).t_dot(left).astype(np.float64)


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
    One pass over the data: the sizes of the positive and negative parts of the left vectors decide which
    of them start a pattern, and the vectors wait for it where the patterns go.
    """
    left = np.concatenate([each.left for each in found], axis=1).astype(transform.dtype)
    plus, minus = unit.reduce(_Parts(transform, left), rows=patterns)
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
        unit.sweep(_First(signs, scales, fills), patterns)
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
    """Sums of squares of the positive and of the negative parts of the left vectors, and these by spot."""

    transform: Transform
    left: np.ndarray

    def __call__(
        self, batch: SliceBatch, own: np.ndarray
    ) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
        vectors = self.transform(batch).dot(self.left)
        squares = vectors.astype(np.float64) ** 2
        above = (squares * (vectors > 0)).sum(axis=0)
        return (above, squares.sum(axis=0) - above), vectors if own.shape[1] else own


@dataclass(frozen=True)
class _First:
    """The first patterns of a tile, from its left vectors."""

    signs: np.ndarray
    scales: np.ndarray
    fills: np.ndarray

    def __call__(self, own: np.ndarray) -> tuple[int, np.ndarray]:
        parts = np.maximum(own * self.signs, 0) * self.scales
        parts[parts < _EPS] = 0
        return 0, np.where(parts == 0, self.fills, parts)
