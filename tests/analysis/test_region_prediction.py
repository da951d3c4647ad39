import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from atlasnmf.analysis.region_prediction import predict_region
from atlasnmf.errors import BadInput, BadOption


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    inside = rng.uniform(size=500) < 0.3
    patterns = rng.gamma(1.0, size=(500, 6)) * 10.0 ** np.arange(6)
    for k in (1, 3, 4):
        patterns[:, k] *= 1 + inside
    return patterns, inside


def test_the_area_is_that_of_a_plain_logistic_regression(case):
    patterns, inside = case
    found = predict_region(patterns, inside, [1, 3, 4], n_random=50)
    values = (patterns - patterns.mean(axis=0)) / patterns.std(axis=0)
    model = LogisticRegression(max_iter=1000, tol=1e-10).fit(values[:, [1, 3, 4]], inside)
    expected = roc_auc_score(inside, model.predict_proba(values[:, [1, 3, 4]])[:, 1])
    assert found.auc == pytest.approx(expected, abs=1e-4)
    assert found.patterns == (1, 3, 4)
    assert len(found.random) == 50
    # twenty triples, of which one is the chosen one: no other does better
    assert found.random.max() <= found.auc + 1e-12
    assert found.share_below == (found.random < found.auc).mean() > 0.8
    assert len(np.unique(found.random)) <= 20


def test_the_patterns_that_go_with_the_region_are_chosen(case):
    patterns, inside = case
    patterns[5] = np.nan
    found = predict_region(patterns, inside, n_random=5)
    assert found.patterns == (1, 3, 4)
    again = predict_region(patterns, inside, n_random=5)
    np.testing.assert_array_equal(found.random, again.random)
    assert predict_region(patterns, inside, n_random=5, n_sample=200).auc != found.auc


def test_bad_input_is_refused(case):
    patterns, inside = case
    with pytest.raises(BadInput, match="no spot or all"):
        predict_region(patterns, np.zeros(500, bool))
    with pytest.raises(BadInput, match="same spots"):
        predict_region(patterns[1:], inside)
    with pytest.raises(BadOption, match="from 0 to 5"):
        predict_region(patterns, inside, [6])
