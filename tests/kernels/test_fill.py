import numpy as np
import pytest
from sklearn.neighbors import KNeighborsRegressor

from atlasnmf.kernels.cpu.fill import inverse_distance_mean


@pytest.mark.parametrize("n_neighbors", [1, 6, 50])
@pytest.mark.parametrize("n_axes", [2, 3])
def test_it_is_the_weighted_neighbours_regressor(n_neighbors, n_axes):
    rng = np.random.default_rng(n_axes)
    coords, targets = rng.normal(size=(80, n_axes)), rng.normal(size=(30, n_axes))
    values = rng.normal(size=80)
    targets[3] = coords[7]  # at the place of a measured point
    expected = KNeighborsRegressor(n_neighbors, weights="distance").fit(coords, values).predict(targets)
    found = inverse_distance_mean(coords, values, targets, n_neighbors)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found[3] == values[7]


def test_few_points_and_no_targets():
    coords = np.zeros((1, 3))
    np.testing.assert_array_equal(inverse_distance_mean(coords, np.array([2.0]), np.ones((2, 3)), 6), [2, 2])
    assert inverse_distance_mean(coords, np.array([2.0]), np.empty((0, 3)), 6).shape == (0,)


def test_equally_distant_points_are_taken_by_number():
    grid = np.stack(np.meshgrid(*[np.arange(3.0)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    centre = np.flatnonzero((grid == 1).all(axis=1))
    others = np.setdiff1d(np.arange(27), centre)
    values = np.arange(27.0)[others]
    distances = np.linalg.norm(grid[others] - 1, axis=1)
    nearest = np.lexsort((np.arange(26), distances))[:8]  # six faces, then two of twelve edges
    weights = 1 / distances[nearest]
    expected = (weights * values[nearest]).sum() / weights.sum()
    found = inverse_distance_mean(grid[others], values, grid[centre], 8)
    np.testing.assert_allclose(found, [expected], rtol=1e-12)
