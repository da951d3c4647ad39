"""Where fits start: the non-negative parts of the leading singular vectors (NNDSVDa), or chance.

Boutsidis & Gallopoulos 2008, in the variant that fills zeros with the mean, as scikit-learn's ``nndsvda``.
For X diag(sqrt w) the singular vectors come from small products of a sketch S = X V: the left ones are S T,
the right ones V (S'S) T / s, with T from the eigenvectors of an m x m matrix.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from atlasnmf.batches.passes import Pass
from atlasnmf.models.stanmf.solver import Fits

__all__ = ["Singular", "nndsvda", "singular"]

#: Smaller entries of the parts become zero before they are filled (scikit-learn's eps).
_EPS = 1e-6


@dataclass(frozen=True)
class Singular:
    """Leading singular triplets of X diag(sqrt w).

    Parameters
    ----------
    turn
        T: left vectors are S T, shape (m, K).
    values
        Singular values s, descending, shape (K,).
    genes
        Right vectors by gene, each a column of X diag(w)'s data, not weighted, shape (G, K).
    """

    turn: np.ndarray
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

    Returns
    -------
    Singular
        As if computed from X with every gene repeated as often as it was drawn.
    """
    values, vectors = np.linalg.eigh(gram)
    kept = values > values[-1] * 1e-12
    root = vectors[:, kept] * np.sqrt(values[kept])  # S'S = root root'
    inner = root.T @ ((basis.T * weights) @ basis) @ root
    squares, left = np.linalg.eigh(inner)
    lead = np.argsort(squares)[::-1][:rank]
    s = np.sqrt(np.maximum(squares[lead], np.finfo(np.float64).tiny))
    turn = (vectors[:, kept] / np.sqrt(values[kept])) @ left[:, lead]
    if turn.shape[1] < rank:  # data of a lower rank than asked for
        missing = rank - turn.shape[1]
        turn = np.pad(turn, ((0, 0), (0, missing)))
        s = np.pad(s, (0, missing), constant_values=np.finfo(np.float64).tiny)
    return Singular(turn, s, basis @ (gram @ turn) / s)


def nndsvda(
    unit: Pass,
    sketch: np.ndarray,
    fits: Fits,
    found: list[Singular],
    gene_means: np.ndarray,
    patterns: np.ndarray,
) -> np.ndarray:
    """Start every fit of a stack.

    Parameters
    ----------
    unit
        The pass.
    sketch
        S, shape (n, m).
    fits, found
        The stack, and the singular triplets of each of its fits.
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
    Two passes over the sketch: the sizes of the positive and negative parts of the left vectors decide which
    of them start a pattern.
    """
    turn = np.concatenate([each.turn for each in found], axis=1).astype(sketch.dtype)
    plus, minus = unit.sweep(_Parts(turn), patterns[:, :0], sketch)
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
        unit.sweep(_First(turn, signs, scales, fills), patterns, sketch)
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

    turn: np.ndarray

    def __call__(
        self, own: np.ndarray, sketch: np.ndarray
    ) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
        left = (sketch @ self.turn).astype(np.float64)
        return ((np.maximum(left, 0) ** 2).sum(axis=0), (np.minimum(left, 0) ** 2).sum(axis=0)), own


@dataclass(frozen=True)
class _First:
    """The first patterns of a tile."""

    turn: np.ndarray
    signs: np.ndarray
    scales: np.ndarray
    fills: np.ndarray

    def __call__(self, own: np.ndarray, sketch: np.ndarray) -> tuple[int, np.ndarray]:
        parts = np.maximum((sketch @ self.turn) * self.signs, 0) * self.scales
        parts[parts < _EPS] = 0
        return 0, np.where(parts == 0, self.fills, parts)
