"""Whether values differ between groups, from sums or histograms; plain arrays in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["GroupSums", "rank_sum_from_histograms", "rank_sum_test", "welch_test"]


@dataclass(frozen=True)
class GroupSums:
    """Sums of values by group and gene, each float64 of shape (n_groups, G).

    Parameters
    ----------
    n_spots
        Spots that measured the gene.
    total, squares
        Sums of the values and of their squares.
    nonzero
        Spots with a value other than zero.
    """

    n_spots: np.ndarray
    total: np.ndarray
    squares: np.ndarray
    nonzero: np.ndarray

    def others(self, reference: int | None = None) -> GroupSums:
        """Return the sums of what each group is compared with: all other groups, or one."""
        if reference is None:
            return GroupSums(*(x.sum(axis=0) - x for x in self._parts()))
        return GroupSums(*(np.broadcast_to(x[reference], x.shape) for x in self._parts()))

    def _parts(self) -> tuple[np.ndarray, ...]:
        return self.n_spots, self.total, self.squares, self.nonzero

    @property
    def mean(self) -> np.ndarray:
        """Mean values; NaN without spots."""
        return np.divide(
            self.total, self.n_spots, out=np.full_like(self.total, np.nan), where=self.n_spots > 0
        )

    @property
    def share(self) -> np.ndarray:
        """Share of spots with a value other than zero; NaN without spots."""
        empty = np.full_like(self.total, np.nan)
        return np.divide(self.nonzero, self.n_spots, out=empty, where=self.n_spots > 0)

    @property
    def variance(self) -> np.ndarray:
        """Unbiased variances; NaN with fewer than two spots."""
        centred = np.maximum(self.squares - np.nan_to_num(self.mean) * self.total, 0.0)
        # what is left of a constant is rounding
        centred = np.where(centred > 1e-12 * self.squares, centred, 0.0)
        empty = np.full_like(self.total, np.nan)
        return np.divide(centred, self.n_spots - 1, out=empty, where=self.n_spots > 1)


def welch_test(inside: GroupSums, outside: GroupSums) -> tuple[np.ndarray, np.ndarray]:
    """Test for a difference of means without assuming equal variances.

    Returns
    -------
    score, p
        Welch's t and two-sided p values, NaN where a side has fewer than two spots or nothing varies.

    References
    ----------
    Welch, Biometrika 34 (1947).

    Examples
    --------
    >>> values = np.array([1.0, 2.0, 3.0]), np.array([6.0, 7.0, 9.0])
    >>> low, high = (GroupSums(*(np.array([float(x)]) for x in (3, v.sum(), v @ v, 3))) for v in values)
    >>> score, p = welch_test(high, low)
    >>> round(float(score[0]), 3), round(float(p[0]), 4)
    (5.06, 0.0106)
    """
    from scipy.stats import t as student

    with np.errstate(invalid="ignore", divide="ignore"):
        parts = inside.variance / inside.n_spots, outside.variance / outside.n_spots
        error = parts[0] + parts[1]
        score = np.where(error > 0, (inside.mean - outside.mean) / np.sqrt(error), np.nan)
        freedom = error**2 / (parts[0] ** 2 / (inside.n_spots - 1) + parts[1] ** 2 / (outside.n_spots - 1))
    return score, 2 * student.sf(np.abs(score), freedom)


def rank_sum_from_histograms(
    counts: np.ndarray, reference: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Test whether values of a group rank higher: Wilcoxon's rank sums from counts of ordered values.

    Parameters
    ----------
    counts
        How often each group has each value, the smallest first, shape (..., n_groups, n_values).
    reference
        Group to compare with; all others when None.

    Returns
    -------
    score, p, auc
        Normal deviate with ties corrected, two-sided p value, and chance that a value of the group is above
        one of the others (ties half), each of shape (..., n_groups); NaN where one side is empty or nothing
        varies.

    Examples
    --------
    >>> counts = np.array([[8, 2, 0], [1, 3, 6]])  # two groups, three values
    >>> score, p, auc = rank_sum_from_histograms(counts)
    >>> auc.round(3).tolist()
    [0.09, 0.91]
    """
    own = np.asarray(counts, np.float64)
    total = own.sum(axis=-2, keepdims=True)
    rest = total - own if reference is None else np.broadcast_to(own[..., [reference], :], own.shape)
    below = np.cumsum(rest, axis=-1) - rest
    wins = (own * (below + rest / 2)).sum(axis=-1)
    n_in, n_out = own.sum(axis=-1), rest.sum(axis=-1)
    n = n_in + n_out
    both = own + rest
    with np.errstate(invalid="ignore", divide="ignore"):
        ties = (both**3 - both).sum(axis=-1) / (n * (n - 1))
    return _deviates(wins, n_in, n_out, ties)


def rank_sum_test(values: np.ndarray, codes: np.ndarray, n_groups: int) -> tuple[np.ndarray, ...]:
    """Test by rank sums whether the values of each group differ from those of all others.

    Parameters
    ----------
    values
        Shape (n,), finite.
    codes
        Group of each, shape (n,), from 0 on.
    n_groups
        Groups.

    Returns
    -------
    score, p, auc
        As in :func:`rank_sum_from_histograms`, shape (n_groups,).

    Notes
    -----
    O(n log n). Wilcoxon, Biometrics Bull. 1 (1945).

    Examples
    --------
    >>> score, p, auc = rank_sum_test(np.array([1.0, 2, 3, 4]), np.array([0, 0, 1, 1]), 2)
    >>> auc.tolist()
    [0.0, 1.0]
    """
    from scipy.stats import rankdata

    ranks = rankdata(values)
    n = len(values)
    n_in = np.bincount(codes, minlength=n_groups).astype(np.float64)
    n_out = n - n_in
    wins = np.bincount(codes, weights=ranks, minlength=n_groups) - n_in * (n_in + 1) / 2
    repeats = np.unique(values, return_counts=True)[1].astype(np.float64)
    ties = (repeats**3 - repeats).sum() / max(n * (n - 1), 1)
    return _deviates(wins, n_in, n_out, ties)


def _deviates(
    wins: np.ndarray, n_in: np.ndarray, n_out: np.ndarray, ties: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return normal deviates, p values and areas of how often the values inside won over those outside."""
    from scipy.stats import norm

    with np.errstate(invalid="ignore", divide="ignore"):
        spread = np.sqrt(n_in * n_out / 12 * (n_in + n_out + 1 - ties))
        known = (n_in > 0) & (n_out > 0) & (spread > 1e-9)
        score = np.where(known, (wins - n_in * n_out / 2) / spread, np.nan)
        auc = np.where((n_in > 0) & (n_out > 0), wins / (n_in * n_out), np.nan)
    return score, 2 * norm.sf(np.abs(score)), auc
