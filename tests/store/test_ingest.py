from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.schema import Csr
from atlasnmf.store import h5ad
from atlasnmf.store.atlas import open_atlas
from atlasnmf.store.ingest import ingest
from atlasnmf.store.writer import create_store


class Listener:
    """Remembers what is said."""

    def __init__(self):
        self.said = []
        self.spots = 0

    def stage(self, name, total=None, unit="spots"):
        from contextlib import nullcontext

        def advance(n):
            self.spots += n

        return nullcontext(advance)

    def note(self, message):
        self.said.append(message)

    warn = note

    def metrics(self, record):
        pass


@pytest.fixture
def rich_table(new_table):
    table = new_table(50)
    table.obs["domain"] = pd.Categorical(["a", "b"] * 25)
    table.obs["depth (log)"] = np.arange(50.0)
    table.obs["Domain"] = "same but for the case"
    table.obs["maybe"] = pd.array([1, None] * 25, dtype="Int64")
    table.var["symbol"] = [f"S{i}" for i in range(12)]
    table.obsm["sparse"] = scipy.sparse.csr_matrix(np.eye(50, 3))
    table.obsm["stack"] = np.zeros((50, 2, 3))
    table.obsm["frame"] = pd.DataFrame(np.ones((50, 2)), index=table.obs_names, columns=["x", "y"])
    table.varm["loadings"] = np.arange(24.0).reshape(12, 2)
    table.layers["log"] = scipy.sparse.csr_matrix(table.X.log1p())
    table.layers["scaled"] = np.asarray(table.X.todense()) * 2
    table.uns["truth"] = {"n": 3, "names": np.array(["a", "b"], dtype=object)}
    table.uns["ranked"] = {"names": np.rec.fromarrays([["g1", "g2"], [1.0, 2.0]], names="a,b")}
    table.uns["spatialdata_attrs"] = {"region": "gone", "region_key": "r", "instance_key": "i"}
    table.obsp["graph"] = scipy.sparse.identity(50, format="csr")
    table.raw = table
    return table


@pytest.mark.parametrize("layout", ["csr", "csc", "dense"])
def test_a_file_becomes_a_table_spatialdata_reads(
    tmp_path, rich_table, read_store, as_array, layout, monkeypatch
):
    monkeypatch.setattr(h5ad, "_BLOCK_BYTES", 500)  # many blocks
    expected = as_array(rich_table)
    rich_table.X = {"csr": rich_table.X, "csc": rich_table.X.tocsc(), "dense": expected}[layout]
    rich_table.write_h5ad(tmp_path / "Slice 1.h5ad")
    events = Listener()
    ingest([tmp_path / "Slice 1.h5ad"], tmp_path / "out.zarr", events=events)
    table = read_store(tmp_path / "out.zarr").tables["Slice_1"]
    np.testing.assert_array_equal(as_array(table), expected)
    assert scipy.sparse.issparse(table.X) is (layout != "dense")
    assert table.obs_names.equals(rich_table.obs_names)
    assert table.var["symbol"].tolist() == rich_table.var["symbol"].tolist()
    assert set(table.obs) == {"domain", "depth_log", "Domain_1", "maybe"}
    assert table.obs["domain"].dtype == "category"
    np.testing.assert_array_equal(table.obsm["spatial"], rich_table.obsm["spatial"])
    np.testing.assert_array_equal(table.obsm["frame"].to_numpy(), np.ones((50, 2)))
    np.testing.assert_array_equal(table.varm["loadings"], rich_table.varm["loadings"])
    np.testing.assert_allclose(as_array_of(table.layers["log"]), np.log1p(expected), rtol=1e-6)
    np.testing.assert_array_equal(table.layers["scaled"], expected * 2)
    assert table.uns["truth"]["names"].tolist() == ["a", "b"]
    assert table.uns["ranked"]["names"]["b"].tolist() == [1.0, 2.0]
    np.testing.assert_array_equal(as_array_of(table.obsm["sparse"]), np.eye(50, 3))
    assert table.obsm["stack"].shape == (50, 2, 3)
    assert "spatialdata_attrs" not in table.uns
    assert events.spots == 50
    assert any("obsp" in line for line in events.said)
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []
    assert open_atlas(tmp_path / "out.zarr").tables[0].counts.nnz > 0


def as_array_of(matrix):
    return np.asarray(matrix.todense())


def test_files_and_stores_go_together(tmp_path, stores, new_table, read_store):
    store, xy = stores.xenium()
    new_table(7).write_h5ad(tmp_path / "extra.h5ad")
    ingest([store, tmp_path / "extra.h5ad"], tmp_path / "out.zarr")
    read_store(tmp_path / "out.zarr")
    atlas = open_atlas(tmp_path / "out.zarr")
    assert [table.name for table in atlas.tables] == ["extra", "table"]
    np.testing.assert_allclose(open_atlas(tmp_path / "out.zarr", tables="table").coordinates(), xy)


def test_an_existing_store_needs_overwrite(tmp_path, new_table, tree_hash):
    from atlasnmf.store.working import WorkingCopy

    new_table(7).write_h5ad(tmp_path / "a.h5ad")
    new_table(9).write_h5ad(tmp_path / "b.h5ad")
    out = ingest([tmp_path / "a.h5ad"], tmp_path / "out.zarr")
    WorkingCopy.open(open_atlas(out))
    before = tree_hash(out)
    with pytest.raises(BadOption, match="--overwrite"):
        ingest([tmp_path / "b.h5ad"], out)
    assert tree_hash(out) == before
    ingest([tmp_path / "b.h5ad"], out, overwrite=True)
    assert open_atlas(out).n_spots == 9
    assert not (tmp_path / "out.zarr.atlasnmf").exists()
    (tmp_path / "notes").mkdir()
    with pytest.raises(BadInput, match="not a zarr store"):
        ingest([tmp_path / "b.h5ad"], tmp_path / "notes", overwrite=True)


def test_what_cannot_be_ingested_is_refused_before_work(tmp_path, new_table):
    table = new_table(5)
    table.write_h5ad(tmp_path / "good.h5ad")
    (tmp_path / "text.h5ad").write_text("no")
    (tmp_path / "sub").mkdir()
    table.write_h5ad(tmp_path / "sub" / "GOOD.h5ad")
    del table.X
    table.write_h5ad(tmp_path / "empty.h5ad")
    out = tmp_path / "out.zarr"
    for files, kind, message in (
        ([], BadOption, "nothing to ingest"),
        (["god.h5ad"], BadInput, r"did you mean 'good\.h5ad'"),
        (["text.h5ad"], BadInput, "cannot be read as an h5ad"),
        (["good.h5ad", "sub/GOOD.h5ad"], BadOption, "both be named"),
        (["empty.h5ad"], BadInput, "has no X"),
        (["sub"], BadInput, "neither an .h5ad file nor a SpatialData store"),
    ):
        with pytest.raises(kind, match=message):
            ingest([tmp_path / file for file in files], out)
        assert not out.exists()
    with pytest.raises(BadInput, match="no directory"):
        ingest([tmp_path / "good.h5ad"], tmp_path / "nowhere" / "out.zarr")


def test_a_failure_leaves_no_half_store(tmp_path, new_table, monkeypatch):
    new_table(50).write_h5ad(tmp_path / "a.h5ad")
    monkeypatch.setattr(h5ad, "_BLOCK_BYTES", 500)
    append = h5ad.H5Matrix._sparse

    def fail(self, indptr, start, stop, n_cols):
        if start > 20:
            raise OSError("disk gone")
        return append(self, indptr, start, stop, n_cols)

    monkeypatch.setattr(h5ad.H5Matrix, "_sparse", fail)
    with pytest.raises(OSError, match="disk gone"):
        ingest([tmp_path / "a.h5ad"], tmp_path / "out.zarr")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.h5ad"]


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_repeated_names_are_said(tmp_path, new_table):
    table = new_table(5)
    table.var_names = ["g0", "g0", *table.var_names[2:]]
    table.write_h5ad(tmp_path / "a.h5ad")
    events = Listener()
    ingest([tmp_path / "a.h5ad"], tmp_path / "out.zarr", events=events)
    assert "'g0' occurs more than once" in events.said[0]


def test_tables_are_streamed_block_by_block(tmp_path, read_store, as_array):
    rng = np.random.default_rng(0)
    dense = rng.poisson(0.5, (95, 8)).astype(np.float32)
    with create_store(tmp_path / "made.zarr") as store:
        table = store.table("one", n_genes=8, dtype=np.float32)
        for start in range(0, 95, 10):
            block = scipy.sparse.csr_matrix(dense[start : start + 10])
            table.append(Csr.from_scipy(block), obsm={"true_factors": dense[start : start + 10, :3]})
        table.close(
            obs=pd.DataFrame({"domain": pd.Categorical(["a"] * 95)}, index=[f"s{i}" for i in range(95)]),
            var=pd.DataFrame(index=[f"g{i}" for i in range(8)]),
            obsm={"spatial": np.zeros((95, 2))},
            varm={"true_loadings": np.zeros((8, 3))},
            uns={"truth": {"seed": 0}},
        )
        assert not (tmp_path / "made.zarr").exists()
        with pytest.raises(BadOption, match="is no name"):
            store.table("a b", n_genes=8)
        with pytest.raises(BadOption, match="two tables"):
            store.table("ONE", n_genes=8)
    got = read_store(tmp_path / "made.zarr").tables["one"]
    np.testing.assert_array_equal(as_array(got), dense)
    np.testing.assert_array_equal(got.obsm["true_factors"], dense[:, :3])


def test_rows_that_do_not_match_are_refused(tmp_path):
    def make():
        with create_store(tmp_path / "made.zarr") as store:
            table = store.table("one", n_genes=3)
            table.append(Csr(np.zeros(2, np.int64), np.empty(0, np.int32), np.empty(0, np.float32), 3))
            table.close(obs=pd.DataFrame(index=["a", "b"]), var=pd.DataFrame(index=list("xyz")))

    with pytest.raises(ValueError, match="obs has 2 rows"):
        make()
    assert not list(tmp_path.iterdir())


def killed(folder):
    """Die in the middle of an ingest."""
    import os

    calls = []
    append = h5ad.H5Matrix._sparse

    def die(self, *args):
        calls.append(args)
        if len(calls) == 3:
            os._exit(9)
        return append(self, *args)

    h5ad._BLOCK_BYTES = 500
    h5ad.H5Matrix._sparse = die
    ingest([folder / "a.h5ad"], folder / "out.zarr")


def test_a_killed_ingest_leaves_nothing_under_the_name_and_the_next_sweeps(tmp_path, new_table):
    import multiprocessing

    new_table(50).write_h5ad(tmp_path / "a.h5ad")
    process = multiprocessing.get_context("spawn").Process(target=killed, args=(tmp_path,))
    process.start()
    process.join(120)
    assert process.exitcode == 9
    assert not (tmp_path / "out.zarr").exists()
    assert len(list(tmp_path.glob(".out.zarr.*.partial"))) == 1
    ingest([tmp_path / "a.h5ad"], tmp_path / "out.zarr")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.h5ad", "out.zarr"]
