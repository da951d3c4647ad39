from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import spatialdata

from atlasnmf import tl
from atlasnmf.analysis.region_unions import link_regions
from atlasnmf.analysis.regions import regions_of
from atlasnmf.analysis.stored_patterns import stored_patterns
from atlasnmf.errors import BadInput, BadOption
from atlasnmf.graph.grid import grid_graph
from atlasnmf.metrics import morans_i
from atlasnmf.pipeline.volumes import simulate_volume
from atlasnmf.store.atlas import open_atlas
from atlasnmf.store.ontology import Ontology
from atlasnmf.store.results import ResultWriter


@pytest.fixture(scope="module")
def brain(tmp_path_factory):
    """A made volume whose planted patterns are stored as the result of a fit."""
    path = tmp_path_factory.mktemp("brain") / "brain.zarr"
    simulate_volume(path, shape=(18, 15, 16), n_regions=16, n_genes=60, n_patterns=4, missing=0.05, seed=1)
    table = spatialdata.read_zarr(path).tables["volume"]
    with ResultWriter(open_atlas(path)) as writer:
        writer.per_spot("stanmf_patterns", 4)
        writer.put_spots("stanmf_patterns", np.arange(len(table)), table.obsm["true_patterns"])
        writer.varm("stanmf_coefficients", table.varm["true_coefficients"], table.var_names)
        writer.uns("stanmf", {"transform": "none"})
    return path


def table_of(path):
    return spatialdata.read_zarr(path).tables["volume"]


def test_moran_over_voxels(brain):
    table = table_of(brain)
    found = tl.morans_i(str(brain), overwrite=True)
    expected = morans_i(table.obsm["true_patterns"], grid_graph(table.obsm["voxel"]))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert (found > 0.5).all()
    np.testing.assert_allclose(table_of(brain).uns["stanmf_morans_i"]["morans_i"], expected)


def test_reconstruction_of_every_gene(brain, monkeypatch):
    monkeypatch.setattr("atlasnmf.analysis.stored_patterns._BLOCK_ROWS", 100)
    table = table_of(brain)
    found = tl.reconstruction(str(brain), overwrite=True)
    values, fitted = np.asarray(table.X), table.obsm["true_patterns"] @ table.varm["true_coefficients"].T
    expected = [np.corrcoef(values[:, g], fitted[:, g])[0, 1] for g in range(60)]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.index.tolist() == table.var_names.tolist()
    np.testing.assert_allclose(table_of(brain).varm["stanmf_reconstruction"][:, 0], expected, atol=1e-6)


def test_markers_and_networks(brain):
    table = table_of(brain)
    loadings = table.varm["true_coefficients"]
    found = tl.markers(str(brain), n_top=3, overwrite=True)
    importance = loadings.max(axis=1) / loadings.sum(axis=1)
    for k in range(4):
        own = np.flatnonzero(loadings.argmax(axis=1) == k)
        best = own[np.argsort(-importance[own], kind="stable")][:3]
        assert found.query(f"pattern == {k}")["gene"].tolist() == table.var_names[best].tolist()
    stored = table_of(brain).uns["stanmf_markers"]
    assert stored["genes_per_pattern"].sum() == 60
    assert stored["genes"].tolist() == table.var_names.tolist()
    networks = tl.gene_networks(str(brain), n_top=6, edge_share=0.3, overwrite=True)
    stored = table_of(brain).uns["stanmf_networks"]
    assert len(stored["nodes"]["gene"]) == sum(len(network) for network in networks)
    assert len(stored["edges"]["source"]) == sum(network.number_of_edges() for network in networks)
    assert stored["edges"]["pattern"].max() == 3


def test_planted_regions_are_found_and_written(brain):
    table = table_of(brain)
    links = tl.link_regions(str(brain), overwrite=True, search_to=5)
    regions = regions_of(
        table.obs["region"],
        grid_graph(table.obsm["voxel"]),
        ontology=Ontology.of(table.uns["ontology"]),
    )
    expected = link_regions(table.obsm["true_patterns"], regions)
    pd.testing.assert_frame_equal(links.unions, expected.unions)
    planted = [set(text.split("+")) for text in table.uns["truth"]["pattern_regions"]]
    assert [set(text.split("+")) for text in links.best()["regions"]] == planted
    stored = table_of(brain).uns["stanmf_regions"]
    np.testing.assert_allclose(stored["pearson"], expected.pearson, equal_nan=True)
    assert stored["unions"]["regions"].tolist() == expected.unions["regions"].tolist()
    assert [set(text.split("+")) for text in stored["searched"]["regions"]] == planted


def test_a_region_is_predicted_from_its_patterns(brain):
    table = table_of(brain)
    first = str(table.uns["truth"]["pattern_regions"][0])
    found = tl.predict_region(str(brain), first.split("+"), n_chosen=1, n_random=10)
    assert found.patterns == (0,)
    assert found.auc > 0.99
    with pytest.raises(BadInput, match="no region 'nowhere'"):
        tl.predict_region(str(brain), "nowhere")


def test_other_ways_are_written_and_can_be_read_alike(brain):
    found = tl.comparisons(str(brain), overwrite=True)
    table = table_of(brain)
    for name, values in found.items():
        np.testing.assert_array_equal(table.obsm[f"comparison_{name}"], values)
    links = tl.link_regions(str(brain), "comparison_pca_kmeans", overwrite=True)
    assert len(links.best()) == 4
    assert tl.morans_i(str(brain), "comparison_pca", overwrite=True).shape == (4,)


def test_what_is_there_is_kept_and_what_is_not_is_named(brain):
    tl.morans_i(str(brain), key_added="kept")
    with pytest.raises(BadOption, match="overwrite"):
        tl.morans_i(str(brain), key_added="kept")
    with pytest.raises(BadInput, match="did you mean"):
        tl.morans_i(str(brain), "stanmv")
    with pytest.raises(BadInput, match="no obs column 'regions'"):
        tl.link_regions(str(brain), region_key="regions", key_added="other")
    with pytest.raises(BadInput, match="varm key"):
        tl.markers(str(brain), "true_patterns", key_added="other")
    with pytest.raises(BadOption, match="search beyond"):
        tl.link_regions(str(brain), search_to=2, key_added="other")


@pytest.fixture
def slices():
    """Two slices of counts in one table, spots on no grid; one gene outside the model, one spot left out."""
    rng = np.random.default_rng(0)
    n = 120
    patterns = rng.gamma(1.0, size=(n, 3)).astype(np.float32)
    coefficients = rng.gamma(1.0, size=(8, 3))
    counts = rng.poisson(patterns @ coefficients.T)
    patterns[4] = np.nan
    coefficients[5] = np.nan
    obs = pd.DataFrame(
        {
            "slice": pd.Categorical(rng.choice(["a", "b"], n)),
            "layer": pd.Categorical(rng.choice(["L1", "L2", "L3"], n)),
        },
        index=[f"s{i}" for i in range(n)],
    )
    obs.loc["s7", "layer"] = None
    adata = anndata.AnnData(scipy.sparse.csr_matrix(counts.astype(np.int32)), obs=obs)
    adata.obsm["spatial"] = rng.uniform(0, 10, (n, 2))
    adata.obsm["stanmf_patterns"] = patterns
    adata.varm["stanmf_coefficients"] = coefficients
    adata.uns["stanmf"] = {"transform": "log", "target_sum": 1e3}
    return adata


def test_slices_are_not_joined_and_spots_left_out_are(slices):
    atlas = open_atlas(slices, slice_key="slice")
    graph = stored_patterns(atlas).graph(n_neighbors=4).to_scipy()
    codes = slices.obs["slice"].cat.codes.to_numpy()
    rows, columns = graph.nonzero()
    assert (codes[rows] == codes[columns]).all()
    assert (rows != columns).all()
    assert (graph != graph.T).nnz == 0
    xy = slices.obsm["spatial"]
    for spot in range(0, 120, 10):
        same = np.flatnonzero((codes == codes[spot]) & (np.arange(120) != spot))
        nearest = same[np.argsort(np.linalg.norm(xy[same] - xy[spot], axis=1))[:4]]
        assert set(nearest) <= set(graph[spot].indices)
    links = tl.link_regions(atlas, region_key="layer")
    assert set(links.regions) == {"L1", "L2", "L3"}
    known = np.isfinite(slices.obsm["stanmf_patterns"]).all(axis=1)
    inside = (slices.obs["layer"] == "L2").to_numpy()
    expected = np.corrcoef(slices.obsm["stanmf_patterns"][known, 1], inside[known])[0, 1]
    assert links.pearson[links.regions.index("L2"), 1] == pytest.approx(expected, abs=1e-6)


def test_regions_above_come_from_a_table_too(slices, tmp_path):
    (tmp_path / "layers.csv").write_text("id,acronym,parent_id\n1,upper,\n2,L1,1\n3,L2,1\n4,L3,\n")
    atlas = open_atlas(slices, slice_key="slice")
    links = tl.link_regions(atlas, region_key="layer", ontology=tmp_path / "layers.csv")
    assert set(links.regions) == {"upper", "L1", "L2", "L3"}
    known = np.isfinite(slices.obsm["stanmf_patterns"]).all(axis=1)
    upper = slices.obs["layer"].isin(["L1", "L2"]).to_numpy()
    expected = np.corrcoef(slices.obsm["stanmf_patterns"][known, 0], upper[known])[0, 1]
    assert links.pearson[links.regions.index("upper"), 0] == pytest.approx(expected, abs=1e-6)
    found = tl.predict_region(
        atlas, "upper", region_key="layer", ontology=str(tmp_path / "layers.csv"), n_random=2
    )
    assert 0.4 < found.auc < 1


def test_counts_are_transformed_as_the_fit_says(slices):
    found = tl.reconstruction(slices)
    model = [g for g in range(8) if g != 5]
    counts = np.asarray(slices.X.todense(), float)[:, model]
    values = np.log1p(1e3 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))
    patterns = slices.obsm["stanmf_patterns"].astype(float)
    known = np.isfinite(patterns).all(axis=1)
    fitted = patterns[known] @ slices.varm["stanmf_coefficients"][model].T
    expected = [np.corrcoef(values[known, i], fitted[:, i])[0, 1] for i in range(7)]
    np.testing.assert_allclose(found.to_numpy()[model], expected, atol=1e-5)
    assert np.isnan(found.iloc[5])
    plain = tl.reconstruction(slices, transform="none", overwrite=True)
    assert plain.iloc[0] == pytest.approx(np.corrcoef(counts[known, 0], fitted[:, 0])[0, 1], abs=1e-6)
