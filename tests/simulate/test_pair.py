import numpy as np
import pytest
import scipy.spatial
import spatialdata

from atlasnmf.errors import BadOption
from atlasnmf.simulate import plan_pair, simulate_pair

SIZES = {"n_cells": 2400, "n_genes": 120, "n_panel": 50, "grid": 6, "n_types": 4}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return simulate_pair(tmp_path_factory.mktemp("pair") / "pair.zarr", **SIZES, seed=3)


def test_spatialdata_reads_both_tables_with_the_truth(store):
    pair, tables = plan_pair(**SIZES, seed=3), spatialdata.read_zarr(store).tables
    fine, coarse = tables["xenium"], tables["visium"]
    assert fine.shape == (2400, 50)
    assert coarse.shape == (len(pair.spots), 120)
    assert set(fine.var_names) == set(coarse.var_names[coarse.var["panel"]])
    np.testing.assert_array_equal(fine.obsm["spatial"], pair.cells)
    np.testing.assert_allclose(coarse.obsm["true_proportions"].sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(fine.obsm["true_factors"].argmax(axis=1), fine.obs["cell_type"].cat.codes)
    np.testing.assert_allclose(coarse.varm["true_loadings"].sum(axis=0), 1)
    np.testing.assert_allclose(fine.varm["true_loadings"], pair.profiles.T[pair.panel])
    assert fine.uns["truth"]["grid"] == 6


def test_counts_have_the_means_of_the_model(store):
    pair, tables = plan_pair(**SIZES, seed=3), spatialdata.read_zarr(store).tables
    fine = pair.depths[:, None] * pair.profiles[pair.types][:, pair.panel]
    coarse = (pair.mixtures @ pair.profiles) * pair.scaling
    for table, means in (tables["xenium"], fine), (tables["visium"], coarse):
        for axis in 0, 1:
            counts = np.asarray(table.X.sum(axis=axis)).ravel()
            deviation = (counts - means.sum(axis=axis)) / np.sqrt(means.sum(axis=axis))
            assert np.abs(deviation).max() < 5
            assert 0.8 < deviation.std() < 1.2
    assert np.all(pair.scaling[~pair.panel] == 1)


def test_neighbouring_squares_differ():
    pair = plan_pair(**SIZES, seed=3)
    side = np.sqrt(2400 * 100**2 * np.sqrt(3) / 2 / 24)
    squares = (pair.cells / side * 6).astype(int)
    board = np.full((6, 6), -1)
    board[squares[:, 0], squares[:, 1]] = pair.types
    assert (board >= 0).all()
    assert (board[1:] != board[:-1]).all()
    assert (board[:, 1:] != board[:, :-1]).all()


def test_spots_see_the_cells_nearest_to_them():
    pair = plan_pair(**SIZES, seed=3, depth_variation=0.5)
    distances, nearest = scipy.spatial.cKDTree(pair.spots).query(pair.cells)
    np.testing.assert_array_equal(nearest, pair.spot_of)
    assert distances.max() < 100
    for v in range(0, len(pair.spots), 7):
        mine = pair.spot_of == v
        mixture = np.bincount(pair.types[mine], weights=pair.depths[mine], minlength=4)
        np.testing.assert_allclose(pair.proportions[v], mixture / mixture.sum())


def test_each_option_changes_what_it_says():
    plain = plan_pair(**SIZES)
    noisy = plan_pair(**SIZES, mapping_noise=30.0)
    np.testing.assert_array_equal(noisy.cells, plain.cells)
    assert (noisy.cells_seen - noisy.cells).std() == pytest.approx(30, rel=0.05)
    np.testing.assert_allclose(plan_pair(**SIZES, coverage=0.25).depths, plain.depths / 4)
    field = plan_pair(**SIZES, depth_variation=1.0).mixtures.sum(1)
    assert np.log(field).std() > np.log(plain.mixtures.sum(1)).std() + 0.2
    assert plan_pair(**SIZES, scaling_spread=0.0).scaling.std() == 0


@pytest.mark.parametrize(
    "wrong", [{"n_types": 1}, {"n_panel": 121}, {"n_cells": 10}, {"coverage": 0.0}, {"n_types": 61}]
)
def test_sizes_that_do_not_go_together_are_refused(wrong):
    with pytest.raises(BadOption):
        plan_pair(**SIZES | wrong)


def test_the_same_seed_writes_the_same_bytes(store, tmp_path):
    again = simulate_pair(tmp_path / "again.zarr", **SIZES, seed=3)
    for path in store.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (again / path.relative_to(store)).read_bytes()
