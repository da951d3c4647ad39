"""SIID through the command line: a pair in a store, what is refused, a holdout, imputed genes."""

import json
import shutil

import anndata
import numpy as np
import pytest
import scipy.sparse
import spatialdata
from small_stores import call

from atlasnmf import open_atlas
from atlasnmf.errors import BadInput, BadOption
from atlasnmf.metrics import hungarian_match, jensen_shannon
from atlasnmf.models.siid.params import FACTOR_LADDER
from atlasnmf.simulate import simulate_pair
from atlasnmf.store.ingest import ingest

SIZES = {"n_cells": 3000, "n_genes": 120, "n_panel": 60, "grid": 5, "n_types": 4}
PAIR = ["--fine", "xenium", "--coarse", "visium", "--n-factors", "4"]
QUICK = ["--passes", "12", "--restarts", "2", "--restart-passes", "4"]


def fit(store, *options):
    """Fit a pair; return the record for scripts."""
    code, out, err = call("fit", "siid", str(store), *PAIR, *options, "--json")
    assert code == 0, err
    return json.loads(out)


def refused(store, *options):
    code, _, err = call("fit", "siid", str(store), *options)
    assert code == 2, err
    assert [line for line in err.splitlines() if line.startswith("error: ")] == [err.splitlines()[-1]]
    return err


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return simulate_pair(tmp_path_factory.mktemp("pair") / "pair.zarr", **SIZES, seed=1)


@pytest.fixture
def store(clean, tmp_path):
    return shutil.copytree(clean, tmp_path / "pair.zarr")


@pytest.fixture(scope="module")
def fitted(clean, tmp_path_factory):
    store = shutil.copytree(clean, tmp_path_factory.mktemp("fitted") / "pair.zarr")
    return store, fit(
        store,
        *("--preset", "deconvolution", "--passes", "50"),
        *("--holdout", "0.1", "--impute", "all", "--labels", "cell_type"),
    )


def test_the_truth_is_found(fitted):
    tables = spatialdata.read_zarr(fitted[0]).tables
    fine, coarse = tables["xenium"], tables["visium"]
    truth = fine.obsm["true_factors"]
    _, columns = hungarian_match(truth.T @ np.nan_to_num(fine.obsm["siid_factors"]))
    found = coarse.obsm["siid_proportions"][:, columns]
    assert np.nanmean(jensen_shannon(found, coarse.obsm["true_proportions"])) < 0.02
    types = fine.obs["siid_type"].cat.codes.to_numpy()
    assert (types == columns[truth.argmax(1)]).mean() > 0.95
    assert fine.uns["siid"]["fine"] == "xenium"
    assert 0 < fine.uns["siid"]["links"]["share"] <= 1


def test_the_holdout_is_scored_beside_the_baselines(fitted):
    store, record = fitted
    quality = record["quality"]
    assert quality["n_genes"] == 6
    assert quality["ari"] > 0.9
    assert quality["n_labelled"] == 3000
    assert quality["r2"] > max(quality["baselines"].values())
    table = spatialdata.read_zarr(store).tables["xenium"].uns["siid"]["holdout"]
    assert len(table["gene"]) == len(table["r2"]) == 6
    assert np.mean(table["r2"]) == pytest.approx(quality["r2"], abs=1e-4)
    np.testing.assert_allclose(table["predicted_zeros"], table["zeros"], atol=0.05)


def test_imputed_genes_are_written_and_can_be_computed_later(fitted):
    store, record = fitted
    assert "siid_imputed" in record["table results"]["xenium"]
    fine = spatialdata.read_zarr(store).tables["xenium"]
    genes = list(fine.uns["siid"]["imputed_genes"])
    atlas = open_atlas(store)
    lazy = atlas.imputed(genes[5:25])
    assert lazy.shape == (3000, 20)
    np.testing.assert_allclose(np.asarray(lazy), fine.obsm["siid_imputed"][:, 5:25], rtol=2e-3, atol=1e-5)
    np.testing.assert_array_equal(lazy.read(10, 20), np.asarray(lazy)[10:20])
    assert sum(len(block) for _, block in lazy.blocks()) == 3000
    panel = [gene for gene in genes if gene in set(fine.var_names)]
    counts = np.asarray(fine[:, panel].X.sum(0)).ravel()
    means = np.asarray(atlas.imputed(panel)).sum(0)
    assert np.corrcoef(np.log1p(counts), np.log1p(means))[0, 1] > 0.9
    with pytest.raises(BadOption, match="nope"):
        atlas.imputed("nope")
    with pytest.raises(BadInput, match="no pair fitted"):
        atlas.imputed(genes[0], key="other")


def test_the_same_bits_for_one_and_two_workers(store):
    for workers in "1", "2":
        fit(store, *QUICK, "--workers", workers, "--key-added", f"w{workers}")
    tables = spatialdata.read_zarr(store).tables
    for table, name in ("xenium", "factors"), ("visium", "proportions"):
        np.testing.assert_array_equal(tables[table].obsm[f"w1_{name}"], tables[table].obsm[f"w2_{name}"])


def test_a_number_of_factors_is_chosen_and_said(store):
    code, out, err = call(
        "fit", "siid", str(store), *PAIR[:4], "--n-factors", "auto", "--passes", "4", "--restarts", "1"
    )
    assert code == 0, err
    chosen = spatialdata.read_zarr(store).tables["xenium"].obsm["siid_factors"].shape[1]
    assert f"{chosen} factors" in out
    assert chosen in FACTOR_LADDER


def test_folds_hide_every_gene_once(store):
    assert fit(store, *QUICK, "--holdout", "5fold")["quality"]["n_genes"] == 60


def test_a_holdout_from_a_file_needs_no_file_later(store, tmp_path):
    names = tmp_path / "genes.txt"
    genes = open_atlas(store, tables=["xenium"]).genes[:3]
    names.write_text("\n".join(genes))
    fit(store, *QUICK, "--holdout", str(names))
    params = spatialdata.read_zarr(store).tables["xenium"].uns["siid"]["params"]
    assert sorted(params["holdout"].split(",")) == sorted(genes)


def test_python_takes_the_tables_it_is_told(store):
    import atlasnmf as an

    siid = an.Siid(fine="xenium", coarse="visium", n_factors=4, passes=5, restarts=1)
    done = siid.fit(an.open_atlas(store))
    assert [table.name for table in done.atlas.tables] == ["xenium", "visium"]
    assert set(done.write()) == {"xenium", "visium"}


def test_a_turned_frame_is_aligned_or_moved_back(clean, tmp_path):
    tables = spatialdata.read_zarr(clean).tables
    paths = []
    turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    for name in "xenium", "visium":
        table = tables[name]
        if name == "xenium":
            table.obsm["spatial"] = table.obsm["spatial"] @ turn.T + [5000.0, 100.0]
        table.write_h5ad(tmp_path / f"{name}.h5ad")
        paths.append(str(tmp_path / f"{name}.h5ad"))
    ingest(paths, str(tmp_path / "turned.zarr"))
    store = str(tmp_path / "turned.zarr")
    assert "0% linked" in refused(store, *PAIR, "--max-distance", "60")
    fit(store, *QUICK, "--affine", "0,1,-100;-1,0,5000", "--key-added", "moved")
    fit(store, *QUICK, "--align", "--key-added", "aligned")
    uns = spatialdata.read_zarr(store).tables["xenium"].uns
    assert uns["moved"]["links"]["share"] > 0.95
    assert uns["aligned"]["links"]["score"] > 0.3
    assert uns["aligned"]["links"]["share"] > 0.95


def test_what_cannot_be_a_pair_is_refused(store):
    assert "--fine and --coarse" in refused(store)
    assert "no table" in refused(store, "--fine", "xeniom", "--coarse", "visium")
    assert "twice" in refused(store, "--fine", "visium", "--coarse", "visium")
    assert "more than the 60 genes" in refused(store, *PAIR[:4], "--n-factors", "61")
    assert "'nope'" in refused(store, *PAIR, "--holdout", "GENE0001,nope")
    assert "--holdout" in refused(store, *PAIR, "--holdout", "1.5")
    assert "'nope'" in refused(store, *PAIR, "--impute", "nope")
    assert "no obs column 'nope'" in refused(store, *PAIR, "--labels", "nope")
    assert "--affine" in refused(store, *PAIR, "--affine", "1,2")
    assert "0% linked" in refused(store, *PAIR, "--affine", "1,0,1e6;0,1,0")
    assert "--max-distance" in refused(store, *PAIR, "--max-distance", "0")


def pair_store(folder, change):
    rng = np.random.default_rng(0)
    fine = anndata.AnnData(scipy.sparse.csr_matrix(rng.poisson(1.0, (200, 12)).astype(np.float32)))
    coarse = anndata.AnnData(scipy.sparse.csr_matrix(rng.poisson(5.0, (12, 20)).astype(np.float32)))
    fine.obsm["spatial"] = rng.uniform(0, 8, (200, 2))
    coarse.obsm["spatial"] = np.stack(np.meshgrid(np.arange(4) * 2.5, np.arange(3) * 3.0), -1).reshape(-1, 2)
    fine.var_names, coarse.var_names = [f"g{i}" for i in range(12)], [f"g{i}" for i in range(20)]
    fine, coarse = change(fine, coarse)
    folder.mkdir(exist_ok=True)
    for name, table in ("xenium", fine), ("visium", coarse):
        table.write_h5ad(folder / f"{name}.h5ad")
    ingest([str(folder / "xenium.h5ad"), str(folder / "visium.h5ad")], str(folder / "pair.zarr"))
    return folder / "pair.zarr"


def renamed(fine, coarse):
    fine.var_names = [f"ENSG{i}" for i in range(12)]
    return fine, coarse


def halves(fine, coarse):
    coarse.X = coarse.X * 0.5
    return fine, coarse


def test_counts_and_genes_that_do_not_fit_are_refused(tmp_path):
    assert "no gene in common" in refused(pair_store(tmp_path / "names", renamed), *PAIR)
    assert "whole" in refused(pair_store(tmp_path / "halves", halves), *PAIR)


def test_a_panel_beyond_the_coarse_genes_and_lost_cells_are_said(tmp_path):
    def change(fine, coarse):
        fine.obsm["spatial"][:20] += 500.0
        return fine, coarse[:, 2:].copy()

    store = pair_store(tmp_path / "partly", change)
    warnings = " / ".join(fit(store, *QUICK, "--max-distance", "1.5")["warnings"])
    assert "2 genes of 'xenium' are not in 'visium'" in warnings
    assert "lie farther than 1.5 units" in warnings
    fine = spatialdata.read_zarr(store).tables["xenium"]
    assert np.isfinite(fine.obsm["siid_factors"]).all()
