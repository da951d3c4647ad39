import numpy as np
import pytest
from sklearn.neighbors import KNeighborsRegressor


@pytest.mark.parametrize("n_neighbors", [1, 6, 50])
@pytest.mark.parametrize("n_axes", [2, 3])
def test_it_is_the_weighted_neighbours_regressor(side, n_neighbors, n_axes):
    rng = np.random.default_rng(n_axes)
    coords, targets = rng.normal(size=(80, n_axes)), rng.normal(size=(30, n_axes))
    values = rng.normal(size=80)
    targets[3] = coords[7]  # at the place of a measured point
    expected = KNeighborsRegressor(n_neighbors, weights="distance").fit(coords, values).predict(targets)
    found = side.fill.inverse_distance_mean(coords, values, targets, n_neighbors)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found[3] == values[7]


def test_few_points_and_no_targets(side):
    coords = np.zeros((1, 3))
    mean, one = side.fill.inverse_distance_mean, np.array([2.0])
    np.testing.assert_array_equal(mean(coords, one, np.ones((2, 3)), 6), [2, 2])
    assert mean(coords, one, np.empty((0, 3)), 6).shape == (0,)


def test_equally_distant_points_are_taken_by_number(side):
    grid = np.stack(np.meshgrid(*[np.arange(3.0)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    centre = np.flatnonzero((grid == 1).all(axis=1))
    others = np.setdiff1d(np.arange(27), centre)
    values = np.arange(27.0)[others]
    distances = np.linalg.norm(grid[others] - 1, axis=1)
    nearest = np.lexsort((np.arange(26), distances))[:8]  # six faces, then two of twelve edges
    weights = 1 / distances[nearest]
    expected = (weights * values[nearest]).sum() / weights.sum()
    found = side.fill.inverse_distance_mean(grid[others], values, grid[centre], 8)
    np.testing.assert_allclose(found, [expected], rtol=1e-12)
