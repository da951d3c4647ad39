from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlasnmf.errors import BadOption
from atlasnmf.store import copy as copying
from atlasnmf.store.atlas import open_atlas
from atlasnmf.store.columns import readable_counts, row_blocks_of_columns
from atlasnmf.store.copy import copy_counts
from atlasnmf.store.spill import Spill
from atlasnmf.store.working import WorkingCopy


def shuffled_order(atlas, keep=1.0, seed=0):
    """Any order within slices, some spots left out."""
    rng = np.random.default_rng(seed)
    codes = atlas.slice_codes()
    kept = np.flatnonzero(rng.random(atlas.n_spots) <= keep)
    order = kept[np.lexsort((rng.random(len(kept)), codes[kept]))]
    return order, np.searchsorted(codes[order], np.arange(atlas.n_slices + 1))


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(copying, "part_rows_for", lambda nnz: 7)


@pytest.mark.parametrize("layout", ["csr", "csc", "dense"])
@pytest.mark.parametrize("budget_bytes", [10**8, 20_000])
@pytest.mark.parametrize("n_workers", [1, 3])
def test_rows_arrive_in_the_order_asked_for(
    stores, new_table, as_array, small_parts, layout, budget_bytes, n_workers
):
    genes = ["g3", "g1", "x", "g0"]
    tables = [new_table(40), new_table(25, seed=1, genes=genes)]
    whole = np.zeros((65, 13), dtype=np.float32)
    whole[:40, :12] = as_array(tables[0])
    whole[40:, [3, 1, 12, 0]] = as_array(tables[1])
    if layout == "csc":
        tables[0].X = tables[0].X.tocsc()
    if layout == "dense":
        tables[0].X = as_array(tables[0])
    atlas = open_atlas(stores.plain(*tables))
    order, offsets = shuffled_order(atlas, keep=0.8)
    working = WorkingCopy.open(atlas)
    rows = copy_counts(atlas, working, order, offsets, budget_bytes=budget_bytes, n_workers=n_workers)
    np.testing.assert_array_equal(rows.read(0, len(order)).to_scipy().toarray(), whole[order])
    assert rows.read(0, 5).data.dtype == np.uint16
    assert not list(working.path.glob(".spill*"))
    chosen = ["x", "g1", "g11"]
    fewer = copy_counts(
        atlas, working, order, offsets, genes=chosen, name="chosen", budget_bytes=budget_bytes
    )
    np.testing.assert_array_equal(
        fewer.read(0, len(order)).to_scipy().toarray(), whole[order][:, [12, 1, 11]]
    )


def test_a_table_of_several_slices_is_sorted_by_slice(stores, as_array, small_parts, read_store):
    path = stores.regions()
    atlas = open_atlas(path)
    order, offsets = shuffled_order(atlas)
    rows = copy_counts(atlas, WorkingCopy.open(atlas), order, offsets)
    expected = as_array(read_store(path).tables["table"])[order]
    np.testing.assert_array_equal(rows.read(0, 9).to_scipy().toarray(), expected)
    assert offsets.tolist() == [0, 5, 9]


def test_a_restart_reads_only_tables_with_missing_parts(
    stores, new_table, as_array, small_parts, monkeypatch
):
    import shutil

    tables = [new_table(40), new_table(25, seed=1)]
    atlas = open_atlas(stores.plain(*tables))
    order, offsets = shuffled_order(atlas)
    working = WorkingCopy.open(atlas)
    rows = copy_counts(atlas, working, order, offsets, key="k")
    last = rows.parts[-1].index
    shutil.rmtree(rows.part_path(last))
    inode = rows.part_path(0).stat().st_ino

    def fail(*_):
        raise AssertionError("read again")

    atlas = open_atlas(atlas.path)
    monkeypatch.setattr(atlas.tables[0].counts, "read", fail)
    again = copy_counts(atlas, working, order, offsets, key="k")
    assert again.part_path(0).stat().st_ino == inode
    expected = np.concatenate([as_array(table) for table in tables])[order]
    np.testing.assert_array_equal(again.read(0, 65).to_scipy().toarray(), expected)


def test_genes_that_a_table_lacks_altogether_are_refused(stores, new_table):
    atlas = open_atlas(stores.plain(new_table(5), new_table(5, seed=1, genes=["x", "y"])))
    order, offsets = shuffled_order(atlas)
    with pytest.raises(BadOption, match="'slice_1' has none of the genes"):
        copy_counts(atlas, WorkingCopy.open(atlas), order, offsets, genes=["g1"])


def test_disk_too_small_is_said_before_work(stores, new_table, monkeypatch):
    atlas = open_atlas(stores.plain(new_table(30)))
    working = WorkingCopy.open(atlas)
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr("atlasnmf.store.working.shutil.disk_usage", lambda path: usage)
    with pytest.raises(BadOption, match="10 bytes; free some or name another --work-dir"):
        copy_counts(atlas, working, *shuffled_order(atlas))


def test_csc_counts_are_turned_once(stores, new_table, as_array, monkeypatch):
    table = new_table(30)
    expected = as_array(table)
    table.X = table.X.tocsc()
    atlas = open_atlas(stores.plain(table))
    working = WorkingCopy.open(atlas)
    counts = readable_counts(atlas.tables[0], working, budget_bytes=5000)
    np.testing.assert_array_equal(counts.read(3, 29).to_scipy().toarray(), expected[3:29])
    monkeypatch.setattr("atlasnmf.store.columns.row_blocks_of_columns", None)
    again = readable_counts(atlas.tables[0], working, budget_bytes=5000)
    np.testing.assert_array_equal(again.read(0, 30).to_scipy().toarray(), expected)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 20), st.integers(100, 100_000), st.integers(0, 5))
def test_columns_turn_to_rows_at_any_budget(tmp_path_factory, n_rows, n_cols, budget_bytes, seed):
    import scipy.sparse

    from atlasnmf.schema import Csr

    matrix = scipy.sparse.random(n_rows, n_cols, 0.3, format="csc", random_state=seed)
    columns = Csr.from_scipy(matrix.T)
    folder = tmp_path_factory.mktemp("columns")
    blocks = list(row_blocks_of_columns(columns.rows, columns.indptr, n_rows, folder, budget_bytes))
    got = scipy.sparse.vstack([block.to_scipy() for block in blocks])
    np.testing.assert_array_equal(got.toarray(), matrix.toarray())
    assert not list(folder.iterdir())


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=30), st.integers(0, 200))
def test_spilled_records_come_back_in_order(tmp_path_factory, adds, budget_bytes):
    folder = tmp_path_factory.mktemp("spill")
    expected: dict[int, list] = {bucket: [] for bucket in range(4)}
    with Spill(folder, 4, budget_bytes) as spill:
        for i, (bucket, size) in enumerate(adds):
            rows = np.full((size, 2), i, dtype=np.float32)
            spill.add(bucket, np.full(size, i, dtype=np.int16), rows)
            expected[bucket].append(rows)
        for bucket in range(4):
            fields = spill.take(bucket)
            if not expected[bucket]:
                assert fields == ()
                continue
            whole = np.concatenate(expected[bucket])
            np.testing.assert_array_equal(fields[1], whole)
            np.testing.assert_array_equal(fields[0], whole[:, 0])
            assert spill.take(bucket) == ()
    assert not list(folder.iterdir())
