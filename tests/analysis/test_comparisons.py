import numpy as np
import pytest
from sklearn.cluster import AgglomerativeClustering
from sklearn.decomposition import PCA

from atlasnmf.analysis.comparisons import cluster_patterns, comparison_patterns, pca_patterns
from atlasnmf.errors import BadInput
from atlasnmf.metrics import adjusted_rand


@pytest.fixture
def values():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(4), [90, 70, 60, 30])
    return (rng.gamma(2.0, size=(4, 12)) * 8)[groups] + rng.normal(size=(250, 12)) + 100, groups


def test_components_are_scikit_learns_up_to_sign(values):
    rows, _ = values

    def blocks():
        yield from (rows[:100], rows[100:101], rows[101:])

    found = pca_patterns(blocks, 3)
    reference = PCA(3, svd_solver="full").fit(rows)
    np.testing.assert_allclose(found.variances, reference.explained_variance_, rtol=1e-9)
    scores, expected = found.scores(rows), reference.transform(rows)
    signs = np.sign((scores * expected).sum(axis=0))
    np.testing.assert_allclose(scores * signs, expected, atol=1e-4)
    assert ((scores.astype(np.float64) ** 3).sum(axis=0) >= 0).all()
    with pytest.raises(BadInput, match="fewer than 13"):
        pca_patterns(blocks, 13)


def test_groups_are_patterns_of_zeros_and_ones(values):
    rows, groups = values
    rows[3] = np.nan
    known = np.arange(250) != 3
    for method in ("kmeans", "hierarchical"):
        found = cluster_patterns(rows, 4, method=method)
        assert np.isnan(found[3]).all()
        assert set(np.unique(found[known])) == {0.0, 1.0}
        assert (found[known].sum(axis=1) == 1).all()
        assert adjusted_rand(groups[known], found[known].argmax(axis=1)) > 0.99
    with pytest.raises(BadInput, match="too few"):
        cluster_patterns(rows[:3], 4)


def test_hierarchical_is_wards_and_a_sample_suffices(values, monkeypatch):
    rows, groups = values
    found = cluster_patterns(rows, 3, method="hierarchical").argmax(axis=1)
    assert adjusted_rand(AgglomerativeClustering(3).fit_predict(rows), found) == 1.0
    monkeypatch.setattr("atlasnmf.analysis.comparisons._MOST_JOINED", 80)
    sampled = cluster_patterns(rows, 4, method="hierarchical").argmax(axis=1)
    assert adjusted_rand(groups, sampled) > 0.95


def test_all_ways_give_as_many_patterns(values):
    rows, _ = values
    found = comparison_patterns(rows, np.abs(rows[:, :5]))
    assert set(found) == {"pca", "pca_kmeans", "pca_hierarchical", "stanmf_hierarchical"}
    assert {array.shape for array in found.values()} == {(250, 5)}
    again = comparison_patterns(lambda: iter([rows[:77], rows[77:]]), np.abs(rows[:, :5]))
    for name, array in found.items():
        np.testing.assert_allclose(again[name], array, atol=1e-3, err_msg=name)
