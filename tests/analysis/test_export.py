from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import spatialdata
from small_results import GENES, SETS, bytes_of, make_slice, make_store

import atlasnmf as an
from atlasnmf import tl
from atlasnmf.errors import BadInput, BadOption
from atlasnmf.store.atlas import open_atlas


def test_a_part_of_an_atlas_with_its_results(small, monkeypatch):
    monkeypatch.setattr("atlasnmf.analysis.export._RUN_ROWS", 50)
    tl.domains(str(small), n_domains=3)
    sdata = spatialdata.read_zarr(small)
    first, second = (sdata.tables[name] for name in ("slice_1", "slice_2"))
    names = [first.obs_names[i] for i in (200, 3)] + [second.obs_names[7]]
    part = an.to_anndata(str(small), spots=names, genes=["g30", "g02"])
    assert part.obs_names.tolist() == [first.obs_names[3], first.obs_names[200], second.obs_names[7]]
    assert part.var_names.tolist() == ["g30", "g02"]
    expected = np.vstack(
        [first[[3, 200], ["g30", "g02"]].X.todense(), second[[7], ["g30", "g02"]].X.todense()]
    )
    np.testing.assert_array_equal(part.X.todense(), expected)
    assert part.obs["slice"].tolist() == ["slice_1", "slice_1", "slice_2"]
    assert part.obs["domains"].tolist() == [
        *first.obs["domains"].iloc[[3, 200]],
        second.obs["domains"].iloc[7],
    ]
    for key in ("X_inspire", "inspire_factors", "spatial"):
        expected = np.concatenate([first.obsm[key][[3, 200]], second.obsm[key][[7]]])
        np.testing.assert_array_equal(part.obsm[key], expected)
    np.testing.assert_allclose(part.varm["inspire_loadings"], first.varm["inspire_loadings"][[30, 2]])
    part.write_h5ad(small.parent / "part.h5ad")


def test_slices_masks_and_numbers_choose_spots(small):
    atlas = open_atlas(small)
    whole = an.to_anndata(atlas)
    assert whole.shape == (440, 40)
    assert an.to_anndata(atlas, slices="slice_2").n_obs == 200
    mask = np.arange(440) % 3 == 0
    one, other = an.to_anndata(atlas, spots=mask), an.to_anndata(atlas, spots=np.flatnonzero(mask))
    np.testing.assert_array_equal(one.X.todense(), other.X.todense())
    np.testing.assert_array_equal(one.X.todense(), whole.X[mask].todense())


def test_tables_with_other_genes_and_names(tmp_path):
    first, second = make_slice(1, 60), make_slice(2, 50)
    second.obs_names = first.obs_names[:50]
    second.layers["scaled"] = 2 * second.X
    del first.obsm["X_inspire"]
    path = make_store(tmp_path / "s.zarr", a=first[:, :30].copy(), b=second[:, 10:].copy())
    part = an.to_anndata(str(path))
    assert part.var_names.tolist() == GENES
    assert part.obs_names.is_unique
    assert part.X[:60, 30:].nnz == 0
    np.testing.assert_array_equal(part.X[60:, 10:].todense(), second.X[:, 10:].todense())
    assert np.isnan(part.obsm["X_inspire"][:60]).all()
    assert part.obs["region"].dtype == "category"


def test_communication_starts_from_counts_places_and_labels(small, tmp_path):
    path = tl.export_communication(
        str(small), tmp_path / "c.h5ad", label_key="region", slices="slice_1", genes=["g05", "g01"]
    )
    found = anndata.read_h5ad(path)
    table = spatialdata.read_zarr(small).tables["slice_1"]
    counts = np.asarray(table.X.todense(), float)
    logs = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(found.X.todense(), logs[:, [5, 1]], rtol=1e-5)
    np.testing.assert_array_equal(found.layers["counts"].todense(), counts[:, [5, 1]])
    np.testing.assert_array_equal(found.obsm["spatial"], table.obsm["spatial"])
    assert found.obs["label"].tolist() == table.obs["region"].tolist()
    with pytest.raises(BadOption, match="exists"):
        tl.export_communication(str(small), path, label_key="region")


def test_usages_as_a_table_of_their_own(small, tmp_path):
    name = tl.usages_table(str(small))
    sdata = spatialdata.read_zarr(small)
    table = sdata.tables[name]
    expected = np.concatenate([sdata.tables[n].obsm["inspire_factors"] for n in ("slice_1", "slice_2")])
    np.testing.assert_array_equal(table.X, expected)
    assert table.var_names.tolist() == ["factor_0", "factor_1", "factor_2"]
    assert table.obs["spot"].tolist()[:2] == sdata.tables["slice_1"].obs_names[:2].tolist()
    # it is a result, no part of the atlas
    assert [t.name for t in open_atlas(small).tables] == ["slice_1", "slice_2"]
    with pytest.raises(BadOption, match="overwrite"):
        tl.usages_table(str(small))
    tl.usages_table(str(small), overwrite=True)
    adata = make_slice(3, 60)
    tl.usages_table(adata, name="own")
    assert adata.uns["own"].shape == (60, 3)


def test_usages_annotate_what_the_tables_annotate():
    import geopandas
    from shapely import Point
    from spatialdata.models import ShapesModel, TableModel

    table = make_slice(1, 40)
    table.obs["cell"] = np.arange(40)
    table.obs["piece"] = pd.Categorical(["circles"] * 40)
    shapes = geopandas.GeoDataFrame({"geometry": [Point(*p) for p in table.obsm["spatial"]], "radius": 1.0})
    sdata = spatialdata.SpatialData(
        shapes={"circles": ShapesModel.parse(shapes)},
        tables={"cells": TableModel.parse(table, region="circles", region_key="piece", instance_key="cell")},
    )
    tl.usages_table(sdata)
    attrs = sdata.tables["inspire_usages"].uns["spatialdata_attrs"]
    assert attrs["region_key"] == "region"
    joined = spatialdata.join_spatialelement_table(
        sdata=sdata, spatial_element_names="circles", table_name="inspire_usages", how="left"
    )[1]
    np.testing.assert_array_equal(joined.X, table.obsm["inspire_factors"])


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_regions_go_out_and_come_back(small, tmp_path, ending):
    path = tl.write_regions(str(small), "region", tmp_path / f"regions.{ending}")
    tl.read_regions(str(small), path, key_added="again")
    for table in spatialdata.read_zarr(small).tables.values():
        assert table.obs["again"].tolist() == table.obs["region"].tolist()


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_blank_regions_are_none_and_na_is_a_name(small, tmp_path, ending):
    spots = spatialdata.read_zarr(small).tables["slice_1"].obs_names[:3]
    frame = pd.DataFrame({"spot": spots, "region": ["NA", None, "nan"], "table": "slice_1"})
    path = tmp_path / f"r.{ending}"
    if ending == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, sep="\t" if ending == "tsv" else ",", index=False)
    tl.read_regions(str(small), path, key_added=f"of_{ending}")
    column = spatialdata.read_zarr(small).tables["slice_1"].obs[f"of_{ending}"]
    assert column.iloc[[0, 2]].tolist() == ["NA", "nan"]
    assert column.notna().sum() == 2


def test_results_that_are_tables_become_files(small, tmp_path):
    genes = tl.factor_genes(str(small), n_top=4)
    tl.enrichment(str(small), SETS, n_permutations=20)
    paths = {path.name: path for path in tl.write_tables(str(small), tmp_path / "out", ending="parquet")}
    found = pd.read_parquet(paths["inspire_genes.parquet"])
    assert found["gene"].tolist() == genes["gene"].tolist()
    assert "inspire_enrichment.parquet" in paths


def test_as_many_ranks_as_slices_make_no_common_rows(tmp_path):
    adata = anndata.AnnData(np.ones((2, 2)), obsm={"spatial": np.eye(2)})
    ranks = {"ranks": [3, 4], "instability_amari_mean": [0.1, 0.2], "instability_amari_sd": [0.01, 0.02]}
    of_fit = {"slices": ["a", "b"], "n_spots": [7, 9], "warnings": ["one", "two"], "mean_factors": [0.5, 0.5]}
    adata.uns["study"] = {name: np.array(values) for name, values in {**ranks, **of_fit}.items()}
    adata.uns["pair"] = {
        "slices": np.array(["a"]),
        "n_spots": np.array([7]),
        "genes": np.array(["g", "h"]),
        "platform_scaling": np.array([1.0, 2.0]),
    }
    files = {path.name: pd.read_csv(path) for path in tl.write_tables(adata, tmp_path)}
    assert {name: list(frame) for name, frame in files.items()} == {
        "study.slices.csv": ["slices", "n_spots"],
        "study.ranks.csv": ["ranks", "instability_amari_mean", "instability_amari_sd"],
        "pair.slices.csv": ["slices", "n_spots"],
        "pair.genes.csv": ["genes", "platform_scaling"],
    }


def test_a_file_in_the_place_of_a_folder_is_named(small, tmp_path):
    (tmp_path / "notes").write_text("mine")
    tl.factor_genes(str(small), n_top=4)
    for folder in (tmp_path / "notes", tmp_path / "notes" / "tables"):
        with pytest.raises(BadInput, match=r"notes is a file and no folder"):
            tl.write_tables(str(small), folder)
    assert (tmp_path / "notes").read_text() == "mine"


def test_what_names_the_rows_stands_first(small, tmp_path):
    tl.factor_genes(str(small), n_top=4)
    path = {path.name: path for path in tl.write_tables(str(small), tmp_path)}["inspire_genes.csv"]
    assert list(pd.read_csv(path)) == ["factor", "rank", "gene", "fold", "loading", "specific"]


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda s, f: an.to_anndata(s, slices="slice_3"), BadOption, "did you mean"),
        (lambda s, f: an.to_anndata(s, genes=["g99"]), BadOption, "no gene 'g99'"),
        (lambda s, f: an.to_anndata(s, spots=["s1_9999"]), BadOption, "no spot 's1_9999'"),
        (lambda s, f: an.to_anndata(s, spots=[9999]), BadOption, "from 0 to 439"),
        (lambda s, f: an.to_anndata(s, spots=np.zeros(3, bool)), BadOption, "mask of 3"),
        (lambda s, f: an.to_anndata(s, spots=np.zeros(440, bool)), BadInput, "no spot"),
        (lambda s, f: tl.export_communication(s, f / "c.zarr"), BadOption, "end in .h5ad"),
        (lambda s, f: tl.export_communication(s, f / "c.h5ad"), BadInput, "no obs column 'domains'"),
        (lambda s, f: tl.usages_table(s, "stanmf"), BadInput, "atlasnmf fit stanmf"),
        (lambda s, f: tl.write_regions(s, "region", f / "r.xlsx"), BadOption, "not 'r.xlsx'"),
        (lambda s, f: tl.read_regions(s, f / "r.csv", key_added="new"), BadInput, "no file"),
        (lambda s, f: tl.write_tables(s, f / "t"), BadInput, "factor_genes"),
        (lambda s, f: tl.write_tables(s, f / "t", ending="xlsx"), BadOption, "csv, tsv or parquet"),
        (lambda s, f: tl.write_regions(s, "region", f / "no" / "r.csv"), BadInput, "there is no folder"),
        (lambda s, f: tl.write_gene_sets(SETS, f / "no" / "r.gmt"), BadInput, "there is no folder"),
        (
            lambda s, f: tl.export_communication(s, f / "no" / "c.h5ad", label_key="region"),
            BadInput,
            "there is no folder",
        ),
    ],
)
def test_what_cannot_be_done_is_said_and_leaves_the_store(untouched, tmp_path, call, error, words):
    with pytest.raises(error, match=words):
        call(str(untouched), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_regions_of_unknown_spots_are_said(small, tmp_path):
    before = bytes_of(small)
    frame = pd.DataFrame({"spot": ["s1_0", "ghost"], "region": ["a", "b"]})
    frame.to_csv(tmp_path / "r.csv", index=False)
    with pytest.raises(BadInput, match="'ghost'"):
        tl.read_regions(str(small), tmp_path / "r.csv", key_added="new")
    frame.rename(columns={"spot": "cell"}).to_csv(tmp_path / "r.csv", index=False)
    with pytest.raises(BadInput, match="spot and region"):
        tl.read_regions(str(small), tmp_path / "r.csv", key_added="new")
    assert bytes_of(small) == before
