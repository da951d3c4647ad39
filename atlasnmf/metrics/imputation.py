"""Imputed against measured genes, gene by gene, and proportions against known ones; plain arrays in."""

from __future__ import annotations

import numpy as np

__all__ = [
    "GENE_SCORES",
    "gene_scores",
    "jensen_shannon",
    "pearson",
    "poisson_ceiling",
    "predicted_zeros",
    "r_squared",
    "spearman",
    "spot_baselines",
    "structural_similarity",
    "z_rmse",
]

#: Names of what :func:`gene_scores` returns.
GENE_SCORES = ("r2", "pearson", "spearman", "rmse", "js", "ssim")

#: Stabilisers of the structural similarity of values in [0, 1] (Wang et al., IEEE TIP 13, 2004).
_C1, _C2 = 0.01**2, 0.03**2


def _checked(measured: np.ndarray, imputed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    left, right = np.asarray(measured, dtype=np.float64), np.asarray(imputed, dtype=np.float64)
    if left.shape != right.shape or left.ndim != 2:
        raise ValueError(f"two arrays of shape (n, G) are needed, got {left.shape} and {right.shape}")
    return left, right


def pearson(measured: np.ndarray, imputed: np.ndarray) -> np.ndarray:
    """Return the correlation of every column with its counterpart; 0 where one of them is constant.

    Parameters
    ----------
    measured, imputed
        Shape (n, G).

    Returns
    -------
    correlation
        float64, shape (G,).

    Examples
    --------
    >>> pearson(np.array([[1.0, 1], [2, 1], [3, 1]]), np.array([[2.0, 5], [4, 6], [6, 7]])).tolist()
    [1.0, 0.0]
    """
    left, right = _checked(measured, imputed)
    left, right = left - left.mean(axis=0), right - right.mean(axis=0)
    scale = np.sqrt((left**2).sum(axis=0) * (right**2).sum(axis=0))
    return np.divide((left * right).sum(axis=0), scale, out=np.zeros(left.shape[1]), where=scale > 1e-300)


def r_squared(measured: np.ndarray, imputed: np.ndarray) -> np.ndarray:
    """Return ``cov(x, y)^2 / (var x var y)`` of every column, shape (G,).

    The squared correlation that Zheng, Sarkar and Raphael (Genome Res. 2025) score imputation by: blind to
    the scale of a gene, which platforms do not share.

    Examples
    --------
    >>> r_squared(np.array([[1.0], [2.0], [3.0]]), np.array([[6.0], [4.0], [2.0]])).tolist()
    [1.0]
    """
    return pearson(measured, imputed) ** 2


def spearman(measured: np.ndarray, imputed: np.ndarray) -> np.ndarray:
    """Return the correlation of the ranks of every column, ties at their mean rank, shape (G,).

    Examples
    --------
    >>> spearman(np.array([[1.0], [2.0], [9.0]]), np.array([[1.0], [3.0], [4.0]])).tolist()
    [1.0]
    """
    from scipy.stats import rankdata

    left, right = _checked(measured, imputed)
    return pearson(rankdata(left, axis=0), rankdata(right, axis=0))


def z_rmse(measured: np.ndarray, imputed: np.ndarray) -> np.ndarray:
    """Return the root mean squared difference of z-scored columns, shape (G,).

    As Li et al. (Nat. Methods 19, 2022) compare platforms of different depth; a constant column has
    z-scores 0.

    Examples
    --------
    >>> z_rmse(np.array([[1.0], [2.0], [3.0]]), np.array([[10.0], [20.0], [30.0]])).round(6).tolist()
    [0.0]
    """
    left, right = _checked(measured, imputed)
    return np.sqrt(((_z_scores(left) - _z_scores(right)) ** 2).mean(axis=0))


def _z_scores(values: np.ndarray) -> np.ndarray:
    spread = values.std(axis=0)
    return np.where(spread > 0, (values - values.mean(axis=0)) / np.where(spread > 0, spread, 1.0), 0.0)


def jensen_shannon(left: np.ndarray, right: np.ndarray, *, axis: int = 1) -> np.ndarray:
    """Return the Jensen-Shannon divergence in bits, between 0 and 1.

    Parameters
    ----------
    left, right
        Non-negative, the same shape (n, K).
    axis
        Along which a distribution lies: 1 compares rows (proportions of spots), 0 columns (where a gene is
        found). Each is divided by its sum first; where a sum is 0 the divergence is NaN.

    Returns
    -------
    divergence
        float64, shape (n,) or (K,).

    Examples
    --------
    >>> jensen_shannon(np.array([[1.0, 0], [1, 1]]), np.array([[0.0, 1], [2, 2]])).tolist()
    [1.0, 0.0]
    """
    left, right = _checked(left, right)
    with np.errstate(invalid="ignore"):
        p = left / left.sum(axis=axis, keepdims=True)
        q = right / right.sum(axis=axis, keepdims=True)
    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        own = np.where(p == 0, 0.0, p * np.log2(p / middle)) + np.where(q == 0, 0.0, q * np.log2(q / middle))
    return np.maximum(own.sum(axis=axis) / 2, 0.0)


def structural_similarity(measured: np.ndarray, imputed: np.ndarray) -> np.ndarray:
    """Return the structural similarity of every column with its counterpart, each over its maximum.

    ``(2 mx my + c1)(2 sxy + c2) / ((mx^2 + my^2 + c1)(sx^2 + sy^2 + c2))`` over all rows at once, as in Li et
    al. (Nat. Methods 19, 2022); shape (G,).

    Examples
    --------
    >>> counts = np.array([[1.0], [2.0], [4.0]])
    >>> structural_similarity(counts, 7 * counts).round(6).tolist()
    [1.0]
    """
    left, right = (_to_unit(values) for values in _checked(measured, imputed))
    x, y = left.mean(axis=0), right.mean(axis=0)
    together = (left * right).mean(axis=0) - x * y
    means = (2 * x * y + _C1) / (x**2 + y**2 + _C1)
    return means * (2 * together + _C2) / (left.var(axis=0) + right.var(axis=0) + _C2)


def _to_unit(values: np.ndarray) -> np.ndarray:
    highest = values.max(axis=0)
    return values / np.where(highest > 0, highest, 1.0)


def gene_scores(measured: np.ndarray, imputed: np.ndarray) -> dict[str, np.ndarray]:
    """Return all scores of :data:`GENE_SCORES` by gene.

    Parameters
    ----------
    measured
        Counts of genes that were held out, shape (n, G).
    imputed
        What a model says of them, shape (n, G), any scale.

    Notes
    -----
    O(n G log n) for the ranks; a few float64 arrays of shape (n, G): hand over some genes at a time.

    Examples
    --------
    >>> counts = np.array([[1.0], [2.0], [4.0]])
    >>> scores = gene_scores(counts, 2 * counts)
    >>> {name: round(float(values[0]), 6) for name, values in scores.items()}
    {'r2': 1.0, 'pearson': 1.0, 'spearman': 1.0, 'rmse': 0.0, 'js': 0.0, 'ssim': 1.0}
    """
    return {
        "r2": r_squared(measured, imputed),
        "pearson": pearson(measured, imputed),
        "spearman": spearman(measured, imputed),
        "rmse": z_rmse(measured, imputed),
        "js": jensen_shannon(measured, imputed, axis=0),
        "ssim": structural_similarity(measured, imputed),
    }


def predicted_zeros(means: np.ndarray) -> np.ndarray:
    """Return the share of rows in which Poisson counts of these means are 0, by column.

    Parameters
    ----------
    means
        Shape (n, G).

    Examples
    --------
    >>> predicted_zeros(np.array([[0.0, 1.0], [0.0, 2.0]])).round(3).tolist()
    [1.0, 0.252]
    """
    return np.exp(-np.asarray(means, dtype=np.float64)).mean(axis=0)


def poisson_ceiling(means: np.ndarray) -> np.ndarray:
    """Return the squared correlation that the true means reach with Poisson counts, in expectation.

    ``var(mean) / (var(mean) + average mean)`` by column: no imputation is expected to pass it.

    Examples
    --------
    >>> poisson_ceiling(np.array([[1.0], [3.0]])).tolist()
    [0.3333333333333333]
    """
    means = np.asarray(means, dtype=np.float64)
    spread, noise = means.var(axis=0), means.mean(axis=0)
    return np.divide(spread, spread + noise, out=np.zeros(means.shape[1]), where=spread + noise > 0)


def spot_baselines(
    coarse: np.ndarray, spot_of: np.ndarray, totals: np.ndarray, neighbours: np.ndarray
) -> dict[str, np.ndarray]:
    """Impute genes without a model, four ways.

    Parameters
    ----------
    coarse
        Counts of the genes in the coarse spots, shape (n_spots, G).
    spot_of
        Coarse spot of each cell, -1 for none, shape (n,).
    totals
        Counts of each cell over its panel, shape (n,).
    neighbours
        Nearest cells of each cell, itself included, shape (n, k).

    Returns
    -------
    baselines
        ``"A"``: the counts of the cell's spot. ``"B"``: A times the cell's total. ``"C"`` and ``"D"``: A
        and B averaged over the cell's nearest neighbours (baselines A to D of Zheng, Sarkar and Raphael,
        Genome Res. 2025). Each float64, shape (n, G); a cell with no spot has 0.

    Examples
    --------
    >>> cells_near = np.array([[0, 1], [1, 0]])
    >>> found = spot_baselines(np.array([[3.0], [5.0]]), np.array([0, 1]), np.array([10.0, 20.0]), cells_near)
    >>> {name: values.ravel().tolist() for name, values in found.items()}
    {'A': [3.0, 5.0], 'B': [30.0, 100.0], 'C': [4.0, 4.0], 'D': [65.0, 65.0]}
    """
    linked = np.asarray(spot_of) >= 0
    own = np.where(linked[:, None], np.asarray(coarse, dtype=np.float64)[np.maximum(spot_of, 0)], 0.0)
    scaled = own * np.asarray(totals, dtype=np.float64)[:, None]
    return {
        "A": own,
        "B": scaled,
        "C": _averaged(own, neighbours),
        "D": _averaged(scaled, neighbours),
    }


def _averaged(values: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
    out = np.zeros_like(values)
    for column in range(neighbours.shape[1]):
        out += values[neighbours[:, column]]
    return out / neighbours.shape[1]
