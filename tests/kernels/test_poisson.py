"""The Poisson term at the non-zeros against the dense formula, and its gradients against differences."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("index_dtype", [np.uint16, np.int32])
def test_value_and_gradients(side, random_csr, dtype, index_dtype):
    indptr, indices, data, dense = random_csr(40, 13, 0.3, 0, dtype=dtype, index_dtype=index_dtype)
    rng = np.random.default_rng(1)
    weights, loadings = rng.random((40, 5)).astype(dtype), rng.random((13, 5)).astype(dtype)
    value, of_weights, of_loadings = side.poisson.log_likelihood(
        indptr, indices, data, weights, loadings, 1e-6
    )
    rates = weights.astype(float) @ loadings.T.astype(float) + 1e-6
    tolerance = 1e-4 if dtype is np.float32 else 1e-10
    assert value == pytest.approx((dense * np.log(rates)).sum(), rel=tolerance)
    assert of_weights.dtype == of_loadings.dtype == dtype
    np.testing.assert_allclose(of_weights, dense / rates @ loadings, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(of_loadings, (dense / rates).T @ weights, rtol=tolerance, atol=tolerance)


def test_column_sums(side, random_csr):
    _, indices, data, dense = random_csr(40, 13, 0.3, 0, dtype=np.float32)
    sums = side.poisson.column_sums(indices, data, 13)
    assert sums.dtype == np.float32
    np.testing.assert_allclose(sums, dense.sum(0), rtol=1e-6)


def test_rows_without_counts(side):
    none = np.zeros(0, np.int32), np.zeros(0, np.float32)
    weights, loadings = np.ones((3, 2), np.float32), np.ones((4, 2), np.float32)
    value, *gradients = side.poisson.log_likelihood(np.zeros(4, np.int64), *none, weights, loadings, 1e-6)
    assert value == 0
    assert not any(gradient.any() for gradient in gradients)
    np.testing.assert_array_equal(side.poisson.column_sums(*none, 4), np.zeros(4))
