from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import zarr

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.store.atlas import open_atlas
from atlasnmf.store.ingest import ingest


def test_visium_positions_come_from_obsm_or_a_named_system(stores):
    path, pixels = stores.visium()
    np.testing.assert_array_equal(open_atlas(path).coordinates(), pixels)
    lowres = open_atlas(path, coordinate_system="lowres").coordinates()
    np.testing.assert_allclose(lowres, pixels * [0.1, 0.2])


def test_visium_hd_has_a_table_for_each_bin_size(stores):
    path, centres = stores.visium_hd()
    atlas = open_atlas(path)
    assert [info.name for info in atlas.slices] == ["square_008um", "square_016um"]
    np.testing.assert_allclose(atlas.coordinates(), np.concatenate(list(centres.values())))
    one = open_atlas(path, tables="square_016um")
    assert one.n_spots == 4
    np.testing.assert_allclose(one.coordinates(), centres["square_016um"])


def test_a_part_of_a_tables_name_will_do_when_no_other_has_it(stores):
    path, _ = stores.visium_hd()
    assert [table.name for table in open_atlas(path, tables="016").tables] == ["square_016um"]
    for name in ("square", "um", "", "square_016UM"):
        with pytest.raises(BadOption, match="no table"):
            open_atlas(path, tables=name)


def test_xenium_positions_are_joined_by_cell_id(stores):
    path, xy = stores.xenium(shuffled=True)
    np.testing.assert_allclose(open_atlas(path).coordinates(), xy)


def test_merscope_polygons_give_centroids_through_an_affine(stores):
    path, xy = stores.merscope()
    np.testing.assert_allclose(open_atlas(path).coordinates(), xy, atol=1e-9)
    with pytest.raises(BadOption, match=r"no coordinate system 'micron'.*did you mean 'microns'"):
        open_atlas(path, coordinate_system="micron").coordinates()
    open_atlas(path, coordinate_system="microns").coordinates()


def test_stereoseq_bins_come_from_points(stores):
    path, xy = stores.stereoseq()
    atlas = open_atlas(path)
    np.testing.assert_allclose(atlas.coordinates()[:8], xy)
    assert [table.name for table in atlas.tables] == ["bin50_table", "cells_table"]


def test_regions_of_one_table_are_its_slices(stores):
    atlas = open_atlas(stores.regions())
    assert [(info.name, info.n_spots) for info in atlas.slices] == [("left", 5), ("right", 4)]
    assert atlas.slice_codes().tolist() == [0, 1] * 4 + [0]


def test_slice_key_cuts_every_table(stores, new_table):
    tables = [new_table(6), new_table(4, seed=1)]
    tables[0].obs["part"] = ["b", "a", "a", "b", "a", "a"]
    tables[1].obs["part"] = pd.Categorical(["a", "c", "c", "a"], categories=["c", "a"])
    atlas = open_atlas(stores.plain(*tables), slice_key="part")
    assert [info.name for info in atlas.slices] == ["slice_0:a", "slice_0:b", "slice_1:c", "slice_1:a"]
    assert atlas.slice_codes().tolist() == [1, 0, 0, 1, 0, 0, 3, 2, 2, 3]


def test_slice_names_may_be_plain_strings_or_numbers(stores, new_table):
    table = new_table(3)
    table.obs["each"], table.obs["number"] = ["c", "a", "b"], [10, 9, 9]
    path = stores.plain(table)
    assert (
        zarr.open_array(path / "tables/slice_0/obs/each", mode="r").attrs["encoding-type"] == "string-array"
    )
    assert [info.name for info in open_atlas(path, slice_key="each").slices] == ["a", "b", "c"]
    assert [info.name for info in open_atlas(path, slice_key="number").slices] == ["9", "10"]


def test_genes_are_the_union_in_order_of_appearance(stores, new_table):
    path = stores.plain(new_table(5, genes=["b", "a", "c"]), new_table(5, seed=1, genes=["d", "c", "a"]))
    atlas = open_atlas(path)
    assert atlas.genes == ("b", "a", "c", "d")


def test_opening_and_describing_reads_no_counts(stores, new_table, monkeypatch):
    from atlasnmf.store.describe import describe
    from atlasnmf.store.working import WorkingCopy

    path = stores.plain(new_table(20), new_table(10, seed=1))
    read = []
    get = zarr.storage.LocalStore.get

    async def watched(self, key, *args, **kwargs):
        if "/c/" in f"/{key}" and "X" in str(self.root / key):
            read.append(key)
        return await get(self, key, *args, **kwargs)

    monkeypatch.setattr(zarr.storage.LocalStore, "get", watched)
    for table in ("slice_0", "slice_1"):  # unreadable: whoever reads counts fails
        for chunk in (path / "tables" / table / "X" / "data" / "c").iterdir():
            chunk.write_bytes(b"torn")
    atlas = open_atlas(path)
    atlas.check()
    WorkingCopy.open(atlas)
    assert describe(atlas).nnz > 0
    assert not read


@pytest.mark.parametrize("layout", ["csr", "dense", "integer"])
def test_counts_are_read_by_rows(stores, new_table, as_array, layout):
    table = new_table(23)
    expected = as_array(table)
    if layout == "dense":
        table.X = expected
    if layout == "integer":
        table.X = table.X.astype(np.int32)
    counts = open_atlas(stores.plain(table)).tables[0].counts
    assert (counts.dtype.kind == "i") is (layout == "integer")
    assert (counts.n_rows, counts.n_cols) == expected.shape
    for start, stop in ((0, 23), (3, 4), (4, 17), (5, 5), (20, 23)):
        np.testing.assert_array_equal(counts.read(start, stop).to_scipy().toarray(), expected[start:stop])


@pytest.mark.parametrize(
    ("layout", "dtype"),
    [
        ("dense", "float16"),
        ("dense", ">f4"),
        ("dense", ">i8"),
        ("dense", "longdouble"),
        ("csr", "longdouble"),
    ],
)
def test_types_that_kernels_do_not_know_are_widened(tmp_path, new_table, as_array, dtype, layout):
    table = new_table(23)
    expected = as_array(table)
    if layout == "dense":
        table.X = expected.astype(dtype)
    else:
        table.X = scipy.sparse.csr_matrix(table.X)
        table.X.data = table.X.data.astype(dtype)
    atlases = [open_atlas(table)]
    if dtype != "longdouble":  # h5ad files have none
        table.write_h5ad(tmp_path / "a.h5ad")
        atlases.append(open_atlas(ingest([tmp_path / "a.h5ad"], tmp_path / "a.zarr")))
    for atlas in atlases:
        found = atlas.tables[0].counts.read(0, 23)
        assert found.data.dtype.isnative
        assert found.data.dtype.itemsize in (4, 8)
        np.testing.assert_array_equal(found.to_scipy().toarray(), expected)


def test_unsorted_columns_are_sorted_and_columns_outside_are_refused(stores, new_table, as_array):
    table = new_table(10)
    for row in range(10):
        run = slice(table.X.indptr[row], table.X.indptr[row + 1])
        table.X.indices[run], table.X.data[run] = table.X.indices[run][::-1], table.X.data[run][::-1]
    expected = as_array(table)
    path = stores.plain(table)
    rows = open_atlas(path).tables[0].counts.read(0, 10)
    np.testing.assert_array_equal(rows.to_scipy().toarray(), expected)
    assert all(
        (np.diff(rows.indices[a:b]) > 0).all() for a, b in zip(rows.indptr, rows.indptr[1:], strict=False)
    )
    indices = zarr.open_array(path / "tables/slice_0/X/indices", mode="r+")
    indices[0] = 99
    with pytest.raises(BadInput, match=r"outside 0\.\.11"):
        open_atlas(path).tables[0].counts.read(0, 10)


def test_csc_is_refused_by_row_with_the_mend(stores, new_table):
    table = new_table(10)
    table.X = table.X.tocsc()
    counts = open_atlas(stores.plain(table)).tables[0].counts
    assert counts.layout == "csc"
    with pytest.raises(BadInput, match=r"tocsr"):
        counts.read(0, 3)


def test_data_in_memory_open_alike(stores, new_table, read_store, as_array):
    adata = new_table(12)
    atlas = open_atlas(adata)
    assert (atlas.n_spots, atlas.path, atlas.slices[0].name) == (12, None, "table")
    np.testing.assert_array_equal(
        atlas.tables[0].counts.read(2, 9).to_scipy().toarray(), as_array(adata)[2:9]
    )
    path, xy = stores.xenium()
    np.testing.assert_allclose(open_atlas(read_store(path)).coordinates(), xy)
    adata.layers["raw"] = as_array(adata)
    np.testing.assert_array_equal(
        open_atlas(adata, layer="raw").tables[0].counts.read(0, 4).to_scipy().toarray(), as_array(adata)[:4]
    )


def test_fingerprint_follows_inputs_only(stores, new_table, tmp_path):
    import shutil

    path = stores.plain(new_table(20), new_table(10, seed=1))
    first = open_atlas(path).fingerprint()
    shutil.copytree(path, tmp_path / "copy.zarr")
    assert open_atlas(tmp_path / "copy.zarr").fingerprint() == first
    zarr.create_array(store=str(path / "tables/slice_0/obsm/other"), data=np.zeros((20, 3)))
    assert open_atlas(path).fingerprint() == first
    spatial = zarr.open_array(path / "tables/slice_1/obsm/spatial", mode="r+")
    spatial[3, 0] += 1.0
    changed = open_atlas(path)
    assert changed.fingerprint() != first
    before = open_atlas(tmp_path / "copy.zarr").fingerprint_parts()
    assert [k for k, v in changed.fingerprint_parts().items() if before[k] != v] == ["coordinates of slice_1"]


def broken(stores, new_table, change):
    table = new_table(12)
    change(table)
    return stores.plain(table, new_table(5, seed=1))


def set_nan(table):
    table.obsm["spatial"][4, 1] = np.nan


def drop_positions(table):
    del table.obsm["spatial"]


def add_level(table):
    table.obs["part"] = pd.Categorical(["a", "b"] * 6, categories=["a", "b", "c"])


def missing_label(table):
    table.obs["part"] = pd.Categorical(["a"] * 11 + [None])


def repeat_gene(table):
    table.var_names = ["g0", "g0", *table.var_names[2:]]


def repeat_spot(table):
    table.obs_names = ["x", "x", *table.obs_names[2:]]


def add_part(table):
    table.obs["part"] = "a"


@pytest.mark.filterwarnings("ignore:Observation names are not unique", "ignore:Variable names are not unique")
@pytest.mark.parametrize(
    ("change", "options", "kind", "message"),
    [
        (set_nan, {}, BadInput, r"1 of 12 spots of table 'slice_0'.*'s0_4'"),
        (drop_positions, {}, BadInput, r"no obsm\['spatial'\] and annotates no"),
        (
            add_level,
            {"slice_key": "part", "tables": "slice_0"},
            BadInput,
            r"slice 'c'.*remove_unused_categories",
        ),
        (missing_label, {"slice_key": "part", "tables": "slice_0"}, BadInput, "1 spots .* have no value"),
        (repeat_gene, {}, BadInput, r"gene 'g0' occurs more than once in table 'slice_0'.*var_names_make"),
        (repeat_spot, {}, BadInput, r"spot 'x' occurs more than once in table 'slice_0'.*obs_names_make"),
        (add_part, {"slice_key": "prat", "tables": ["slice_0"]}, BadOption, "did you mean 'part'"),
        (add_part, {"tables": "slise_0"}, BadOption, "did you mean 'slice_0'"),
        (add_part, {"layer": "counts"}, BadOption, "no layer 'counts' in table 'slice_0'; there are none"),
        (add_part, {"spatial_key": "xy"}, BadInput, r"--spatial-key \(obsm keys: spatial\)"),
        (add_part, {"tables": ["slice_0", "slice_0"]}, BadOption, "named twice"),
    ],
)
def test_bad_input_is_refused_in_one_line_and_nothing_changes(
    stores, new_table, tree_hash, change, options, kind, message
):
    path = broken(stores, new_table, change)
    before = tree_hash(path)
    with pytest.raises(kind, match=message) as caught:
        open_atlas(path, **options).check()
    assert "\n" not in str(caught.value)
    assert tree_hash(path) == before
    assert not (path.parent / "plain.zarr.atlasnmf").exists()


def test_what_is_no_store_is_refused(tmp_path, stores, new_table):
    with pytest.raises(BadInput, match=r"no store 'a\.zarr'"):
        open_atlas(tmp_path / "a.zarr")
    (tmp_path / "b.zarr").mkdir()
    with pytest.raises(BadInput, match="not a SpatialData store"):
        open_atlas(tmp_path / "b.zarr")
    new_table(5).write_h5ad(tmp_path / "c.h5ad")
    with pytest.raises(BadInput, match="atlasnmf ingest"):
        open_atlas(tmp_path / "c.h5ad")
    with pytest.raises(BadInput, match="cannot open a int"):
        open_atlas(3)


def test_levels_that_only_another_table_has_are_no_slices_of_this_one(stores, new_table):
    first, second = new_table(6), new_table(5, seed=1)
    for table, stage in ((first, "E9"), (second, "E10")):
        table.obs["stage"] = pd.Categorical([stage] * table.n_obs, categories=["E9", "E10"])
    atlas = open_atlas(stores.plain(first, second), slice_key="stage")
    assert [(info.name, info.n_spots) for info in atlas.slices] == [("E9", 6), ("E10", 5)]
    assert atlas.slice_codes().tolist() == [0] * 6 + [1] * 5


def test_a_level_that_no_table_has_is_refused(stores, new_table):
    first, second = new_table(6), new_table(5, seed=1)
    for table, stage in ((first, "E9"), (second, "E10")):
        table.obs["stage"] = pd.Categorical([stage] * table.n_obs, categories=["E9", "E10", "E11"])
    with pytest.raises(BadInput, match=r"slice 'E11' of table .* has no spots; drop the level"):
        open_atlas(stores.plain(first, second), slice_key="stage")


def test_an_empty_table_is_a_slice_without_spots(stores, new_table):
    with pytest.raises(BadInput, match=r"table 'slice_1' has no spots"):
        open_atlas(stores.plain(new_table(5), new_table(5, seed=1)[:0].copy()))


def test_shapes_that_lack_a_spot_or_repeat_an_id_are_refused(stores):
    import geopandas

    path, _ = stores.xenium()
    file = path / "shapes/cell_circles/shapes.parquet"
    shapes = geopandas.read_parquet(file)
    shapes.iloc[1:].to_parquet(file)
    with pytest.raises(BadInput, match=r"1 of 10 spots.*missing coordinates.*cell_circles"):
        open_atlas(path).coordinates()
    shapes.rename(index={"cell-1": "cell-0"}).to_parquet(file)
    with pytest.raises(BadInput, match="'cell-0' more than once"):
        open_atlas(path).coordinates()
