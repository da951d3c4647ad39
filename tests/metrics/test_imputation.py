import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats

from atlasnmf import metrics


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    means = rng.gamma(0.5, 3.0, (80, 6))
    return rng.poisson(means).astype(float), means * rng.lognormal(0, 0.5, 6) + rng.random((80, 6))


def test_correlations_against_scipy(pair):
    measured, imputed = pair
    for g in range(6):
        expected = scipy.stats.pearsonr(measured[:, g], imputed[:, g]).statistic
        assert metrics.pearson(measured, imputed)[g] == pytest.approx(expected)
        assert metrics.r_squared(measured, imputed)[g] == pytest.approx(expected**2)
        ranks = scipy.stats.spearmanr(measured[:, g], imputed[:, g]).statistic
        assert metrics.spearman(measured, imputed)[g] == pytest.approx(ranks)


def test_r_squared_is_the_papers_formula(pair):
    measured, imputed = pair
    for g in range(6):
        cov = np.cov(measured[:, g], imputed[:, g])
        assert metrics.r_squared(measured, imputed)[g] == pytest.approx(
            cov[0, 1] ** 2 / (cov[0, 0] * cov[1, 1])
        )


def test_rmse_of_z_scores(pair):
    measured, imputed = pair
    z = [scipy.stats.zscore(values, axis=0) for values in pair]
    np.testing.assert_allclose(metrics.z_rmse(measured, imputed), np.sqrt(((z[0] - z[1]) ** 2).mean(0)))


@pytest.mark.parametrize("axis", [0, 1])
def test_divergence_against_scipy(pair, axis):
    left, right = pair[0] + (axis == 1), pair[1]
    expected = scipy.spatial.distance.jensenshannon(left, right, base=2, axis=axis) ** 2
    np.testing.assert_allclose(metrics.jensen_shannon(left, right, axis=axis), expected, atol=1e-12)


def test_structural_similarity_is_the_product_of_its_three_parts(pair):
    measured, imputed = pair[0] / pair[0].max(0), pair[1] / pair[1].max(0)
    x, y, sx, sy = measured.mean(0), imputed.mean(0), measured.std(0), imputed.std(0)
    sxy = ((measured - x) * (imputed - y)).mean(0)
    c1, c2 = 1e-4, 9e-4
    luminance = (2 * x * y + c1) / (x**2 + y**2 + c1)
    contrast = (2 * sx * sy + c2) / (sx**2 + sy**2 + c2)
    structure = (sxy + c2 / 2) / (sx * sy + c2 / 2)
    np.testing.assert_allclose(metrics.structural_similarity(*pair), luminance * contrast * structure)


def test_all_scores_at_once(pair):
    scores = metrics.gene_scores(*pair)
    assert set(scores) == set(metrics.GENE_SCORES)
    assert all(values.shape == (6,) for values in scores.values())
    perfect = metrics.gene_scores(pair[0], 3 * pair[0])
    np.testing.assert_allclose(perfect["r2"], 1)
    np.testing.assert_allclose(perfect["rmse"], 0, atol=1e-12)
    np.testing.assert_allclose(perfect["js"], 0, atol=1e-12)
    np.testing.assert_allclose(perfect["ssim"], 1)


def test_a_constant_gene_scores_nothing(pair):
    measured, imputed = pair
    flat = np.ones_like(imputed)
    scores = metrics.gene_scores(measured, flat)
    for name in "r2", "pearson", "spearman":
        np.testing.assert_array_equal(scores[name], 0)
    assert np.isfinite(scores["ssim"]).all()


def test_zeros_and_ceiling_are_those_of_poisson_counts():
    rng = np.random.default_rng(1)
    means = rng.gamma(1.0, 1.0, (40_000, 2)) * [0.3, 4.0]
    counts = rng.poisson(means)
    np.testing.assert_allclose(metrics.predicted_zeros(means), (counts == 0).mean(0), atol=0.01)
    np.testing.assert_allclose(metrics.poisson_ceiling(means), metrics.r_squared(counts, means), atol=0.02)


def test_baselines_by_the_plain_formula():
    rng = np.random.default_rng(2)
    coarse, spot_of = rng.poisson(3.0, (4, 3)), np.array([0, 2, -1, 3, 0])
    totals = rng.integers(1, 9, 5)
    neighbours = np.array([[0, 1], [1, 3], [2, 4], [3, 0], [4, 0]])
    found = metrics.spot_baselines(coarse, spot_of, totals, neighbours)
    for i in range(5):
        own = coarse[spot_of[i]] if spot_of[i] >= 0 else np.zeros(3)
        np.testing.assert_allclose(found["A"][i], own)
        np.testing.assert_allclose(found["B"][i], own * totals[i])
        for smooth, plain in ("C", "A"), ("D", "B"):
            np.testing.assert_allclose(found[smooth][i], found[plain][neighbours[i]].mean(0))


def test_shapes_must_agree(pair):
    with pytest.raises(ValueError, match="shape"):
        metrics.pearson(pair[0], pair[1][:-1])
