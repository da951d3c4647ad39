from __future__ import annotations

import pickle

import numpy as np
import pytest
import scipy.sparse
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.schema import Csr
from atlasnmf.store.parts import PartedCsr, PartedDense, plan_parts, smallest_counts
from atlasnmf.store.shards import ShardedWriter, ShardReader, write_group, write_shard


def random_rows(n_rows, n_cols, seed=0, kind=np.float32, scale=5):
    matrix = scipy.sparse.random(n_rows, n_cols, 0.2, format="csr", random_state=seed)
    matrix.data = np.ceil(matrix.data * scale).astype(kind)
    return Csr.from_scipy(matrix)


def filled(path, rows, offsets, part_rows, **options):
    parts = plan_parts(offsets, part_rows)
    matrix = PartedCsr.create(path, parts, n_cols=rows.n_cols, **options)
    for part in parts:
        matrix.write_part(part.index, rows.rows(part.start, part.stop))
    return matrix


@given(st.lists(st.integers(0, 50), min_size=1, max_size=5), st.integers(1, 20))
def test_parts_cover_slices_without_crossing_them(sizes, part_rows):
    offsets = np.cumsum([0, *sizes])
    parts = plan_parts(offsets, part_rows)
    assert [row for part in parts for row in range(part.start, part.stop)] == list(range(offsets[-1]))
    for part in parts:
        assert 0 < part.n_rows <= part_rows
        assert offsets[part.slice_index] <= part.start < part.stop <= offsets[part.slice_index + 1]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.lists(st.integers(0, 59), max_size=30))
def test_any_rows_come_back_whatever_the_parts(tmp_path_factory, a, b, wanted):
    rows = random_rows(60, 30)
    expected = rows.to_scipy().toarray()
    matrix = filled(tmp_path_factory.mktemp("parts") / "m", rows, [0, 25, 60], 7)
    start, stop = min(a, b), max(a, b)
    np.testing.assert_array_equal(matrix.read(start, stop).to_scipy().toarray(), expected[start:stop])
    got = matrix.read_rows(np.array(wanted, dtype=np.int64))
    np.testing.assert_array_equal(got.to_scipy().toarray(), expected[wanted])
    np.testing.assert_array_equal(matrix.row_nnz(start, stop), np.diff(rows.indptr)[start:stop])


def test_types_are_the_narrowest_that_hold_the_values(tmp_path):
    narrow = filled(tmp_path / "narrow", random_rows(20, 9), [0, 20], 8)
    assert narrow.read(0, 20).data.dtype == np.uint16
    assert narrow.read(0, 20).indices.dtype == np.uint16
    wide = random_rows(20, 70_000, scale=5)
    wide.data[-1] = 70_000
    matrix = filled(tmp_path / "wide", wide, [0, 20], 8)
    for run in ((0, 20), (0, 3)):  # one type, whichever part is read
        assert matrix.read(*run).data.dtype == np.uint32
        assert matrix.read(*run).indices.dtype == np.uint32
    fractions = random_rows(20, 9)
    fractions.data[0] = 0.5
    assert filled(tmp_path / "fractions", fractions, [0, 20], 8).read(10, 12).data.dtype == np.float32
    given_type = filled(tmp_path / "half", random_rows(20, 9), [0, 20], 8, dtype=np.float16)
    assert given_type.read(0, 5).data.dtype == np.float16


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf, 0.25])
def test_values_that_are_no_counts_are_kept_as_they_are(value):
    np.testing.assert_array_equal(smallest_counts(np.array([1.0, value])), np.float32([1.0, value]))


def test_the_files_are_ordinary_zarr(tmp_path):
    rows = random_rows(40, 30)
    filled(tmp_path / "m", rows, [0, 40], 20)
    group = zarr.open_group(tmp_path / "m", mode="r")
    np.testing.assert_array_equal(group["part-00001/indptr"][:], rows.rows(20, 40).indptr)
    np.testing.assert_array_equal(group["part-00001/data"][:], rows.rows(20, 40).data)
    assert group["part-00001/data"].chunks[0] >= 1024
    assert len(list((tmp_path / "m/part-00001/data/c").iterdir())) == 1


def test_a_restart_goes_on_at_the_first_missing_part(tmp_path):
    rows = random_rows(30, 9)
    parts = plan_parts([0, 30], 10)
    matrix = PartedCsr.create(tmp_path / "m", parts, n_cols=9, key="a")
    matrix.write_part(1, rows.rows(10, 20))
    (tmp_path / "m" / ".part-00002.dead").mkdir()
    again = PartedCsr.create(tmp_path / "m", parts, n_cols=9, key="a")
    assert [part.index for part in again.missing()] == [0, 2]
    assert not list((tmp_path / "m").glob(".part*"))
    with pytest.raises(BadInput, match="not finished"):
        again.read(0, 5)
    other = PartedCsr.create(tmp_path / "m", parts, n_cols=9, key="b")
    assert len(other.missing()) == 3


def test_a_part_that_fails_to_land_leaves_nothing(tmp_path, monkeypatch):
    rows = random_rows(10, 9)
    matrix = PartedCsr.create(tmp_path / "m", plan_parts([0, 10]), n_cols=9)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("atlasnmf.store.landing.os.rename", fail)
    with pytest.raises(BadOption, match=r"disk of .* is full"):
        matrix.write_part(0, rows)
    assert [p.name for p in (tmp_path / "m").iterdir()] == ["zarr.json"]


def test_landing_twice_keeps_the_first(tmp_path):
    rows = random_rows(10, 9)
    matrix = filled(tmp_path / "m", rows, [0, 10], 10)
    matrix.write_part(0, rows)
    np.testing.assert_array_equal(matrix.read(0, 10).data, rows.data)


@pytest.mark.parametrize("where", [3, -30])
def test_a_damaged_shard_is_noticed(tmp_path, where):
    matrix = filled(tmp_path / "m", random_rows(100, 50), [0, 100], 100)
    shard = tmp_path / "m/part-00000/data/c/0"
    raw = bytearray(shard.read_bytes())
    raw[where] ^= 0xFF
    shard.write_bytes(raw)
    with pytest.raises(BadInput, match="is damaged"):
        matrix.read(0, 100)
    shard.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(BadInput, match="is damaged"):
        PartedCsr.open(tmp_path / "m").read(0, 100)


def test_matrices_travel_to_other_processes(tmp_path):
    rows = random_rows(10, 9)
    matrix = pickle.loads(pickle.dumps(filled(tmp_path / "m", rows, [0, 10], 4)))
    np.testing.assert_array_equal(matrix.read(0, 10).data, rows.data)


@pytest.mark.parametrize("row_shape", [(), (5,), (3, 4), (0,)])
def test_dense_rows_come_back(tmp_path, row_shape):
    values = np.random.default_rng(0).random((50, *row_shape)).astype(np.float32)
    parts = plan_parts([0, 20, 50], 13)
    matrix = PartedDense.create(tmp_path / "m", parts, row_shape=row_shape)
    for part in parts:
        matrix.write_part(part.index, values[part.start : part.stop])
    matrix = pickle.loads(pickle.dumps(PartedDense.open(tmp_path / "m")))
    np.testing.assert_array_equal(matrix.read(7, 44), values[7:44])
    rows = np.array([49, 0, 3, 3, 20])
    np.testing.assert_array_equal(matrix.read_rows(rows), values[rows])
    assert matrix.read(4, 4).shape == (0, *row_shape)


def test_a_matrix_of_another_kind_is_refused(tmp_path):
    PartedDense.create(tmp_path / "m", plan_parts([0, 5]), row_shape=2)
    with pytest.raises(BadInput, match="no csr rows"):
        PartedCsr.open(tmp_path / "m")


@pytest.mark.parametrize(
    "array",
    [
        np.arange(1000, dtype=np.uint16),
        np.random.default_rng(0).random((77, 5)).astype(np.float16),
        np.random.default_rng(0).random((513, 3, 2)),
        np.arange(600) % 3 == 0,
        np.empty((0, 3), np.float32),
        np.empty((9, 0), np.float32),
        np.arange(300, dtype=np.uint8),
        np.arange(70, dtype=">i4"),
    ],
)
def test_one_shard_is_what_zarr_reads(tmp_path, array):
    write_shard(tmp_path / "a", array, 64)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "a", mode="r")[...], array)
    reader = ShardReader(tmp_path / "a")
    np.testing.assert_array_equal(reader.read(0, len(array)), array)
    np.testing.assert_array_equal(reader.read(3, len(array) // 2), array[3 : len(array) // 2])


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=8))
def test_many_shards_are_what_zarr_reads(tmp_path_factory, sizes):
    folder = tmp_path_factory.mktemp("shards")
    values = np.random.default_rng(0).random((sum(sizes), 3)).astype(np.float32)
    write_group(folder)
    writer = ShardedWriter(folder / "a", (3,), np.float32, chunk_rows=4, chunks_a_shard=3)
    for start, size in zip(np.cumsum([0, *sizes]), sizes, strict=False):
        writer.append(values[start : start + size])
    writer.close({"unit": "um"})
    array = zarr.open_array(folder / "a", mode="r")
    np.testing.assert_array_equal(array[...], values)
    assert array.attrs["unit"] == "um"


def test_a_shard_written_by_zarr_is_read(tmp_path):
    from zarr.codecs import BloscCodec, Crc32cCodec

    values = np.arange(1, 1001, dtype=np.uint16)
    array = zarr.create_array(
        store=str(tmp_path / "a"),
        shape=values.shape,
        dtype=values.dtype,
        chunks=(100,),
        shards=(1000,),
        compressors=[BloscCodec(cname="lz4", shuffle="shuffle"), Crc32cCodec()],
    )
    array[:] = values
    np.testing.assert_array_equal(ShardReader(tmp_path / "a").read(150, 990), values[150:990])
