import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.metrics import r2_score
from sklearn.neighbors import KNeighborsRegressor

from atlasnmf.features.fill import NOTHING_HIDDEN, fill_missing, hidden_score


def a_gene(n=400, missing=0.2, seed=0):
    rng = np.random.default_rng(seed)
    coords = rng.uniform(0, 10, (n, 3))
    values = (np.sin(coords[:, 0]) + 2 + 0.1 * rng.normal(size=n)).astype(np.float32)
    values[rng.uniform(size=n) < missing] = np.nan
    return values, coords


def test_missing_values_are_filled_and_measured_ones_kept():
    values, coords = a_gene()
    known = ~np.isnan(values)
    before = values.copy()
    filled = fill_missing(values, coords)
    model = KNeighborsRegressor(6, weights="distance").fit(coords[known], values[known].astype(np.float64))
    assert filled.dtype == np.float32
    np.testing.assert_array_equal(filled[known], values[known])
    np.testing.assert_allclose(filled[~known], model.predict(coords[~known]), rtol=1e-6)
    np.testing.assert_array_equal(values, before)


def test_the_score_is_that_of_hidden_values():
    values, coords = a_gene()
    score = hidden_score(values, coords, np.random.default_rng(5), share=0.1)
    measured = np.flatnonzero(~np.isnan(values))
    hidden = np.sort(np.random.default_rng(5).choice(measured, round(0.1 * len(measured)), replace=False))
    seen = values.astype(np.float64)
    seen[hidden] = np.nan
    filled = fill_missing(seen, coords)[hidden]
    assert score.n == len(hidden)
    assert score.r2 == pytest.approx(r2_score(values[hidden], filled), abs=1e-6)
    assert score.correlation == pytest.approx(pearsonr(values[hidden], filled)[0], abs=1e-6)
    assert score.mean_error == pytest.approx(np.abs(values[hidden] - filled).mean(), abs=1e-6)
    assert 0.5 < score.r2 < 1


def test_scores_add_up_over_genes():
    parts, y, z, centres = NOTHING_HIDDEN, [], [], []
    for seed in range(3):
        values, coords = a_gene(seed=seed)
        parts = parts + hidden_score(values * (seed + 1), coords, np.random.default_rng(seed))
        measured = np.flatnonzero(~np.isnan(values))
        n_hidden = round(0.05 * len(measured))
        hidden = np.sort(np.random.default_rng(seed).choice(measured, n_hidden, replace=False))
        seen = values * (seed + 1)
        truth = seen[hidden].astype(np.float64)
        seen[hidden] = np.nan
        y.append(truth)
        z.append(fill_missing(seen, coords)[hidden])
        centres.append(np.full(n_hidden, truth.mean()))
    y, z, centres = map(np.concatenate, (y, z, centres))
    expected = 1 - ((y - z) ** 2).sum() / ((y - centres) ** 2).sum()
    assert parts.r2 == pytest.approx(expected, abs=1e-6)
    assert parts.correlation == pytest.approx(pearsonr(y, z)[0], abs=1e-6)


def test_nothing_is_hidden_when_nothing_can_be():
    values = np.array([np.nan, 1.0, np.nan])
    coords = np.arange(3.0)[:, None]
    assert hidden_score(values, coords, np.random.default_rng(0)).n == 0
    assert hidden_score(np.ones(3), coords, np.random.default_rng(0), share=0.0).n == 0
    assert np.isnan(NOTHING_HIDDEN.r2)
    assert np.isnan(NOTHING_HIDDEN.mean_error)
    # two measured values: one is hidden, never both
    assert hidden_score(np.array([1.0, 2.0]), coords[:2], np.random.default_rng(0), share=0.9).n == 1
