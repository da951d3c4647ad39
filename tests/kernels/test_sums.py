import numpy as np
import pytest
import scipy.sparse


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_gene_moments(side, random_csr, dtype):
    indptr, indices, data, dense = random_csr(50, 30, 0.3, 0, dtype=dtype)
    sums, squares, nonzero = side.moments.gene_moments(indptr, indices, data, 30)
    np.testing.assert_array_equal(sums, dense.sum(0))
    np.testing.assert_array_equal(squares, (dense**2).sum(0))
    np.testing.assert_array_equal(nonzero, (dense != 0).sum(0))


def test_clipped_moments(side, random_csr):
    indptr, indices, data, dense = random_csr(50, 30, 0.5, 0)
    clip = np.linspace(0, 8, 30)
    sums, squares = side.moments.clipped_moments(indptr, indices, data, 30, clip)
    np.testing.assert_allclose(sums, np.minimum(dense, clip).sum(0), rtol=1e-12)
    np.testing.assert_allclose(squares, (np.minimum(dense, clip) ** 2).sum(0), rtol=1e-12)
    with pytest.raises(ValueError, match="shape"):
        side.moments.clipped_moments(indptr, indices, data, 30, clip[:-1])


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_log_normalise(side, random_csr, dtype):
    indptr, _, data, _ = random_csr(50, 30, 0.5, 0, dtype=dtype)
    data[::7] = 900
    totals = np.random.default_rng(0).integers(0, 4, 50) * 997
    out = side.lognorm.log_normalise(indptr, data, totals, 1e4)
    row = np.repeat(np.arange(50), np.diff(indptr))
    with np.errstate(divide="ignore"):
        naive = np.where(totals[row] > 0, np.log1p(1e4 * data / totals[row]), 0)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, naive, rtol=1e-6)
    with pytest.raises(ValueError, match="as many totals"):
        side.lognorm.log_normalise(indptr, data, totals[1:], 1e4)


def test_log_normalise_fractions(side):
    values = np.array([0.25, 63.0, 64.0, 0.0, 1e6], dtype=np.float32)
    out = side.lognorm.log_normalise(np.array([0, 5]), values, np.array([10.0]), 100)
    np.testing.assert_allclose(out, np.log1p(10 * values.astype(float)), rtol=1e-6)


@pytest.mark.parametrize("p", [1, 7, 32, 200])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("data_dtype", [np.uint16, np.float32])
def test_products(side, random_csr, p, dtype, data_dtype):
    indptr, indices, data, dense = random_csr(1100, 60, 0.3, 0, dtype=data_dtype)
    rng = np.random.default_rng(1)
    right, left = rng.normal(size=(60, p)).astype(dtype), rng.normal(size=(1100, p)).astype(dtype)
    tolerance = {"rtol": 1e-4, "atol": 1e-3} if dtype == np.float32 else {"rtol": 1e-10, "atol": 1e-10}
    product = side.products.csr_dot(indptr, indices, data, right)
    assert product.dtype == dtype
    np.testing.assert_allclose(product, dense @ right, **tolerance)
    added = side.products.csr_dot(indptr, indices, data, right, out=np.ones_like(product))
    np.testing.assert_allclose(added, 1 + dense @ right, **tolerance)
    transposed = side.products.csr_t_dot(indptr, indices, data, left, 60)
    assert transposed.dtype == np.float64
    np.testing.assert_allclose(transposed, dense.T @ left.astype(float), rtol=1e-10, atol=1e-10)
    quick = side.products.csr_t_dot(indptr, indices, data, left, 60, accumulate=np.float32)
    assert quick.dtype == np.float32
    np.testing.assert_allclose(quick, dense.T @ left, rtol=1e-4, atol=2e-3)


def test_products_refuse(side, random_csr):
    indptr, indices, data, _ = random_csr(10, 6, 0.3, 0)
    with pytest.raises(ValueError, match="float32 or float64"):
        side.products.csr_dot(indptr, indices, data, np.ones((6, 2), dtype=int))
    with pytest.raises(ValueError, match="cannot be added"):
        side.products.csr_dot(indptr, indices, data, np.ones((6, 2)), out=np.zeros((9, 2)))
    with pytest.raises(ValueError, match="as many dense rows"):
        side.products.csr_t_dot(indptr, indices, data, np.ones((9, 2)), 6)


@pytest.mark.parametrize("n_cols", [1, 63, 64, 65, 300])
def test_smooth_rows(side, random_csr, n_cols):
    x_indptr, x_indices, x_data, x_dense = random_csr(25, n_cols, 0.2, 0)
    graph = scipy.sparse.random(12, 25, density=0.3, format="csr", random_state=1, dtype=np.float32)
    parts = (graph.indptr.astype(np.int64), graph.indices, graph.data)
    indptr, indices, data = side.smooth.smooth_rows(*parts, x_indptr, x_indices, x_data, n_cols)
    assert (indptr.dtype, indices.dtype, data.dtype) == (np.int64, np.uint16, np.float32)
    out = scipy.sparse.csr_matrix((data, indices.astype(np.int32), indptr), shape=(12, n_cols))
    assert out.has_canonical_format
    np.testing.assert_allclose(out.toarray(), graph.toarray() @ x_dense, rtol=1e-5, atol=1e-6)
    pattern = (graph.toarray() != 0).astype(int) @ (x_dense != 0)
    np.testing.assert_array_equal(out.toarray() != 0, pattern > 0)


@pytest.mark.parametrize("p", [3, 130])
def test_smooth_dense(side, p):
    graph = scipy.sparse.random(12, 25, density=0.3, format="csr", random_state=1, dtype=np.float32)
    parts = (graph.indptr.astype(np.int64), graph.indices, graph.data)
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(25, p)).astype(np.float32), rng.normal(size=(12, p)).astype(np.float32)
    np.testing.assert_allclose(side.smooth.smooth_dense(*parts, z), graph.toarray() @ z, rtol=1e-4, atol=1e-5)
    back = side.smooth.smooth_dense_transposed(*parts, y, 25)
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, graph.toarray().T @ y, rtol=1e-4, atol=1e-5)
