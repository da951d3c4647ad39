"""Sparse rows written out, and the places along a curve."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from atlasnmf.kernels.cpu import curve, dense
from atlasnmf.kernels.gpu.dense import fill_dense


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("data_dtype", [np.uint16, np.float32])
def test_rows_written_out(side, random_csr, dtype, data_dtype):
    indptr, indices, data, expected = random_csr(30, 11, 0.3, 0, dtype=data_dtype)
    out = np.full((30, 11), np.nan, dtype)
    side.dense.fill_dense(indptr, indices, data, out)
    np.testing.assert_array_equal(out, expected)
    part = np.full((4, 11), 7, dtype)
    begin, end = indptr[5], indptr[9]
    side.dense.fill_dense(indptr[5:10] - begin, indices[begin:end], data[begin:end], part)
    np.testing.assert_array_equal(part, expected[5:9])


def test_no_rows(side):
    none = np.zeros(0, np.int32)
    side.dense.fill_dense(np.zeros(1, np.int64), none, none, np.zeros((0, 3), np.float32))


@pytest.mark.parametrize("out", [np.zeros((3, 2)).T, np.zeros((2, 3), np.int32), np.zeros(6)])
def test_a_table_that_cannot_be_filled_is_refused(host_cupy, monkeypatch, out):
    monkeypatch.setitem(sys.modules, "cupy", host_cupy)
    parts = (np.array([0, 1, 1]), np.array([2]), np.array([5.0]))
    with pytest.raises(ValueError, match="C-ordered"):
        fill_dense(*parts, out)
    if out.ndim == 2:  # the host takes any
        dense.fill_dense(*parts, out)
        assert out[0, 2] == 5


@pytest.mark.parametrize(("d", "bits"), [(1, 64), (1, 5), (2, 1), (2, 4), (2, 32), (3, 3), (3, 21), (4, 16)])
def test_places_along_the_curve(side, d, bits):
    rng = np.random.default_rng(0)
    cells = rng.integers(0, 2**bits - 1, (150, d), dtype=np.uint64, endpoint=True)
    before = cells.copy()
    keys = side.curve.hilbert_keys(cells, bits)
    assert keys.dtype == np.uint64
    np.testing.assert_array_equal(keys, curve.hilbert_keys(cells, bits))
    np.testing.assert_array_equal(cells, before)
    assert len(side.curve.hilbert_keys(cells[:0], bits)) == 0
    with pytest.raises(ValueError, match="64-bit"):
        side.curve.hilbert_keys(cells, 64 // d + 1)


@pytest.mark.parametrize(("d", "bits"), [(2, 1), (2, 3), (3, 2), (1, 5)])
def test_the_curve_visits_every_cell_once_by_steps_of_one(side, d, bits):
    cells = np.stack(np.meshgrid(*[np.arange(2**bits)] * d, indexing="ij"), -1).reshape(-1, d)
    keys = side.curve.hilbert_keys(cells, bits)
    np.testing.assert_array_equal(np.sort(keys), np.arange(len(cells)))
    np.testing.assert_array_equal(np.abs(np.diff(cells[np.argsort(keys)], axis=0)).sum(axis=1), 1)
