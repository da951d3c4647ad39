import numpy as np
import pytest
import scipy.sparse

from atlasnmf import metrics
from atlasnmf.errors import BadInput
from atlasnmf.schema import Csr


def random_graph(seed, n=40):
    rng = np.random.default_rng(seed)
    dense = rng.uniform(size=(n, n)) * (rng.uniform(size=(n, n)) < 0.2)
    return dense, Csr.from_scipy(scipy.sparse.csr_matrix(dense))


def naive_moran(z, dense):
    dense = dense - np.diag(np.diag(dense))
    z = z - z.mean()
    return len(z) / dense.sum() * (z @ dense @ z) / (z @ z)


@pytest.mark.parametrize("seed", range(3))
def test_moran_equals_the_dense_formula(seed):
    dense, graph = random_graph(seed)
    values = np.random.default_rng(seed + 10).normal(size=(40, 3)) + 5
    expected = [naive_moran(values[:, k], dense) for k in range(3)]
    np.testing.assert_allclose(metrics.morans_i(values, graph), expected, rtol=1e-10)
    assert metrics.morans_i(values[:, 0], graph).shape == ()


def test_missing_spots_leave_with_their_edges():
    dense, graph = random_graph(3)
    values = np.random.default_rng(4).normal(size=40)
    values[[3, 17, 30]] = np.nan
    kept = np.isfinite(values)
    expected = naive_moran(values[kept], dense[np.ix_(kept, kept)])
    np.testing.assert_allclose(metrics.morans_i(values, graph), expected, rtol=1e-10)


def test_undefined_cases_are_nan():
    _, graph = random_graph(5)
    assert np.isnan(metrics.morans_i(np.full(40, 0.1), graph))
    assert np.isnan(metrics.morans_i(np.full(40, np.nan), graph))
    empty = Csr(np.zeros(41, np.int64), np.zeros(0, np.int32), np.zeros(0), 40)
    assert np.isnan(metrics.morans_i(np.arange(40.0), empty))
    with pytest.raises(BadInput, match="39 values"):
        metrics.morans_i(np.arange(39.0), graph)
