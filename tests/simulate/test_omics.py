import json

import numpy as np
import pytest
import scipy.spatial
import spatialdata
from typer.testing import CliRunner

from atlasnmf.cli import app
from atlasnmf.errors import BadOption
from atlasnmf.simulate import plan_omics, simulate_omics
from atlasnmf.simulate.omics import DIFFICULTIES

SIZES = {"n_spots": 900, "n_genes": 120, "n_proteins": 30, "n_factors": 6}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return simulate_omics(tmp_path_factory.mktemp("omics") / "omics.zarr", **SIZES, difficulty="easy", seed=3)


def test_spatialdata_reads_both_tables_with_the_truth(store):
    omics, tables = plan_omics(**SIZES, difficulty="easy", seed=3), spatialdata.read_zarr(store).tables
    assert sorted(tables) == ["protein", "rna"]
    for section in omics.rna, omics.protein:
        table = tables[section.name]
        assert table.shape == (len(section.body), len(section.names))
        np.testing.assert_array_equal(table.obsm["spatial"], section.stored_positions)
        np.testing.assert_array_equal(table.obsm["true_position"], section.true_positions)
        np.testing.assert_allclose(table.varm["true_loadings"].sum(axis=0), 1)
        np.testing.assert_allclose(table.obsm["true_factors"].sum(axis=1), 1, atol=1e-5)
        np.testing.assert_array_equal(table.uns["truth"]["seen_factors"], section.seen)
        assert table.uns["truth"]["difficulty"] == "easy"
        assert table.obs["domain"].nunique() > 3
    assert not set(tables["rna"].var_names) & set(tables["protein"].var_names)
    assert set(tables["protein"].var["encoded_by"]) <= set(tables["rna"].var_names)


def test_partners_are_the_nearest_spots_of_the_other_slice_and_of_the_same_tissue(store):
    tables = spatialdata.read_zarr(store).tables
    for own, other in ("rna", "protein"), ("protein", "rna"):
        mine, theirs = tables[own], tables[other]
        gaps = scipy.spatial.distance.cdist(mine.obsm["true_position"], theirs.obsm["true_position"])
        near = gaps.min(axis=1) <= 0.75 * 25.0
        names = theirs.obs_names.to_numpy()[gaps.argmin(axis=1)]
        np.testing.assert_array_equal(mine.obs["true_partner"], np.where(near, names, ""))
        partnered = mine.obs[near]
        same = partnered["domain"].to_numpy() == theirs.obs["domain"][partnered["true_partner"]].to_numpy()
        assert same.mean() > 0.85


def test_counts_have_the_means_of_the_model(store):
    omics, tables = plan_omics(**SIZES, difficulty="easy", seed=3), spatialdata.read_zarr(store).tables
    for section in omics.rna, omics.protein:
        table = tables[section.name]
        totals = np.asarray(table.X.sum(axis=1)).ravel()
        assert totals.mean() == pytest.approx(section.depth, rel=0.05)
        means = (table.obsm["true_factors"] * totals[:, None]).sum(axis=0) @ section.loadings.T
        used = means > 0
        counted = np.asarray(table.X.sum(axis=0)).ravel()
        assert not counted[~used].any()
        deviation = (counted[used] - means[used]) / np.sqrt(means[used])
        assert np.abs(deviation).max() < 5
        assert 0.7 < deviation.std() < 1.3


@pytest.mark.parametrize("feature_overlap", [0.0, 0.5, 1.0])
def test_feature_overlap_is_the_share_of_programmes_that_both_see(feature_overlap):
    omics = plan_omics(**SIZES, feature_overlap=feature_overlap)
    rna, protein = omics.rna, omics.protein
    assert (rna.seen & protein.seen).mean() == feature_overlap
    assert (rna.seen | protein.seen).all()
    assert abs(int(rna.seen.sum()) - int(protein.seen.sum())) <= 1
    # what is not seen looks alike
    for section in rna, protein:
        if (~section.seen).sum() > 1:
            assert np.ptp(section.loadings[:, ~section.seen], axis=1).max() == pytest.approx(0, abs=1e-12)


def test_the_stored_frame_is_the_true_one_warped_turned_and_shifted():
    plain = plan_omics(**SIZES, warp=0.0, rotation=30.0)
    true, stored = plain.protein.true_positions, plain.protein.stored_positions
    angle = np.radians(30)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    rest = stored - true @ turn.T
    np.testing.assert_allclose(rest, np.broadcast_to(rest[0], rest.shape), atol=1e-9)
    bent = plan_omics(**SIZES, warp=50.0, rotation=30.0).protein.stored_positions
    lengths = np.linalg.norm(bent - stored, axis=1)
    assert lengths.max() == pytest.approx(50, rel=1e-6)
    # smooth: neighbours are displaced alike
    nearest = scipy.spatial.cKDTree(true).query(true, k=2)[1][:, 1]
    assert np.linalg.norm((bent - stored) - (bent - stored)[nearest], axis=1).max() < 20
    np.testing.assert_array_equal(plain.rna.true_positions, plain.rna.stored_positions)


@pytest.mark.parametrize("overlap", [0.3, 1.0])
def test_the_overlap_is_the_share_of_tissue_in_both(overlap):
    omics = plan_omics(**SIZES | {"n_spots": 4000}, overlap=overlap, resolution=1.0)
    assert len(omics.rna.body) == pytest.approx(4000, rel=0.05)
    expected = overlap / ((1 + overlap) / 2)
    assert (omics.partners[0] >= 0).mean() == pytest.approx(expected, abs=0.06)
    coarse = plan_omics(**SIZES | {"n_spots": 4000}, overlap=overlap, resolution=2.0)
    assert len(coarse.protein.body) == pytest.approx(len(omics.protein.body) / 4, rel=0.1)


def test_links_and_names():
    omics = plan_omics(**SIZES, link=1.0, feature_overlap=1.0, shared_names=0.5)
    shared = [p for p, name in enumerate(omics.protein.names) if name in omics.rna.names]
    assert len(shared) == 15
    for p in shared:
        assert omics.protein.names[p] == omics.rna.names[omics.encoded_by[p]]

    def likeness(link):
        made = plan_omics(**SIZES, link=link, feature_overlap=1.0)
        genes, proteins = made.rna.loadings[made.encoded_by], made.protein.loadings
        return np.mean([np.corrcoef(g, p)[0, 1] for g, p in zip(genes, proteins, strict=True)])

    assert likeness(1.0) > likeness(0.5) + 0.05 > likeness(0.0) + 0.2
    assert likeness(0.0) == pytest.approx(0, abs=0.2)


def test_difficulties_are_ordered():
    easy, medium, hard = (DIFFICULTIES[name] for name in ("easy", "medium", "hard"))
    for one, next_one in (easy, medium), (medium, hard):
        assert one.feature_overlap > next_one.feature_overlap
        assert one.overlap > next_one.overlap
        assert one.link > next_one.link
        assert one.depth > next_one.depth
        assert one.warp < next_one.warp
        assert one.resolution < next_one.resolution


@pytest.mark.parametrize(
    "wrong",
    [
        {"difficulty": "brutal"},
        {"feature_overlap": 1.5},
        {"overlap": 0.0},
        {"resolution": 0.0},
        {"n_spots": 10},
        {"n_factors": 61},
        {"shared_names": 0.5, "n_proteins": 130},
    ],
)
def test_sizes_that_do_not_go_together_are_refused(wrong):
    with pytest.raises(BadOption):
        plan_omics(**SIZES | wrong)


def test_the_same_seed_writes_the_same_bytes(store, tmp_path):
    again = simulate_omics(tmp_path / "again.zarr", **SIZES, difficulty="easy", seed=3)
    for path in store.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (again / path.relative_to(store)).read_bytes()


def test_the_command_writes_what_it_says(tmp_path):
    flags = ["--n-spots", "400", "--n-genes", "60", "--n-proteins", "12", "--n-factors", "4", "--json"]
    done = CliRunner().invoke(
        app, ["simulate", "omics", str(tmp_path / "o.zarr"), *flags, "--overlap", "0.9"]
    )
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout.strip().splitlines()[-1])
    assert (said["n_genes"], said["overlap"], said["feature_overlap"]) == (60, 0.9, None)
    tables = spatialdata.read_zarr(tmp_path / "o.zarr").tables
    assert tables["protein"].n_vars == 12
    assert tables["rna"].uns["truth"]["overlap"] == 0.9
