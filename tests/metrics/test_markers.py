import numpy as np
import pytest

from atlasnmf.errors import BadInput
from atlasnmf.metrics.markers import (
    genes_per_pattern,
    marker_genes,
    patterns_per_gene,
    reconstruction_similarity,
)


@pytest.fixture
def coefficients():
    rng = np.random.default_rng(0)
    loadings = rng.gamma(0.3, size=(40, 5)) * (rng.uniform(size=(40, 5)) < 0.5)
    loadings[3] = 0.0
    loadings[7] = np.nan
    return loadings


def test_importance_and_the_main_pattern(coefficients):
    markers = marker_genes(coefficients)
    for gene, row in enumerate(coefficients):
        if not np.isfinite(row).all() or row.sum() == 0:
            assert markers.pattern[gene] == -1
            assert np.isnan(markers.importance[gene])
            continue
        assert markers.pattern[gene] == row.argmax()
        assert markers.importance[gene] == pytest.approx(row.max() / row.sum())
    ranked = markers.ranked(2)
    assert set(ranked) == set(np.flatnonzero(markers.pattern == 2))
    assert (np.diff(markers.importance[ranked]) <= 0).all()
    assert markers.ranked(2, 1).tolist() == ranked[:1].tolist()


def test_genes_per_pattern_and_patterns_per_gene(coefficients):
    counts = genes_per_pattern(coefficients)
    assert counts.tolist() == [len(marker_genes(coefficients).ranked(k)) for k in range(5)]
    known = np.nan_to_num(coefficients)
    np.testing.assert_array_equal(patterns_per_gene(coefficients), (known > 0).sum(axis=1))
    shares = known / np.maximum(known.sum(axis=1, keepdims=True), 1e-300)
    np.testing.assert_array_equal(patterns_per_gene(coefficients, share=0.2), (shares > 0.2).sum(axis=1))


def test_similarity_is_that_of_the_reconstructions():
    rng = np.random.default_rng(1)
    patterns, loadings = rng.gamma(1.0, size=(200, 3)), rng.gamma(0.5, size=(6, 3))
    loadings[4] = 0.0
    found = reconstruction_similarity(loadings, patterns.T @ patterns, patterns.sum(axis=0), 200)
    kept = [0, 1, 2, 3, 5]
    np.testing.assert_allclose(
        found[np.ix_(kept, kept)], np.corrcoef((patterns @ loadings[kept].T).T), atol=1e-10
    )
    assert (found[4] == 0).all()


def test_bad_coefficients_are_refused():
    with pytest.raises(BadInput, match="negative"):
        marker_genes(np.array([[1.0, -0.1]]))
    with pytest.raises(BadInput, match="genes in rows"):
        marker_genes(np.ones(3))
