"""Running sums over ranked genes against the formula written out gene by gene."""

from __future__ import annotations

import numpy as np
import pytest

from atlasnmf.kernels.cpu import running_sums as cpu


def plain_score(weights, positions):
    """Subramanian's running sum, gene by gene."""
    hits = np.isin(np.arange(len(weights)), positions)
    steps = np.where(hits, weights / weights[hits].sum(), -1 / max((~hits).sum(), 1))
    path = np.concatenate([[0], np.cumsum(steps)])
    return path.max() if path.max() >= -path.min() - 1e-15 else path.min()


def ranking(n_genes=60):
    return np.sort(np.random.default_rng(0).gamma(1.0, size=n_genes))[::-1].copy()


def test_running_sums_are_those_of_the_plain_formula(side):
    weights, rng = ranking(), np.random.default_rng(1)
    sets = [np.sort(rng.choice(60, size, replace=False)) for size in (1, 5, 20, 59, 60)]
    starts, places = np.cumsum([0, *map(len, sets)]), np.concatenate(sets)
    found = side.running_sums.running_sums(weights, places, starts)
    np.testing.assert_allclose(found, [plain_score(weights, own) for own in sets], atol=1e-12)
    np.testing.assert_array_equal(found, cpu.running_sums(weights, places, starts))
    both = np.stack([weights, np.ones(60)], axis=1)
    alike = np.stack([np.sort(rng.choice(60, 7, replace=False)) for _ in range(9)])
    equal = side.running_sums.equal_running_sums(both, alike)
    assert equal.shape == (2, 9)
    for k in range(2):
        np.testing.assert_allclose(equal[k], [plain_score(both[:, k], own) for own in alike], atol=1e-12)


def test_sets_without_weights(side):
    weights = np.r_[np.ones(5), np.zeros(5)]
    starts, places = np.array([0, 2]), np.array([7, 9])
    (found,) = side.running_sums.running_sums(weights, places, starts)
    assert found == pytest.approx(-7 / 8)
    equal = side.running_sums.equal_running_sums(weights[:, None], places[None])
    np.testing.assert_array_equal(equal, cpu.equal_running_sums(weights[:, None], places[None]))


@pytest.mark.parametrize("size", [1, 3, 7])
def test_draws_are_distinct_ascending_and_those_of_the_host(side, size):
    uniform = np.random.default_rng(1).random((3000, size))
    drawn = side.running_sums.draw_positions(uniform, 7)
    assert drawn.dtype == np.int32
    assert (np.diff(drawn, axis=1) > 0).all()
    assert drawn.min() >= 0
    np.testing.assert_array_equal(drawn, cpu.draw_positions(uniform, 7))
    np.testing.assert_allclose(np.bincount(drawn.ravel(), minlength=7) / 3000, size / 7, atol=0.04)
