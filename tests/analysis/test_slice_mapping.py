from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest
import spatialdata
from small_results import bytes_of, make_slice, make_store

import atlasnmf as an
from atlasnmf import tl
from atlasnmf.errors import BadInput, BadOption
from atlasnmf.store.atlas import open_atlas
from atlasnmf.store.results import ResultWriter


@pytest.fixture(scope="module")
def clean_fit(tmp_path_factory):
    """Two slices of two modalities with a fit as it writes itself; never written into."""
    path = tmp_path_factory.mktemp("fitted") / "sections.zarr"
    an.simulate_omics(path, n_spots=300, n_genes=40, n_proteins=30, n_factors=3, difficulty="easy")
    an.SpatialFuser(pretrain_steps=2, fuse_steps=2).fit(path).write()
    return path


@pytest.fixture
def fitted(clean_fit, tmp_path):
    return shutil.copytree(clean_fit, tmp_path / "sections.zarr")


@pytest.fixture
def unwritten(clean_fit):
    before = bytes_of(clean_fit)
    yield clean_fit
    assert bytes_of(clean_fit) == before


def dense(mapped, onto, radius):
    """Cosines of all pairs of two tables, and which are in reach."""
    units = []
    for table in (mapped, onto):
        rows = np.asarray(table.obsm["X_spatialfuser"], np.float64)
        units.append(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    places = [np.asarray(table.obsm["spatialfuser_aligned"], np.float64) for table in (mapped, onto)]
    near = np.linalg.norm(places[0][:, None] - places[1][None], axis=2) < radius
    return units[0] @ units[1].T, near


def agrees(found, tables, radius):
    mapped, onto = tables[found.slice], tables[found.onto]
    cosines, near = dense(mapped, onto, radius)
    some = near.any(axis=1)
    best = np.where(near, cosines, -2).max(axis=1)
    obs = mapped.obs
    partner = obs["spatialfuser_partner"].astype(str).to_numpy()
    np.testing.assert_array_equal(partner != "", some)
    at = onto.obs_names.get_indexer(partner[some])
    assert near[some, at].all()
    np.testing.assert_allclose(cosines[some, at], best[some], atol=1e-5)
    np.testing.assert_allclose(obs["spatialfuser_partner_cosine"][some], best[some], atol=1e-5)
    assert obs["spatialfuser_partner_cosine"][~some].isna().all()
    assert (cosines[near] < found.threshold).mean() == pytest.approx(0.95, abs=0.025)
    np.testing.assert_array_equal(
        obs["spatialfuser_partner_passed"], some & (obs["spatialfuser_partner_cosine"] > found.threshold)
    )
    assert 0 < obs["spatialfuser_partner_passed"].sum() < some.sum()
    np.testing.assert_array_equal(found.spots["partner"], partner)
    np.testing.assert_array_equal(found.spots["passed"], obs["spatialfuser_partner_passed"])
    assert found.spots.index.equals(mapped.obs_names)
    return some


@pytest.mark.parametrize("turned", [False, True])
def test_every_spot_of_the_smaller_slice_has_the_best_of_the_dense_formula(fitted, turned):
    found = tl.map_slice(str(fitted), *(["rna", "protein"][:: -1 if turned else 1]))
    tables = spatialdata.read_zarr(fitted).tables
    assert tables[found.slice].n_obs <= tables[found.onto].n_obs
    radius = tables[found.slice].uns["spatialfuser"]["links"]["0"]["max_distance"]
    assert found.radius == radius > 0
    agrees(found, tables, radius)
    record = tables[found.slice].uns["spatialfuser_partner"]
    assert record["n_passed"] == found.spots["passed"].sum()
    assert (record["slice"], record["onto"], record["radius"]) == (found.slice, found.onto, radius)
    assert "spatialfuser_partner" not in tables[found.onto].obs
    assert "spatialfuser_partner" not in tables[found.onto].uns


def test_a_radius_of_ones_own_leaves_spots_without_a_partner(fitted):
    tables = spatialdata.read_zarr(fitted).tables
    near = 0.15 * tables["rna"].uns["spatialfuser"]["links"]["0"]["max_distance"]
    found = tl.map_slice(str(fitted), "rna", "protein", radius=near)
    some = agrees(found, spatialdata.read_zarr(fitted).tables, near)
    assert 0 < some.sum() < len(some)


def test_the_seed_draws_the_pairs_of_the_threshold_alone(fitted):
    one, same, other = (
        tl.map_slice(str(fitted), "rna", "protein", overwrite=True, random_state=seed) for seed in (0, 0, 1)
    )
    assert one.threshold == same.threshold != other.threshold
    pd.testing.assert_frame_equal(one.spots[["partner", "cosine"]], other.spots[["partner", "cosine"]])


def slice_of(seed, n_spots):
    table = make_slice(seed, n_spots)
    table.obsm["X_spatialfuser"] = table.obsm.pop("X_inspire")
    table.obsm["spatialfuser_aligned"] = table.obsm["spatial"].astype(np.float32)
    return table


LINKS = {
    "0": {"source": "a", "target": "b", "max_distance": 4.0},
    "1": {"source": "b", "target": "c"},  # none: not laid
}


def test_the_column_a_fit_took_its_slices_from_is_named():
    table = slice_of(1, 150)
    table.obs["piece"] = pd.Categorical(np.repeat(["b", "a", "c"], [80, 60, 10]))
    table.uns["spatialfuser"] = {"links": LINKS, "slice_key": "piece"}
    with pytest.raises(BadOption, match=r"no slice 'a' .*open_atlas\(store, slice_key='piece'\)"):
        tl.map_slice(open_atlas(table), "a", "b")
    with pytest.raises(BadOption, match=r"no slice 'z' in the AnnData; there are a, b, c$"):
        tl.map_slice(open_atlas(table, slice_key="piece"), "z", "b")


def test_slices_of_one_table_and_spots_the_fit_left_out():
    table = slice_of(1, 150)
    table.obs["piece"] = pd.Categorical(np.repeat(["b", "a", "c"], [80, 60, 10]))
    table.obsm["X_spatialfuser"][[80, 85]] = np.nan
    table.obsm["spatialfuser_aligned"][3] = np.nan
    table.uns["spatialfuser"] = {"links": LINKS}
    found = tl.map_slice(open_atlas(table, slice_key="piece"), "a", "b")
    own = np.setdiff1d(np.arange(80, 140), [80, 85])
    assert found.slice == "a"
    assert found.spots.index.equals(table.obs_names[own])
    others = np.setdiff1d(np.arange(80), [3])
    cosines, near = dense(table[own], table[others], 4.0)
    best = others[np.where(near, cosines, -2).argmax(axis=1)]
    expected = np.full(150, "", object)
    expected[own] = np.where(near.any(axis=1), table.obs_names[best], "")
    np.testing.assert_array_equal(table.obs["spatialfuser_partner"].astype(str), expected)
    assert table.obs["spatialfuser_partner_cosine"].isna()[expected == ""].all()
    assert not table.obs["spatialfuser_partner_passed"][expected == ""].any()


@pytest.fixture
def three(tmp_path):
    path = make_store(tmp_path / "three.zarr", a=slice_of(1, 90), b=slice_of(2, 80), c=slice_of(3, 70))
    with ResultWriter(open_atlas(path)) as writer:
        writer.uns("spatialfuser", {"links": LINKS})
    return path


@pytest.mark.parametrize("pair", [("b", "c"), ("a", "c")])
def test_slices_the_fit_did_not_lay_onto_each_other_need_a_radius(three, pair):
    before = bytes_of(three)
    with pytest.raises(BadInput, match=r"no reach for slices . and c.*; give a radius, or fit"):
        tl.map_slice(str(three), *pair)
    assert bytes_of(three) == before
    found = tl.map_slice(str(three), *pair, radius=5.0)
    assert (found.slice, found.onto) == ("c", pair[0])
    agrees(found, spatialdata.read_zarr(three).tables, 5.0)


def test_a_slice_the_fit_did_not_have_is_named_with_the_fit(tmp_path):
    path = make_store(tmp_path / "two.zarr", a=slice_of(1, 90), other=make_slice(2, 80))
    before = bytes_of(path)
    with pytest.raises(BadInput, match=r"slice 'other' has no spot .* together: atlasnmf fit spatialfuser"):
        tl.map_slice(str(path), "a", "other", radius=5.0)
    assert bytes_of(path) == before


@pytest.mark.parametrize(
    ("pair", "options", "error", "said"),
    [
        (("rna", "protien"), {}, BadOption, "did you mean 'protein'"),
        (("rna", "rna"), {}, BadOption, "'rna' is named twice"),
        (("rna", "protein"), {"radius": 0.0}, BadOption, "radius must be a positive distance, got 0"),
        (("rna", "protein"), {"radius": float("nan")}, BadOption, "radius must be a positive distance"),
        (("rna", "protein"), {"radius": 1e-9}, BadInput, "take a larger radius"),
        (("rna", "protein"), {"key": "spatialfuzer"}, BadInput, "did you mean 'X_spatialfuser'"),
        (("rna", "protein"), {"key_added": "domain"}, BadOption, "already; replace it with --overwrite"),
        (("rna", "protein"), {"key_added": "the partner"}, BadOption, "take 'the_partner'"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line_and_leaves_the_store(unwritten, pair, options, error, said):
    with pytest.raises(error, match=said) as raised:
        tl.map_slice(str(unwritten), *pair, **options)
    assert "\n" not in str(raised.value)


def test_a_store_without_the_fit_names_it(untouched):
    with pytest.raises(BadInput, match="fit it first: atlasnmf fit spatialfuser"):
        tl.map_slice(str(untouched), "slice_1", "slice_2")
