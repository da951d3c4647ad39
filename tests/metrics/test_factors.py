import itertools

import numpy as np
import pytest
import scipy.sparse

from atlasnmf import metrics
from atlasnmf.errors import BadInput
from atlasnmf.schema import Csr


def test_diversity_counts_unique_top_genes():
    rng = np.random.default_rng(0)
    loadings = rng.dirichlet(np.ones(50), size=6).T
    tops = [set(np.argsort(-loadings[:, k])[:10]) for k in range(6)]
    assert metrics.factor_diversity(loadings) == len(set.union(*tops)) / 60


def test_genes_outside_the_model_are_never_on_top():
    loadings = np.full((8, 2), np.nan)
    loadings[[1, 4, 6]] = [[0.2, 0.5], [0.5, 0.2], [0.3, 0.3]]
    assert metrics.top_genes(loadings).T.tolist() == [[4, 6, 1], [1, 6, 4]]
    assert metrics.factor_diversity(loadings) == 0.5
    with pytest.raises(BadInput, match="fit a model"):
        metrics.top_genes(np.full((3, 2), np.nan))


@pytest.mark.parametrize("n_tiles", [1, 3])
def test_coherence_equals_the_formula(n_tiles):
    rng = np.random.default_rng(1)
    counts = rng.poisson(rng.gamma(0.3, 1.0, size=(90, 30)))
    counts[:, 5] = 1
    counts[:, 6] = 2
    counts[::2, 7], counts[1::2, 8] = 0, 0
    loadings = rng.dirichlet(np.ones(30), size=4).T
    loadings[5:9, 0] = 1
    top = metrics.top_genes(loadings)
    parts = np.array_split(np.arange(90), n_tiles)
    tiles = [
        metrics.cooccurrence(Csr.from_scipy(scipy.sparse.csr_matrix(counts[rows])), top) for rows in parts
    ]
    counted = tiles[0]
    for tile in tiles[1:]:
        counted = metrics.add_cooccurrence(counted, tile)

    def npmi(i, j):
        joint = np.mean((counts[:, i] > 0) & (counts[:, j] > 0))
        if joint in (0, 1):
            return joint - 1
        apart = np.mean(counts[:, i] > 0) * np.mean(counts[:, j] > 0)
        return np.log(joint / apart) / -np.log(joint)

    naive = np.mean([[npmi(i, j) for i, j in itertools.combinations(top[:, k], 2)] for k in range(4)])
    assert metrics.factor_coherence(loadings, counted) == pytest.approx(naive)
    assert counted.n_spots == 90


def test_stored_zeros_are_no_occurrence():
    tile = Csr(np.array([0, 2]), np.array([0, 1], np.uint16), np.array([0, 3], np.uint16), 2)
    assert metrics.cooccurrence(tile, [1, 0]).together.tolist() == [[0, 0], [0, 1]]


def test_coherence_refuses_what_was_not_counted():
    tile = Csr(np.array([0, 1]), np.array([0]), np.ones(1), 3)
    counted = metrics.cooccurrence(tile, [0, 1])
    loadings = np.array([[0.1], [0.4], [0.5]])
    with pytest.raises(BadInput, match="not counted"):
        metrics.factor_coherence(loadings, counted, n_top=2)
    with pytest.raises(BadInput, match="same genes"):
        metrics.add_cooccurrence(counted, metrics.cooccurrence(tile, [2]))
    with pytest.raises(BadInput, match="3 genes"):
        metrics.cooccurrence(tile, [3])


def test_hungarian_beats_every_permutation():
    rng = np.random.default_rng(2)
    similarity = rng.normal(size=(5, 5))
    rows, columns = metrics.hungarian_match(similarity)
    best = max(sum(similarity[i, p[i]] for i in range(5)) for p in itertools.permutations(range(5)))
    assert similarity[rows, columns].sum() == pytest.approx(best)
    with pytest.raises(BadInput, match="finite"):
        metrics.hungarian_match(np.array([[np.nan]]))


def test_factors_are_found_up_to_permutation_and_scale():
    rng = np.random.default_rng(3)
    truth = rng.gamma(1.0, size=(500, 5))
    order = rng.permutation(5)
    match = metrics.matched_correlation((truth[:, order] * rng.uniform(1, 9, 5)).astype(np.float32), truth)
    assert match.mean == pytest.approx(1, abs=1e-6)
    assert order[match.found].tolist() == match.truth.tolist()


def test_correlations_equal_numpy_across_chunks_and_with_gaps(monkeypatch):
    monkeypatch.setattr(metrics.factors, "_CHUNK_ROWS", 64)
    rng = np.random.default_rng(4)
    truth, found = rng.normal(1e3, 1, size=(300, 3)), rng.normal(size=(300, 3))
    found += truth @ rng.normal(size=(3, 3))
    found[:70], truth[200, 1] = np.nan, np.inf
    kept = np.r_[70:200, 201:300]
    whole = np.corrcoef(found[kept].T, truth[kept].T)[:3, 3:]
    match = metrics.matched_correlation(found, truth)
    np.testing.assert_allclose(match.correlations, whole[match.found, match.truth], rtol=1e-9)


def test_missing_and_constant_factors_lower_the_mean():
    truth = np.random.default_rng(5).normal(size=(50, 4))
    match = metrics.matched_correlation(truth[:, :3], truth)
    assert match.mean == pytest.approx(0.75)
    flat = truth.copy()
    flat[:, 2] = 0.25
    assert metrics.matched_correlation(flat, truth).mean == pytest.approx(0.75)
    with pytest.raises(BadInput, match="same spots"):
        metrics.matched_correlation(truth[1:], truth)
    with pytest.raises(BadInput, match="fewer than two"):
        metrics.matched_correlation(np.full((50, 1), np.nan), truth)
