import tracemalloc

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

from atlasnmf.analysis.mixture import fit_mixture
from atlasnmf.errors import BadInput, BadOption
from atlasnmf.metrics import adjusted_rand


def blobs(seed, n=3000, n_groups=5, n_dims=6, apart=3.0):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, n_groups, n)
    centres = apart * rng.normal(size=(n_groups, n_dims))
    mixing = rng.normal(size=(n_dims, n_dims)) * 0.4 + np.eye(n_dims)
    return centres[groups] + rng.normal(size=(n, n_dims)) @ mixing, groups


@pytest.mark.parametrize("seed", range(3))
def test_the_fit_is_scikit_learns_optimum(seed):
    rows, _ = blobs(seed)
    fit = fit_mixture(rows, 5, tol=1e-9, max_iter=2000)
    reference = GaussianMixture(
        5, covariance_type="tied", means_init=fit.means, tol=1e-9, max_iter=2000, random_state=0
    ).fit(rows)
    assert fit.log_likelihood == pytest.approx(reference.score(rows), abs=1e-5)
    np.testing.assert_allclose(fit.means, reference.means_, atol=2e-2)
    np.testing.assert_allclose(fit.covariance, reference.covariances_, atol=2e-2)
    assert adjusted_rand(fit.predict(rows), reference.predict(rows)) > 0.999


def test_far_from_the_origin_nothing_is_lost():
    rows, _ = blobs(1)
    near, far = fit_mixture(rows, 5), fit_mixture(rows + 1e5, 5)
    np.testing.assert_allclose(far.covariance, near.covariance, rtol=1e-6, atol=1e-6)
    assert adjusted_rand(far.predict(rows + 1e5), near.predict(rows)) == 1


def test_same_seed_same_bits_and_groups_found():
    rows, groups = blobs(2)
    first, second = fit_mixture(rows, 5, random_state=7), fit_mixture(rows, 5, random_state=7)
    np.testing.assert_array_equal(first.means, second.means)
    assert adjusted_rand(groups, first.predict(rows)) > 0.95
    assert first.predict(rows[:0]).shape == (0,)


def test_rows_in_blocks_give_the_same_mixture(monkeypatch):
    rows, _ = blobs(4)
    whole = fit_mixture(rows, 5)
    monkeypatch.setattr("atlasnmf.analysis.mixture._MOST_ROWS", 256)
    cut = fit_mixture(rows, 5)
    np.testing.assert_allclose(cut.means, whole.means, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(cut.covariance, whole.covariance, rtol=1e-9, atol=1e-9)
    assert (cut.n_iter, cut.log_likelihood) == (whole.n_iter, pytest.approx(whole.log_likelihood, abs=1e-12))
    np.testing.assert_array_equal(cut.predict(rows), whole.predict(rows))


def test_memory_does_not_grow_with_rows_times_components(monkeypatch):
    monkeypatch.setattr("atlasnmf.analysis.mixture._MOST_ROWS", 1024)
    rows = np.random.default_rng(0).normal(size=(20_000, 2))
    tracemalloc.start()
    fit_mixture(rows, 100, n_init=1, max_iter=2).predict(rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 14e6  # the shares of all rows alone would be 16 MB


def test_degenerate_data_is_grouped():
    rows = np.repeat([[0.0, 1.0, 0.0], [0.0, 2.0, 0.0]], 20, axis=0)
    fit = fit_mixture(rows, 4)
    assert np.isfinite(fit.means).all()
    assert adjusted_rand(np.repeat([0, 1], 20), fit.predict(rows)) == 1
    assert set(fit_mixture(rows, 1).predict(rows)) == {0}


def test_what_cannot_be_fitted_is_refused():
    rows, _ = blobs(0, n=20)
    with pytest.raises(BadInput, match="too few for 21 domains"):
        fit_mixture(rows, 21)
    with pytest.raises(BadOption, match="at least one"):
        fit_mixture(rows, 0)
    rows[3, 2] = np.nan
    with pytest.raises(BadInput, match="not finite"):
        fit_mixture(rows, 2)
