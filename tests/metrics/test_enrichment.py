from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import fisher_exact

from atlasnmf.metrics import benjamini_hochberg, over_representation, preranked_gsea


def plain_score(weights, positions):
    """Subramanian's running sum, gene by gene."""
    hits = np.isin(np.arange(len(weights)), positions)
    steps = np.where(hits, weights / weights[hits].sum(), -1 / (~hits).sum())
    path = np.concatenate([[0], np.cumsum(steps)])
    return path.max() if path.max() >= -path.min() - 1e-15 else path.min()


def test_p_values_against_exact_counting():
    rng = np.random.default_rng(2)
    statistics = rng.normal(size=(40, 2))
    members, starts = np.array([0, 1, 2, 3, 10, 11, 12, 13]), np.array([0, 4, 8])
    found = preranked_gsea(statistics, members, starts, n_permutations=4000)
    order = np.argsort(-statistics[:, 1])
    weights = np.abs(statistics[order, 1])
    null = np.array([plain_score(weights, np.sort(rng.choice(40, 4, replace=False))) for _ in range(4000)])
    for s in range(2):
        own = np.flatnonzero(np.isin(order, members[starts[s] : starts[s + 1]]))
        score = plain_score(weights, own)
        assert found.score[1, s] == pytest.approx(score)
        same = np.abs(null[np.sign(null) == np.sign(score)])
        assert found.p[1, s] == pytest.approx((same >= abs(score)).mean(), abs=0.04)
        assert found.normalised[1, s] == pytest.approx(score / same.mean(), rel=0.05)


def test_scores_are_gseapys():
    gseapy = pytest.importorskip("gseapy")
    import pandas as pd

    rng = np.random.default_rng(3)
    statistics = rng.normal(size=(80, 1))
    genes = [f"g{i}" for i in range(80)]
    members = np.concatenate([np.sort(rng.choice(80, 12, replace=False)) for _ in range(3)])
    sets = {f"s{i}": [genes[g] for g in members[12 * i : 12 * i + 12]] for i in range(3)}
    reference = gseapy.prerank(
        rnk=pd.Series(statistics[:, 0], index=genes).sort_values(ascending=False),
        gene_sets=sets,
        permutation_num=1000,
        min_size=5,
        outdir=None,
        no_plot=True,
        seed=0,
        threads=1,
    ).res2d.set_index("Term")
    found = preranked_gsea(statistics, members, np.arange(0, 37, 12), n_permutations=1000)
    expected = reference.loc[["s0", "s1", "s2"]]
    np.testing.assert_allclose(found.score[0], expected["ES"].astype(float), atol=1e-6)
    np.testing.assert_allclose(found.normalised[0], expected["NES"].astype(float), rtol=0.1)
    np.testing.assert_allclose(found.p[0], expected["NOM p-val"].astype(float), atol=0.06)


def test_over_representation_is_fishers():
    rng = np.random.default_rng(4)
    for _ in range(20):
        n, chosen, own = 50, int(rng.integers(1, 20)), int(rng.integers(1, 20))
        common = int(rng.integers(max(0, chosen + own - n), min(chosen, own) + 1))
        table = [[common, chosen - common], [own - common, n - chosen - own + common]]
        _, p = over_representation(np.array(common), np.array(chosen), np.array(own), n)
        assert p == pytest.approx(fisher_exact(table, alternative="greater")[1])


def test_adjusted_p_values_are_scipys():
    from scipy.stats import false_discovery_control

    p = np.random.default_rng(5).random((4, 30))
    np.testing.assert_allclose(benjamini_hochberg(p), false_discovery_control(p, axis=1))
    np.testing.assert_allclose(benjamini_hochberg(p, axis=0), false_discovery_control(p, axis=0))
