"""A sweep against the plain update, and against scikit-learn's coordinate descent."""

from __future__ import annotations

import warnings

import numpy as np
import pytest


def plain_sweep(factor, gram, cross):
    factor, violation = factor.astype(np.float64).copy(), 0.0
    for k in range(factor.shape[1]):
        if gram[k, k] == 0:
            continue
        slope = factor @ gram[:, k] - cross[:, k]
        violation += np.abs(np.where(factor[:, k] > 0, slope, np.minimum(slope, 0))).sum()
        factor[:, k] = np.maximum(factor[:, k] - slope / gram[k, k], 0)
    return factor, violation


def problem(n, width, dtype, seed=0):
    rng = np.random.default_rng(seed)
    factor, other = rng.gamma(0.5, 1, (n, width)), rng.gamma(0.5, 1, (40, width))
    factor[rng.random(factor.shape) < 0.3] = 0
    x = rng.poisson(factor @ other.T) + rng.random((n, 40))
    return factor.astype(dtype), (other.T @ other).astype(dtype), (x @ other).astype(dtype)


@pytest.mark.parametrize("n", [1, 127, 300])
@pytest.mark.parametrize("width", [1, 3, 4, 9])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-4), (np.float64, 1e-11)])
def test_sweep(side, n, width, dtype, tolerance):
    factor, gram, cross = problem(n, width, dtype)
    expected, away = plain_sweep(factor, gram, cross)
    swept, violation = side.hals.hals_sweep(factor, gram, cross)
    assert swept.dtype == dtype
    np.testing.assert_allclose(swept, expected, rtol=tolerance, atol=tolerance * expected.max())
    assert violation == pytest.approx(away, rel=max(tolerance, 1e-10))


def test_a_dead_column_stays(side):
    factor, gram, cross = problem(20, 3, np.float64)
    gram[1], gram[:, 1] = 0, 0
    swept, _ = side.hals.hals_sweep(factor, gram, cross)
    np.testing.assert_array_equal(swept[:, 1], factor[:, 1])


def test_a_row_depends_on_itself_alone(side):
    factor, gram, cross = problem(300, 5, np.float32)
    whole, _ = side.hals.hals_sweep(factor, gram, cross)
    part, _ = side.hals.hals_sweep(factor[37:201], gram, cross[37:201])
    np.testing.assert_array_equal(part, whole[37:201])


def test_shapes(side):
    with pytest.raises(ValueError, match="do not fit"):
        side.hals.hals_sweep(np.ones((3, 2)), np.eye(3), np.ones((3, 2)))


def test_equal_to_coordinate_descent_of_scikit_learn(side):
    from sklearn.decomposition import non_negative_factorization

    rng = np.random.default_rng(2)
    x = rng.poisson(rng.gamma(0.5, 1, (90, 5)) @ rng.gamma(0.5, 1, (5, 40))).astype(float)
    first, second = rng.random((90, 5)), rng.random((40, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        w, h, _ = non_negative_factorization(
            x, W=first.copy(), H=second.T.copy(), n_components=5, init="custom", max_iter=30, tol=0
        )
    for _ in range(30):
        first, _ = side.hals.hals_sweep(first, second.T @ second, x @ second)
        second, _ = side.hals.hals_sweep(second, first.T @ first, x.T @ first)
    np.testing.assert_allclose(first, w, atol=1e-8)
    np.testing.assert_allclose(second.T, h, atol=1e-8)
