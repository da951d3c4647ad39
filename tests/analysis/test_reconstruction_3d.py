from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import spatialdata
from scipy.spatial import cKDTree
from small_results import bytes_of, make_slice, make_store

from atlasnmf import tl
from atlasnmf.analysis.reconstruction_3d import fit_pairs, mutual_nearest
from atlasnmf.errors import BadInput, BadOption
from atlasnmf.features.rigid import turned
from atlasnmf.store.atlas import open_atlas
from atlasnmf.store.results import ResultWriter

pytest.importorskip("faiss")
ANGLES, SHIFTS = (0.0, 40.0, -75.0), (np.zeros(2), np.array([50.0, -20.0]), np.array([-30.0, 80.0]))


def moved_slices(n=500):
    """Three slices of one tissue, each turned and shifted; an embedding that knows the place, noisily."""
    tables, truth = {}, {}
    for number, (angle, shift) in enumerate(zip(ANGLES, SHIFTS, strict=True)):
        rng = np.random.default_rng(number)
        table = make_slice(number + 1, n)
        place = table.obsm["spatial"].copy()
        waves = np.hstack([place / 10, np.sin(place / 4), np.cos(place / 4)])
        table.obsm["X_inspire"] = (waves + rng.normal(0, 0.08, waves.shape)).astype(np.float32)
        table.obsm["spatial"] = turned(angle).apply(place) + shift
        tables[f"slice_{number}"], truth[f"slice_{number}"] = table, place
    return tables, truth


@pytest.mark.parametrize("refine", [True, False])
def test_known_motions_are_undone_along_the_chain(tmp_path, refine):
    tables, truth = moved_slices()
    path = make_store(tmp_path / "moved.zarr", **tables)
    found = tl.reconstruct_3d(str(path), spacing=10, label_key="region", refine=refine)
    sdata = spatialdata.read_zarr(path)
    for number, (name, place) in enumerate(truth.items()):
        stacked = sdata.tables[name].obsm["aligned_3d"]
        error = np.linalg.norm(stacked[:, :2] - place, axis=1)
        # spots lie about 0.6 apart
        assert error.mean() < 0.25
        assert (stacked[:, 2] == 10 * number).all()
    assert found.scores["degrees"].tolist() == pytest.approx([-40, 115], abs=1)
    assert (found.scores["cell_type"] > 0.9).all()
    assert (found.scores["pearson_around"] > found.scores["pearson"] + 0.2).all()
    record = sdata.tables["slice_1"].uns["aligned_3d"]
    assert record["slices"].tolist() == ["slice_0", "slice_1", "slice_2"]
    assert record["rotations"].shape == (3, 2, 2)


def test_scores_are_those_of_nearest_places(tmp_path):
    tables, _ = moved_slices(200)
    path = make_store(tmp_path / "moved.zarr", **{name: tables[name] for name in ("slice_0", "slice_1")})
    found = tl.reconstruct_3d(str(path), label_key="region")
    sdata = spatialdata.read_zarr(path)
    first, second = (sdata.tables[name] for name in ("slice_0", "slice_1"))
    places = [table.obsm["aligned_3d"][:, :2] for table in (first, second)]
    gap = np.median(cKDTree(places[0]).query(places[0], k=2)[0][:, 1])
    distance, near = cKDTree(places[0]).query(places[1])
    beside = distance < 3 * gap
    logs = []
    for table in (first, second):
        counts = np.asarray(table.X.todense(), float)
        logs.append(np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True)))
    pairs = [np.corrcoef(logs[1][i], logs[0][near[i]])[0, 1] for i in np.flatnonzero(beside)]
    row = found.scores.iloc[0]
    assert row["pearson"] == pytest.approx(np.mean(pairs), abs=1e-5)
    same = first.obs["region"].astype(str).to_numpy()[near] == second.obs["region"].astype(str).to_numpy()
    assert row["cell_type"] == pytest.approx(same[beside].mean())
    assert row["overlap"] == pytest.approx(beside.mean())


def test_stored_matches_can_be_fitted_to(tmp_path):
    tables, truth = moved_slices(150)
    path = make_store(tmp_path / "m.zarr", **{name: tables[name] for name in ("slice_0", "slice_1")})
    _, near = cKDTree(truth["slice_0"]).query(truth["slice_1"])
    frame = pd.DataFrame(
        {
            "source_table": "slice_0",
            "source": tables["slice_0"].obs_names[near].to_numpy(),
            "target_table": "slice_1",
            "target": tables["slice_1"].obs_names.to_numpy(),
            "score": 1.0,
            "passed": True,
        },
        index=[str(i) for i in range(150)],
    )
    with ResultWriter(open_atlas(path)) as writer:
        writer.table("spatialfuser_matches", frame)
    found = tl.reconstruct_3d(str(path), matches="spatialfuser_matches", refine=False)
    assert found.scores["n_pairs"].tolist() == [150]
    assert found.scores["degrees"][0] == pytest.approx(-40, abs=1.5)


def test_mutual_nearest_are_those_of_all_distances():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(40, 3)), rng.normal(size=(30, 3))
    distance = np.linalg.norm(first[:, None] - second[None], axis=2)
    forth = np.argsort(np.argsort(distance, axis=1), axis=1) < 3
    back = np.argsort(np.argsort(distance, axis=0), axis=0) < 3
    expected = np.argwhere(forth & back)
    found = np.column_stack(mutual_nearest(first, second, 3))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("reflected", [False, True])
def test_most_pairs_may_be_wrong(reflected):
    rng = np.random.default_rng(1)
    fixed = rng.uniform(0, 100, (600, 2))
    move = turned(33.0, reflected=reflected)
    moving = move.inverse().apply(fixed + rng.normal(0, 0.3, fixed.shape)) + 7
    fixed[:390] = rng.uniform(0, 100, (390, 2))
    found, kept = fit_pairs(moving, fixed, reflection=True, rng=rng)
    assert found.reflected == reflected
    assert np.linalg.norm(found.apply(moving[390:]) - fixed[390:], axis=1).mean() < 0.6
    assert kept[390:].mean() > 0.9
    assert kept[:390].mean() < 0.1


@pytest.mark.parametrize(
    "options, error, words",
    [
        ({"key": "X_spatialfuser"}, BadInput, "fit"),
        ({"slices": ["slice_1", "slice_9"]}, BadOption, "no slice 'slice_9'"),
        ({"slices": ["slice_1", "slice_1"]}, BadOption, "named once"),
        ({"slices": ["slice_1"]}, BadInput, "two or more"),
        ({"spacing": [1.0, 2.0, 3.0]}, BadOption, "3 heights for 2 slices"),
        ({"label_key": "regions"}, BadInput, "did you mean 'region'"),
        ({"matches": "spatialfuser_matches"}, BadInput, "no table"),
    ],
)
def test_what_cannot_be_done_is_said_and_leaves_the_store(untouched, options, error, words):
    with pytest.raises(error, match=words):
        tl.reconstruct_3d(str(untouched), **options)


def test_one_slice_is_no_stack(tmp_path):
    path = make_store(tmp_path / "one.zarr", only=make_slice(1, 80))
    before = bytes_of(path)
    with pytest.raises(BadInput, match="one slice"):
        tl.reconstruct_3d(str(path))
    assert bytes_of(path) == before


def test_an_embedding_that_brings_nothing_together_is_said():
    table = make_slice(1, 60)
    table.obs["piece"] = pd.Categorical(np.repeat(["a", "b"], 30))
    table.obsm["X_inspire"][:30] = np.nan
    with pytest.raises(BadInput, match="share fewer than three"):
        tl.reconstruct_3d(open_atlas(table, slice_key="piece"))
    assert "aligned_3d" not in table.obsm
