import itertools

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as reference

from atlasnmf import metrics
from atlasnmf.errors import BadInput


def two_labellings(seed, n=60):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 4, n), rng.integers(0, 3, n)


@pytest.mark.parametrize("seed", range(3))
def test_adjusted_rand_equals_pair_counting(seed):
    true, pred = two_labellings(seed)
    pairs = [(true[i] == true[j], pred[i] == pred[j]) for i, j in itertools.combinations(range(len(true)), 2)]
    both = sum(a and b for a, b in pairs)
    in_true, in_pred = sum(a for a, _ in pairs), sum(b for _, b in pairs)
    expected = in_true * in_pred / len(pairs)
    naive = (both - expected) / ((in_true + in_pred) / 2 - expected)
    assert metrics.adjusted_rand(true, pred) == pytest.approx(naive)


@pytest.mark.parametrize("seed", range(3))
def test_nmi_equals_the_formula(seed):
    true, pred = two_labellings(seed)
    joint = np.histogram2d(true, pred, bins=(4, 3))[0] / len(true)
    rows, columns = joint.sum(1), joint.sum(0)
    seen = joint > 0
    mutual = (joint[seen] * np.log(joint[seen] / np.outer(rows, columns)[seen])).sum()

    def entropy(p):
        return -(p * np.log(p)).sum()

    naive = 2 * mutual / (entropy(rows) + entropy(columns))
    assert metrics.normalised_mutual_information(true, pred) == pytest.approx(naive)
    conditional = -(joint[seen] * np.log((joint / columns)[seen])).sum()
    assert metrics.homogeneity(true, pred) == pytest.approx(1 - conditional / entropy(rows))
    assert metrics.completeness(true, pred) == pytest.approx(metrics.homogeneity(pred, true))
    assert metrics.v_measure(true, pred) == pytest.approx(naive)


def test_missing_labels_are_left_out():
    true = pd.Series(["L1", None, "WM", "L1", "L2", "WM"], dtype="category")
    pred = np.array([0.0, 1, 2, np.nan, 1, 2])
    assert metrics.adjusted_rand(true, pred) == pytest.approx(
        reference.adjusted_rand_score([0, 1, 2, 1], [0, 2, 1, 2])
    )
    assert metrics.adjusted_rand(true, pred) == 1.0


def test_labels_that_do_not_pair_are_refused():
    with pytest.raises(BadInput, match="same order"):
        metrics.adjusted_rand([1, 2], [1, 2, 3])
    with pytest.raises(BadInput, match="no spot has both"):
        metrics.normalised_mutual_information([None, 1], [1, None])


def test_silhouette_equals_the_formula():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 40)
    points = rng.normal(size=(40, 3)) + labels[:, None]
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    widths = []
    for i in range(40):
        same = labels == labels[i]
        a = distance[i, same].sum() / (same.sum() - 1)
        b = min(distance[i, labels == other].mean() for other in set(labels) - {labels[i]})
        widths.append((b - a) / max(a, b))
    assert metrics.silhouette(points, labels) == pytest.approx(np.mean(widths))


@pytest.mark.parametrize("case", ["far away", "alone", "at one place", "many"])
def test_silhouette_equals_scikit_learn(case):
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 4, 700 if case == "many" else 90)
    points = rng.normal(size=(len(labels), 5)) + labels[:, None]
    if case == "far away":
        points += 1e4
    if case == "alone":
        labels[0] = 9
    if case == "at one place":
        points = np.round(points / 4)
    expected = reference.silhouette_score(points, labels)
    # distances of equal points are 1e-8 rather than 0
    assert metrics.silhouette(points, labels) == pytest.approx(expected, abs=1e-7)


def test_silhouette_leaves_out_missing_rows_and_samples_by_seed():
    rng = np.random.default_rng(1)
    labels = pd.Categorical.from_codes(rng.integers(0, 2, 4000), ["a", "b"])
    points = rng.normal(size=(4000, 2)) + labels.codes[:, None]
    whole = metrics.silhouette(points, labels)
    sampled = metrics.silhouette(points, labels, n_sample=1500, random_state=3)
    assert sampled == metrics.silhouette(points, labels, n_sample=1500, random_state=3)
    assert sampled != metrics.silhouette(points, labels, n_sample=1500, random_state=4)
    # The width of a spot has a standard deviation near 0.3 here: four standard errors of 1500 draws.
    assert abs(sampled - whole) < 4 * 0.3 / np.sqrt(1500)
    with_gaps = np.vstack([points, np.full((5, 2), np.nan), points[:3]])
    names = [*labels.tolist(), *["a"] * 5, *[None] * 3]
    assert metrics.silhouette(with_gaps, names) == pytest.approx(whole)


def test_silhouette_of_one_label_is_undefined():
    assert np.isnan(metrics.silhouette(np.zeros((4, 2)), ["a"] * 4))
    with pytest.raises(BadInput, match="labels"):
        metrics.silhouette(np.zeros((4, 2)), ["a"] * 3)
