import numpy as np
import pytest

from atlasnmf.simulate.sampling import alias_tables, sample_counts, spot_factors


def implied(keep, other):
    n_genes = keep.shape[1]
    own = keep.astype(np.float64) / 2**32
    out = own / n_genes
    for k in range(len(keep)):
        np.add.at(out[k], other[k], (1 - own[k]) / n_genes)
    return out


@pytest.mark.parametrize("n_genes", [1, 2, 63, 64, 500])
def test_alias_tables_hold_the_profiles(n_genes):
    profiles = np.random.default_rng(n_genes).dirichlet(np.full(n_genes, 0.3), size=3)
    # Thresholds are kept to 32 bits.
    np.testing.assert_allclose(implied(*alias_tables(profiles)), profiles, atol=3e-10)


def test_counts_are_multinomial():
    rng = np.random.default_rng(0)
    profiles = rng.dirichlet(np.full(130, 0.5), size=3)
    factors = np.tile(np.array([0.2, 0.5, 0.3], np.float32), (4000, 1))
    totals = np.full(4000, 100)
    counts = sample_counts(factors, totals, alias_tables(profiles), seed=1, first=0)
    assert counts.n_cols == 130
    dense = counts.to_scipy().toarray()
    assert (dense.sum(axis=1) == totals).all()
    share = factors[0] @ profiles
    mean, variance = 100 * share, 100 * share * (1 - share)
    # Five standard errors of a mean over 4000 spots; variances within 15 %, three errors.
    assert (np.abs(dense.mean(axis=0) - mean) < 5 * np.sqrt(variance / 4000)).all()
    common = mean > 1
    np.testing.assert_allclose(dense.var(axis=0)[common], variance[common], rtol=0.15)


def test_rows_are_sorted_and_empty_spots_stay_empty():
    profiles = np.random.default_rng(1).dirichlet(np.ones(200), size=2)
    totals = np.array([0, 50, 0, 1, 0])
    factors = np.full((5, 2), 0.5, np.float32)
    counts = sample_counts(factors, totals, alias_tables(profiles), seed=3, first=9)
    assert np.diff(counts.indptr)[[0, 2, 4]].tolist() == [0, 0, 0]
    for row in range(5):
        columns = counts.indices[counts.indptr[row] : counts.indptr[row + 1]]
        assert (np.diff(columns) > 0).all()
    assert counts.data.min() >= 1


def one_organ(present=1.0):
    organs = np.zeros((2, 10))
    organs[0, :5] = [1, 0, 0, 1, 1]
    organs[1] = [present, 0.2, 0.0, 0.3, 1.0, 0.0, 0, 0, 0, 0]
    return organs


def test_factors_vary_around_the_blend_as_a_dirichlet():
    body = np.tile([0.2, 0.0], (20_000, 1))
    side = np.array([[0.0, 1.0], [1.0, 0.0]])
    domain, factors = spot_factors(body, one_organ(), side, 25.0, np.uint64(5), 0)
    assert (domain == 1).all()
    np.testing.assert_allclose(factors.sum(axis=1), 1, atol=1e-5)
    # At the centre of the organ the own factor has 0.775; a Dirichlet's variance is m (1 - m) / (c + 1).
    assert factors[:, 1].mean() == pytest.approx(0.775, abs=5 * 0.08 / np.sqrt(20_000))
    assert factors[:, 1].var() == pytest.approx(0.775 * 0.225 / 26, rel=0.05)


def test_absent_and_distant_organs_leave_the_body():
    side = np.array([[0.0, 1.0], [1.0, 0.0]])
    inside, outside = np.array([[0.2, 0.0]]), np.array([[-0.9, 0.0]])
    assert spot_factors(inside, one_organ(0.0), side, 25.0, np.uint64(0), 0)[0][0] == 0
    assert spot_factors(outside, one_organ(), side, 25.0, np.uint64(0), 0)[0][0] == 0
