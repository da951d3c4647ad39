import numpy as np
import pytest
from sklearn.feature_extraction.image import grid_to_graph

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.graph.grid import grid_graph


def some_voxels(n_axes, seed=0):
    rng = np.random.default_rng(seed)
    mask = rng.uniform(size=(6, 5, 4)[:n_axes]) < 0.6
    voxels = np.argwhere(mask)
    return mask, voxels[rng.permutation(len(voxels))]


@pytest.mark.parametrize("n_axes", [2, 3])
@pytest.mark.parametrize("connectivity", [1, 2, 3])
def test_neighbours_are_those_at_the_distance(n_axes, connectivity):
    _, voxels = some_voxels(n_axes)
    if connectivity > n_axes:
        with pytest.raises(BadOption, match="connectivity"):
            grid_graph(voxels, connectivity=connectivity)
        return
    steps = np.abs(voxels[:, None] - voxels[None])
    expected = (steps.max(axis=2) == 1) & (steps.sum(axis=2) <= connectivity)
    found = grid_graph(voxels + 17, connectivity=connectivity)
    np.testing.assert_array_equal(found.to_scipy().toarray(), expected)
    rows = np.repeat(np.arange(found.n_rows), np.diff(found.indptr))
    assert (np.diff(rows.astype(np.int64) * found.n_cols + found.indices) > 0).all()


def test_faces_are_scikit_learns_grid():
    mask, _ = some_voxels(3)
    expected = grid_to_graph(*mask.shape, mask=mask).toarray()
    np.fill_diagonal(expected, 0)
    np.testing.assert_array_equal(grid_graph(np.argwhere(mask)).to_scipy().toarray(), expected)


def test_positions_off_the_grid_are_refused():
    with pytest.raises(BadInput, match="whole numbers"):
        grid_graph(np.array([[0.0, 0.5]]))
    with pytest.raises(BadInput, match="there twice"):
        grid_graph(np.array([[0, 1], [0, 1]]))
