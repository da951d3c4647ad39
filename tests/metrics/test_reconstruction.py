import numpy as np
import pytest
import scipy.sparse

from atlasnmf.errors import BadInput
from atlasnmf.metrics.reconstruction import reconstruction_correlation, reconstruction_sums


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    patterns = rng.gamma(1.0, size=(300, 4)).astype(np.float32)
    coefficients = rng.gamma(0.5, size=(9, 4))
    values = rng.poisson(patterns @ coefficients.T).astype(np.float32)
    return values, patterns, coefficients


@pytest.mark.parametrize("layout", [np.asarray, scipy.sparse.csr_matrix, scipy.sparse.csr_array])
def test_it_is_the_plain_correlation_whatever_the_parts(case, layout):
    values, patterns, coefficients = case
    sums = reconstruction_sums(layout(values[:100]), patterns[:100])
    for start, stop in ((100, 101), (101, 300)):
        sums = sums + reconstruction_sums(layout(values[start:stop]), patterns[start:stop])
    fitted = patterns.astype(np.float64) @ coefficients.T
    expected = [np.corrcoef(values[:, g], fitted[:, g])[0, 1] for g in range(9)]
    np.testing.assert_allclose(reconstruction_correlation(sums, coefficients), expected, atol=1e-10)


def test_genes_without_a_correlation_have_none(case):
    values, patterns, coefficients = case
    values[:, 0] = 3.3  # constant
    coefficients[1] = 0.0  # nothing reconstructed
    coefficients[2] = np.nan  # outside the model
    found = reconstruction_correlation(reconstruction_sums(values, patterns), coefficients)
    assert np.isnan(found[:3]).all()
    assert (found[3:] > 0.3).all()
    with pytest.raises(BadInput, match="pass the same"):
        reconstruction_sums(values[1:], patterns)
