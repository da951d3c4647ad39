from __future__ import annotations

import json
import os
import shutil
import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
import zarr

from atlasnmf.errors import BadOption, StoreBusy
from atlasnmf.store import results as results_module
from atlasnmf.store.atlas import open_atlas
from atlasnmf.store.describe import describe, find_results
from atlasnmf.store.results import ResultWriter, refuse_existing
from atlasnmf.store.transaction import JOURNAL, Transaction


@pytest.fixture
def store(stores, new_table):
    tables = [new_table(30), new_table(20, seed=1, genes=["g2", "x", "g0"])]
    tables[0].obs["depth"] = np.arange(30.0)
    return stores.plain(*tables)


def working_order(atlas, seed=0):
    """Two thirds of the spots in any order."""
    order = np.random.default_rng(seed).permutation(atlas.n_spots)
    return order[: 2 * atlas.n_spots // 3]


def write_all(atlas, order, seed=0, **options):
    """Write one result of every kind, rows in uneven pieces; return what was meant."""
    rng = np.random.default_rng(seed)
    rows = rng.random((len(order), 4)).astype(np.float32)
    loadings = rng.random((3, 4)).astype(np.float32)
    domains = pd.Categorical(rng.choice(["a", "b"], atlas.n_spots))
    with ResultWriter(atlas, order, **options) as writer:
        writer.per_spot("X_model", 4)
        for start, stop in ((20, len(order)), (0, 7), (7, 20)):
            writer.put("X_model", start, rows[start:stop])
        writer.varm("model_loadings", loadings, ["g0", "g1", "g2"])
        writer.obs("domain", domains)
        writer.obs("score", rows[0, 0] * np.arange(atlas.n_spots))
        history = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
        writer.uns("model", {"params": {"k": 4, "radius": None}, "history": history, "status": "done"})
    return rows, loadings, domains


def check_all(sdata, atlas, order, meant):
    rows, loadings, domains = meant
    expected = np.full((atlas.n_spots, 4), np.nan, dtype=np.float32)
    expected[order] = rows
    first, second = sdata.tables["slice_0"], sdata.tables["slice_1"]
    np.testing.assert_array_equal(first.obsm["X_model"], expected[:30])
    np.testing.assert_array_equal(second.obsm["X_model"], expected[30:])
    assert first.obsm["X_model"].dtype == np.float32
    np.testing.assert_array_equal(first.varm["model_loadings"][:3], loadings)
    assert np.isnan(first.varm["model_loadings"][3:]).all()
    np.testing.assert_array_equal(second.varm["model_loadings"][[2, 0]], loadings[[0, 2]])
    assert np.isnan(second.varm["model_loadings"][1]).all()
    assert first.obs["domain"].tolist() == list(domains[:30])
    assert second.obs["domain"].tolist() == list(domains[30:])
    assert first.uns["model"]["params"] == {"k": 4}
    assert list(first.uns["model"]["history"]["loss"]) == [2.0, 1.0]


@pytest.mark.parametrize("budget_bytes", [10**7, 50])
def test_results_come_back_in_the_users_order(store, read_store, tree_hash, monkeypatch, budget_bytes):
    monkeypatch.setattr(results_module, "_BLOCK_ROWS", 8)
    before, atlas = tree_hash(store), open_atlas(store)
    order = working_order(atlas)
    meant = write_all(atlas, order, budget_bytes=budget_bytes)
    sdata = read_store(store)
    check_all(sdata, atlas, order, meant)
    assert list(sdata.tables["slice_0"].obs) == ["depth", "domain", "score"]
    after = tree_hash(store)
    changed = {name for name in before if after.get(name) != before[name]}
    assert changed == {"zarr.json", "tables/slice_0/obs/zarr.json", "tables/slice_1/obs/zarr.json"}
    alone = anndata.read_zarr(store / "tables" / "slice_1")
    np.testing.assert_array_equal(alone.obsm["X_model"], sdata.tables["slice_1"].obsm["X_model"])
    root = zarr.open_group(store, mode="r")  # by the consolidated metadata
    assert root.metadata.consolidated_metadata is not None
    assert root["tables/slice_0/obsm/X_model"].shape == (30, 4)
    assert list(root["tables/slice_0/obs"].attrs["column-order"]) == ["depth", "domain", "score"]
    assert [entry.name for entry in (store.parent / "plain.zarr.atlasnmf").iterdir()] == ["lock"]
    assert open_atlas(store).fingerprint() == atlas.fingerprint()


def test_an_existing_key_is_refused_before_work_and_replaced_on_request(store, read_store, tree_hash):
    atlas = open_atlas(store)
    write_all(atlas, working_order(atlas))
    before = tree_hash(store)
    with pytest.raises(BadOption, match=r"'slice_0' has obsm\['X_model'\] already.*--overwrite.*--key-added"):
        refuse_existing(atlas, obsm=["X_model"])
    with pytest.raises(BadOption, match=r"obs\['depth'\] already"):
        refuse_existing(atlas, obs=["depth"])
    with pytest.raises(BadOption, match="already"):
        write_all(atlas, working_order(atlas))
    with pytest.raises(BadOption, match="take 'my_key'"):
        refuse_existing(atlas, uns=["my key"])
    refuse_existing(atlas, obsm=["X_model"], overwrite=True)
    assert tree_hash(store) == before
    order = working_order(atlas, seed=5)
    meant = write_all(atlas, order, seed=5, overwrite=True)
    sdata = read_store(store)
    check_all(sdata, atlas, order, meant)
    assert list(sdata.tables["slice_0"].obs) == ["depth", "domain", "score"]


@pytest.mark.parametrize(
    "group, name, words",
    [
        ("uns", "fits/new", "no name SpatialData accepts .* take 'fits_new'"),
        ("obsm", "..", "no name SpatialData accepts"),
        ("varm", "x" * 201, "'xxxxxxxxxxxxxxxxxxxx…' is too long; take at most 200 bytes"),
        ("obs", "_index", "holds the names of the spots"),
        ("obs", "barcode", "holds the names of the spots"),
        ("obsm", "Spatial", r"has obsm\['spatial'\], and SpatialData allows no 'Spatial'"),
    ],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_names_a_store_cannot_keep_are_refused(stores, new_table, tree_hash, group, name, words, overwrite):
    table = new_table(9)
    table.obs.index.name = "barcode"
    atlas = open_atlas(stores.plain(table))
    before = tree_hash(atlas.path)
    with pytest.raises(BadOption, match=words):
        refuse_existing(atlas, **{group: [name]}, overwrite=overwrite)

    def write():
        with ResultWriter(atlas, overwrite=overwrite) as writer:
            writer.uns("fine", {"a": 1})
            writer._claim(atlas.tables[0], group, name)

    with pytest.raises(BadOption, match=words):
        write()
    assert tree_hash(atlas.path) == before
    open_atlas(atlas.path)  # nothing is left to finish


def test_letters_of_any_script_are_names(stores, new_table, read_store):
    atlas = open_atlas(stores.plain(new_table(9)))
    with ResultWriter(atlas) as writer:
        writer.uns("größe", {"Δ": 1})
    (table,) = read_store(atlas.path).tables.values()
    assert table.uns["größe"]["Δ"] == 1


def test_an_error_inside_leaves_the_store_as_it_was(store, tree_hash):
    before, atlas = tree_hash(store), open_atlas(store)

    def fail():
        with ResultWriter(atlas, working_order(atlas)) as writer:
            writer.per_spot("X_model", 2)
            writer.put("X_model", 0, np.zeros((5, 2)))
            raise RuntimeError("model")

    with pytest.raises(RuntimeError, match="model"):
        fail()
    assert tree_hash(store) == before
    assert [entry.name for entry in (store.parent / "plain.zarr.atlasnmf").iterdir()] == ["lock"]


def test_some_tables_only(store, read_store, tree_hash):
    before, atlas = tree_hash(store), open_atlas(store, tables="slice_1")
    with ResultWriter(atlas) as writer:
        writer.per_spot("X_model", 1)
        writer.put_spots("X_model", np.arange(20), np.arange(20.0)[:, None])
        writer.obs("domain", {"slice_1": ["a"] * 20})
    after = tree_hash(store)
    assert {n: h for n, h in after.items() if "slice_0" in n} == {
        n: h for n, h in before.items() if "slice_0" in n
    }
    assert read_store(store).tables["slice_1"].obsm["X_model"][:, 0].tolist() == list(range(20))


def test_a_new_table_and_layers(store, read_store):
    atlas = open_atlas(store)
    matches = pd.DataFrame({"source": ["s0_1"], "score": [0.5], "passed": [True]}, index=["0"])
    with ResultWriter(atlas) as writer:
        writer.table("model_matches", matches, {"n": 1})
        writer.per_spot("imputed", 12, group="layers", tables=["slice_0"])
        writer.put_spots("imputed", np.arange(30), np.ones((30, 12), np.float32))
    sdata = read_store(store)
    assert sdata.tables["model_matches"].obs["source"].tolist() == ["s0_1"]
    assert sdata.tables["model_matches"].obs["passed"].tolist() == [True]
    assert np.asarray(sdata.tables["slice_0"].layers["imputed"]).sum() == 360
    again = open_atlas(store)
    assert [table.name for table in again.tables] == ["slice_0", "slice_1"]
    with pytest.raises(BadOption, match="has a table 'model_matches' already"):
        refuse_existing(again, tables=["model_matches"])
    with ResultWriter(again, overwrite=True) as writer:
        writer.table("model_matches", pd.concat([matches, matches.set_axis(["1"])]))
        writer.remove("layers", "imputed", tables=["slice_0"])
    sdata = read_store(store)
    assert sdata.tables["model_matches"].n_obs == 2
    assert "imputed" not in sdata.tables["slice_0"].layers


def test_results_are_found_again(store):
    atlas = open_atlas(store)
    write_all(atlas, working_order(atlas))
    found = find_results(open_atlas(store).tables[1])
    assert found == {"model": {"obs": ["domain", "score"], "obsm": ["X_model"], "varm": ["model_loadings"]}}
    described = describe(open_atlas(store))
    json.dumps(described.record())
    told = described.lines()[described.lines().index("results") :]
    assert any("model" in line and "X_model" in line for line in told), told


def test_results_in_memory_are_assigned(store, new_table, read_store):
    sdata = read_store(store)
    atlas = open_atlas(sdata)
    order = working_order(atlas)
    check_all(sdata, atlas, order, write_all(atlas, order))
    with pytest.raises(BadOption, match="already"):
        write_all(atlas, order)
    with ResultWriter(atlas) as writer:
        writer.table("model_matches", pd.DataFrame({"a": [1.0]}, index=["0"]))
    assert sdata.tables["model_matches"].n_obs == 1
    adata = new_table(9)
    with ResultWriter(open_atlas(adata)) as writer:
        writer.per_spot("X_model", 2)
        writer.put_spots("X_model", np.array([3, 1]), np.ones((2, 2)))
        writer.uns("model", {"a": 1})
    assert np.isfinite(adata.obsm["X_model"][:, 0]).nonzero()[0].tolist() == [1, 3]
    assert adata.uns["model"]["a"] == 1


def test_the_store_is_locked_from_beginning_to_end(store):
    atlas = open_atlas(store)
    with ResultWriter(atlas), pytest.raises(StoreBusy), ResultWriter(open_atlas(store)):
        pass
    with atlas.lock(), ResultWriter(atlas) as again:
        assert again.atlas is atlas


def test_older_stores_keep_their_format(tmp_path, new_table, read_store):
    """A zarr v2 store, as spatialdata wrote them before 0.5."""
    import spatialdata
    from spatialdata._io.format import SpatialDataContainerFormatV01
    from spatialdata.models import TableModel

    path = tmp_path / "old.zarr"
    tables = {"slice_0": TableModel.parse(new_table(30)), "slice_1": TableModel.parse(new_table(20, seed=1))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spatialdata.SpatialData(tables=tables).write(path, sdata_formats=SpatialDataContainerFormatV01())
    assert (path / ".zgroup").exists()
    atlas = open_atlas(path)
    order = working_order(atlas)
    rng = np.random.default_rng(0)
    rows = rng.random((len(order), 4)).astype(np.float32)
    with ResultWriter(atlas, order) as writer:
        writer.per_spot("X_model", 4)
        writer.put("X_model", 0, rows)
        writer.obs("domain", pd.Categorical(["a"] * 50))
        writer.uns("model", {"k": 4})
        writer.table("model_matches", pd.DataFrame({"a": [1.0]}, index=["0"]))
    assert not list(path.rglob("zarr.json"))
    with pytest.warns(UserWarning, match="not stored in the most current format"):
        sdata = read_store(path)
    expected = np.full((50, 4), np.nan, np.float32)
    expected[order] = rows
    np.testing.assert_array_equal(sdata.tables["slice_1"].obsm["X_model"], expected[30:])
    assert sdata.tables["slice_0"].obs["domain"].tolist() == ["a"] * 30
    assert sdata.tables["model_matches"].n_obs == 1


class Killed(Exception):
    """The process is gone."""


class Killer:
    """Lets a number of file operations of a commit happen, then none: what a kill -9 leaves behind."""

    def __init__(self, monkeypatch, after):
        self.left = after
        self.armed = False
        commit = Transaction.commit

        def arm_and_commit(transaction):
            self.armed = True
            commit(transaction)

        monkeypatch.setattr(Transaction, "commit", arm_and_commit)
        for module, name in ((os, "rename"), (os, "replace"), (os, "unlink"), (os, "mkdir"), (os, "rmdir")):
            monkeypatch.setattr(module, name, self.watched(getattr(module, name)))
        # the dead neither clean up nor say goodbye
        monkeypatch.setattr(Transaction, "abandon", lambda self: None)

    def watched(self, operation):
        def operate(*args, **kwargs):
            if self.armed and self.left == 0:
                raise Killed
            self.left -= self.armed
            return operation(*args, **kwargs)

        return operate


def write_little(atlas, seed, **options):
    with ResultWriter(atlas, **options) as writer:
        writer.per_spot("X_model", 1)
        writer.put_spots("X_model", np.arange(20), np.full((20, 1), seed, np.float32))
        writer.obs("score", np.full(20, seed))
        writer.uns("model", {"seed": seed})


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_crash_at_any_file_operation_leaves_the_store_as_before_or_complete(
    store, tree_hash, read_store, monkeypatch, overwrite
):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # the machine stays up
    if overwrite:
        write_little(open_atlas(store, tables="slice_1"), 9)
    untouched, work = store.with_name("untouched.zarr"), store.with_name("plain.zarr.atlasnmf")
    shutil.copytree(store, untouched)
    before = tree_hash(store)
    write_little(open_atlas(store, tables="slice_1"), 5, overwrite=overwrite)
    complete = tree_hash(store)
    as_before, after, replayed = [], 0, True
    while replayed or not (as_before and not as_before[-1]):
        shutil.rmtree(store)
        shutil.rmtree(work)
        shutil.copytree(untouched, store)
        atlas = open_atlas(store, tables="slice_1")
        with monkeypatch.context() as patch:
            Killer(patch, after)
            with pytest.raises(Killed):
                write_little(atlas, 5, overwrite=overwrite)
        replayed = (work / JOURNAL).exists()
        open_atlas(store)  # whoever comes next
        found = tree_hash(store)
        assert found in (before, complete)
        assert not (work / JOURNAL).exists()
        as_before.append(found == before)
        after += 1
    assert as_before == sorted(as_before, reverse=True)  # first as before, then complete, never back
    assert after > 8
    assert read_store(store).tables["slice_1"].obs["score"].tolist() == [5] * 20


def test_leftovers_of_a_dead_writer_are_swept_away(store, monkeypatch):
    atlas = open_atlas(store)
    staging = store.parent / "plain.zarr.atlasnmf" / ".staging-dead"
    staging.mkdir(parents=True)
    (staging / "0000").write_text("half")
    write_all(atlas, working_order(atlas))
    assert [entry.name for entry in staging.parent.iterdir()] == ["lock"]
