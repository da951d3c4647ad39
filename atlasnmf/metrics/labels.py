"""How well a labelling agrees with another, and how well an embedding separates one."""

from __future__ import annotations

from typing import Any

import numpy as np

from atlasnmf.errors import BadInput
from atlasnmf.seeds import rng_for

__all__ = [
    "adjusted_rand",
    "completeness",
    "homogeneity",
    "label_codes",
    "normalised_mutual_information",
    "silhouette",
    "v_measure",
]


def label_codes(labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Give labels numbers by first appearance; missing ones (None, NaN, NA) get -1.

    Parameters
    ----------
    labels
        Any sequence, array, Series or Categorical of n labels.

    Returns
    -------
    codes, names
        int64 of shape (n,) and the distinct labels, ``names[codes]`` being the labels.

    Examples
    --------
    >>> codes, names = label_codes(["L1", None, "WM", "L1"])
    >>> codes.tolist(), names.tolist()
    ([0, -1, 1, 0], ['L1', 'WM'])
    """
    import pandas as pd

    values = labels if isinstance(labels, pd.Series | pd.Categorical | pd.Index) else pd.Series(labels)
    codes, names = pd.factorize(values)
    return codes.astype(np.int64), np.asarray(names)


def _paired_codes(labels_true: Any, labels_pred: Any) -> tuple[np.ndarray, np.ndarray]:
    true, _ = label_codes(labels_true)
    pred, _ = label_codes(labels_pred)
    if len(true) != len(pred):
        raise BadInput(
            f"{len(true)} true and {len(pred)} found labels; pass one of each a spot, in the same order"
        )
    both = (true >= 0) & (pred >= 0)
    if not both.any():
        raise BadInput("no spot has both a true and a found label; check the label column")
    return true[both], pred[both]


def adjusted_rand(labels_true: Any, labels_pred: Any) -> float:
    """Measure how far two labellings agree on which pairs of spots belong together.

    ``ARI = (RI - E[RI]) / (max RI - E[RI])``: 1 for equal partitions, 0 on average for independent ones.
    Spots with a missing label on either side are left out.

    Parameters
    ----------
    labels_true, labels_pred
        Labels of n spots, of any type.

    Raises
    ------
    BadInput
        The lengths differ, or no spot has both labels.

    References
    ----------
    Hubert and Arabie, "Comparing partitions", J. Classification 2 (1985).

    Examples
    --------
    >>> adjusted_rand(["a", "a", "b", None], [2, 2, 0, 1])
    1.0
    """
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(*_paired_codes(labels_true, labels_pred)))


def normalised_mutual_information(labels_true: Any, labels_pred: Any) -> float:
    """Measure the information two labellings share: ``NMI = 2 I(U; V) / (H(U) + H(V))``, in [0, 1].

    Spots with a missing label on either side are left out. Parameters and errors as
    :func:`adjusted_rand`.

    Examples
    --------
    >>> round(normalised_mutual_information([0, 0, 1, 1], ["x", "x", "y", "y"]), 6)
    1.0
    """
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(*_paired_codes(labels_true, labels_pred)))


def homogeneity(labels_true: Any, labels_pred: Any) -> float:
    """Measure whether found groups hold spots of one true label only: ``1 - H(true | found) / H(true)``.

    Spots with a missing label on either side are left out. Parameters and errors as
    :func:`adjusted_rand`.

    Examples
    --------
    >>> round(homogeneity(["a", "a", "b", "b"], [0, 0, 1, 2]), 3)
    1.0
    """
    from sklearn.metrics import homogeneity_score

    return float(homogeneity_score(*_paired_codes(labels_true, labels_pred)))


def completeness(labels_true: Any, labels_pred: Any) -> float:
    """Measure whether a true label stays in one found group: ``1 - H(found | true) / H(found)``.

    Spots with a missing label on either side are left out. Parameters and errors as
    :func:`adjusted_rand`.

    Examples
    --------
    >>> round(completeness(["a", "a", "b", "b"], [0, 0, 1, 2]), 3)
    0.667
    """
    from sklearn.metrics import completeness_score

    return float(completeness_score(*_paired_codes(labels_true, labels_pred)))


def v_measure(labels_true: Any, labels_pred: Any) -> float:
    """Return the harmonic mean of :func:`homogeneity` and :func:`completeness`.

    References
    ----------
    Rosenberg and Hirschberg, "V-measure", EMNLP-CoNLL (2007).

    Examples
    --------
    >>> round(v_measure(["a", "a", "b", "b"], [0, 0, 1, 2]), 3)
    0.8
    """
    from sklearn.metrics import v_measure_score

    return float(v_measure_score(*_paired_codes(labels_true, labels_pred)))


def silhouette(embedding: np.ndarray, labels: Any, *, n_sample: int = 10_000, random_state: int = 0) -> float:
    """Measure how well labels separate in an embedding: the average silhouette width (ASW).

    ``s_i = (b_i - a_i) / max(a_i, b_i)`` with a_i the mean Euclidean distance to the spots of the same
    label and b_i that to the nearest other label; ASW is the mean of s_i, in [-1, 1].

    Parameters
    ----------
    embedding
        Shape (n, p). Rows with a value that is not finite are left out.
    labels
        Labels of the n spots; spots without one are left out.
    n_sample
        Spots drawn, without replacement, when there are more: the cost is ``n_sample**2 * p``, and at the
        default the standard error of a width near 0.1 is about 0.003.
    random_state
        Seed of the draw.

    Returns
    -------
    float
        NaN when fewer than two labels remain, or every spot has its own.

    Raises
    ------
    BadInput
        The lengths differ.

    References
    ----------
    Rousseeuw, "Silhouettes", J. Comput. Appl. Math. 20 (1987); used in INSPIRE, "Evaluation metrics".

    Examples
    --------
    >>> round(silhouette(np.array([[0.0], [0.1], [9.0], [9.1]]), ["a", "a", "b", "b"]), 3)
    0.989
    """
    embedding = np.asarray(embedding)
    codes, _ = label_codes(labels)
    if len(codes) != len(embedding):
        raise BadInput(f"{len(embedding)} rows of the embedding but {len(codes)} labels; pass one per spot")
    rows = np.flatnonzero((codes >= 0) & np.isfinite(embedding).all(axis=1))
    if len(rows) > n_sample:
        rows = np.sort(rng_for(random_state, "silhouette").choice(rows, n_sample, replace=False))
    names, groups = np.unique(codes[rows], return_inverse=True)
    if not 2 <= len(names) < len(rows):
        return float("nan")
    return float(_widths(embedding[rows].astype(np.float64), groups).mean())


def _widths(points: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Silhouette width of every point; distances are made 256 rows at a time and summed by group."""
    # Differences of squares below are accurate near the origin only.
    points = points - points.mean(axis=0)
    sizes = np.bincount(groups)
    member = np.zeros((len(points), len(sizes)))
    member[np.arange(len(points)), groups] = 1.0
    norms = np.einsum("ip,ip->i", points, points)
    widths = np.empty(len(points))
    for start in range(0, len(points), 256):
        rows = slice(start, start + 256)
        distance = points[rows] @ points.T
        distance *= -2.0
        distance += norms
        distance += norms[rows, None]
        np.maximum(distance, 0.0, out=distance)
        here = np.arange(len(distance))
        distance[here, start + here] = 0.0
        np.sqrt(distance, out=distance)
        sums, own = distance @ member, groups[rows]
        within = sums[here, own] / np.maximum(sizes[own] - 1, 1)
        means = sums / sizes
        means[here, own] = np.inf
        between = means.min(axis=1)
        larger = np.maximum(within, between)
        # A spot alone in its group has width 0, as has one of many at the same place.
        defined = (sizes[own] > 1) & (larger > 0)
        widths[rows] = np.where(defined, (between - within) / np.where(larger > 0, larger, 1.0), 0.0)
    return widths
