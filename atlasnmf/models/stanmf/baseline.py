"""The rival: how stable the principal components of the same resampled data are."""

from __future__ import annotations

import numpy as np

from atlasnmf.models.stanmf.instability import Instability, instability
from atlasnmf.models.stanmf.solver import Fits
from atlasnmf.models.stanmf.start import singular

__all__ = ["pca_instability"]


def pca_instability(
    basis: np.ndarray, gram: np.ndarray, gene_sums: np.ndarray, n_spots: int, fits: Fits
) -> Instability:
    """Compare the leading K principal components of every fit's genes, by absolute cosine over spots.

    Parameters
    ----------
    basis, gram
        V, shape (G, m), and S'S, shape (m, m), of the sketch S = X V.
    gene_sums
        Sum of every gene's values, shape (G,).
    n_spots
        Number of spots.
    fits
        Fits of one rank K, with their genes' draws.

    Notes
    -----
    From the sketch alone: with S centred on its mean, the products of the components T_a, T_b of two fits are
    T_a' (S'S - n s s') T_b. No pass over spots.
    """
    sums = basis.T @ gene_sums
    centred = gram - np.outer(sums, sums) / n_spots
    turns = [
        singular(basis, centred, weights, width).left
        for weights, width in zip(fits.gene_weights.T, fits.widths, strict=True)
    ]
    turn = np.concatenate(turns, axis=1)
    return instability(np.abs(turn.T @ centred @ turn), fits.n_fits)
