"""How much the patterns of the fits of one rank differ: Hungarian matching and the Amari distance."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.optimize import linear_sum_assignment

__all__ = ["Instability", "amari", "choose_rank", "hungarian", "instability"]

#: Ranks whose instability differs by less than this are equally stable.
TIE = 1e-3


@dataclass(frozen=True)
class Instability:
    """Dissimilarity of the fits of a rank: mean and standard deviation over their pairs."""

    hungarian_mean: float
    hungarian_sd: float
    amari_mean: float
    amari_sd: float


def hungarian(similarity: np.ndarray) -> float:
    """Return 1 - mean similarity of the patterns of two fits, matched one to one.

    Parameters
    ----------
    similarity
        Cosines of the patterns of one fit with those of another, shape (K, K).

    Notes
    -----
    Source: the osNMF paper's dissimilarity by the Hungarian method.
    """
    return float(1 - similarity[linear_sum_assignment(similarity, maximize=True)].mean())


def amari(similarity: np.ndarray) -> float:
    """Return (2K - sum of column maxima - sum of row maxima) / 2K (Wu et al. 2016, staNMF).

    Examples
    --------
    >>> import numpy as np
    >>> amari(np.eye(3)), hungarian(np.eye(3)[::-1])
    (0.0, 0.0)
    """
    k = len(similarity)
    return float((2 * k - similarity.max(axis=0).sum() - similarity.max(axis=1).sum()) / (2 * k))


def instability(gram: np.ndarray, n_fits: int) -> Instability:
    """Compare every pair of the fits of one rank.

    Parameters
    ----------
    gram
        Products of all patterns of all fits with each other, shape (n_fits K, n_fits K), fits one after the
        other; what is compared are cosines, so scales do not matter. A pattern that is zero is like no other.
    n_fits
        Fits, at least 2.

    Returns
    -------
    Instability
        Over the n_fits (n_fits - 1) / 2 pairs.
    """
    norms = np.sqrt(np.diag(gram))
    scale = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
    cosines = gram * scale[:, None] * scale
    k = len(gram) // n_fits
    pairs = [cosines[a * k : (a + 1) * k, b * k : (b + 1) * k] for a, b in combinations(range(n_fits), 2)]
    by_matching = np.array([hungarian(pair) for pair in pairs])
    by_maxima = np.array([amari(pair) for pair in pairs])
    return Instability(
        float(by_matching.mean()), float(by_matching.std()), float(by_maxima.mean()), float(by_maxima.std())
    )


def choose_rank(ranks: list[int], values: list[float]) -> int:
    """Return the rank of least instability; of ranks within .001 of it, the largest.

    Examples
    --------
    >>> choose_rank([8, 9, 10, 11], [0.1, 0.0504, 0.05, 0.2])
    10
    """
    least = min(values)
    return max(rank for rank, value in zip(ranks, values, strict=True) if value <= least + TIE)
