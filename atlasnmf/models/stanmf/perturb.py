"""What differs between the fits of one rank: resampled genes, resampled spots, or the start."""

from __future__ import annotations

from collections import Counter

import numpy as np

from atlasnmf.models.stanmf.solver import Fits
from atlasnmf.seeds import rng_for

__all__ = ["gene_draws", "perturbed", "random_start", "spot_draws", "whole", "widened"]


def perturbed(kind: str, seed: int, ranks: tuple[int, ...], n_fits: int, n_spots: int, n_genes: int) -> Fits:
    """Return the stack of the fits of some ranks, rank after rank.

    Parameters
    ----------
    kind
        ``genes``: every fit draws n_genes genes with replacement (published); ``spots``: n_spots spots;
        ``seeds``: all see the same data and start by chance.
    seed
        The user's seed.
    ranks, n_fits
        Patterns of a fit, and fits of every rank.
    n_spots, n_genes
        Shape of the data.

    Returns
    -------
    Fits
        A function of the arguments alone, and of a rank's own whichever ranks it is stacked with.
    """
    which = [(rank, fit) for rank in ranks for fit in range(n_fits)]
    genes, spots = np.ones((n_genes, len(which))), None
    if kind == "genes":
        genes = np.stack([gene_draws(seed, rank, fit, n_genes) for rank, fit in which], axis=1)
    elif kind == "spots":
        spots = np.stack([spot_draws(seed, rank, fit, n_spots) for rank, fit in which], axis=1)
    return Fits(tuple(rank for rank, _ in which), genes, spots)


def whole(rank: int, n_genes: int) -> Fits:
    """Return the one fit of a rank to all of the data."""
    return Fits((rank,), np.ones((n_genes, 1)))


def gene_draws(seed: int, rank: int, fit: int, n_genes: int) -> np.ndarray:
    """Return how often each gene was drawn, float64, shape (G,)."""
    drawn = rng_for(seed, "stanmf", "genes", rank, fit).integers(0, n_genes, n_genes)
    return np.bincount(drawn, minlength=n_genes).astype(np.float64)


def spot_draws(seed: int, rank: int, fit: int, n_spots: int) -> np.ndarray:
    """Return how often each spot was drawn, uint8, shape (n,)."""
    drawn = rng_for(seed, "stanmf", "spots", rank, fit).integers(0, n_spots, n_spots)
    return np.minimum(np.bincount(drawn, minlength=n_spots), 255).astype(np.uint8)


def random_start(fits: Fits, seed: int, gene_means: np.ndarray, patterns: np.ndarray) -> np.ndarray:
    """Start every fit by chance: normal sizes around sqrt(mean / K), as scikit-learn's ``random``.

    Parameters
    ----------
    fits
        The stack.
    seed
        The user's seed.
    gene_means
        Mean of every gene's values, shape (G,).
    patterns
        Overwritten with the first patterns, shape (n, C), or of width 0.

    Returns
    -------
    coefficients
        Of the type of the patterns, shape (G, C).
    """
    coefficients = np.empty((len(gene_means), fits.n_columns))
    seen: Counter[int] = Counter()
    for a, b in fits.spans:
        rng = rng_for(seed, "stanmf", "start", b - a, seen[b - a])
        seen[b - a] += 1
        scale = np.sqrt(gene_means.mean() / (b - a))
        coefficients[:, a:b] = scale * np.abs(rng.standard_normal((len(gene_means), b - a)))
        if patterns.shape[1]:
            patterns[:, a:b] = scale * np.abs(rng.standard_normal((len(patterns), b - a)))
    return coefficients.astype(patterns.dtype)


def widened(
    fits: Fits,
    patterns_before: np.ndarray,
    coefficients_before: np.ndarray,
    gene_means: np.ndarray,
    patterns: np.ndarray,
) -> np.ndarray:
    """Start every fit from the fit of the rank before, with flat patterns added.

    Parameters
    ----------
    fits
        The stack, all of one rank K.
    patterns_before, coefficients_before
        D (n, F K') and A (G, F K') of as many fits of a lower rank K'.
    gene_means
        Mean of every gene's values, shape (G,).
    patterns
        Overwritten, shape (n, F K); or of width 0.

    Returns
    -------
    coefficients
        Of the type of the patterns, shape (G, F K).
    """
    before = coefficients_before.shape[1] // fits.n_fits
    coefficients = np.empty((len(gene_means), fits.n_columns))
    for fit, (a, b) in enumerate(fits.spans):
        own = slice(fit * before, (fit + 1) * before)
        coefficients[:, a : a + before] = coefficients_before[:, own]
        coefficients[:, a + before : b] = gene_means[:, None]
        if patterns.shape[1]:
            patterns[:, a : a + before] = patterns_before[:, own]
            patterns[:, a + before : b] = 1 / (b - a)
    return coefficients.astype(patterns.dtype)
