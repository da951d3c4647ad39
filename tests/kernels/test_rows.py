import itertools

import numpy as np
import pytest


def dense_of(parts, n_cols):
    indptr, indices, data = parts
    out = np.zeros((len(indptr) - 1, n_cols))
    for i in range(len(indptr) - 1):
        for j in range(indptr[i], indptr[i + 1]):
            out[i, indices[j]] += data[j]
    return out


def strictly_ascending(parts):
    indptr, indices, _ = parts
    return all(np.all(np.diff(indices[a:b].astype(int)) > 0) for a, b in itertools.pairwise(indptr))


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("index_dtype", [np.uint16, np.int32, np.int64])
def test_take_rows(side, random_csr, dtype, index_dtype):
    indptr, indices, data, dense = random_csr(9, 20, 0.4, 0, dtype=dtype, index_dtype=index_dtype)
    rows = np.array([4, 0, 8, 4, 1])
    parts = side.rows.take_rows(indptr, indices, data, rows)
    assert parts[0].dtype == np.int64
    assert parts[1].dtype == index_dtype
    assert parts[2].dtype == dtype
    np.testing.assert_array_equal(dense_of(parts, 20), dense[rows])


def test_take_no_rows(side, random_csr):
    indptr, indices, data, _ = random_csr(5, 6, 0.4, 0)
    out = side.rows.take_rows(indptr, indices, data, np.array([], dtype=int))
    np.testing.assert_array_equal(out[0], [0])


@pytest.mark.parametrize("row", [-1, 5])
def test_take_rows_outside(side, random_csr, row):
    indptr, indices, data, _ = random_csr(5, 6, 0.4, 0)
    with pytest.raises(IndexError, match="row numbers"):
        side.rows.take_rows(indptr, indices, data, np.array([0, row]))


def test_row_of_values(side):
    found = side.rows.row_of_values(np.array([0, 2, 2, 5]))
    assert found.dtype.kind == "i"
    np.testing.assert_array_equal(found, [0, 0, 2, 2, 2])
    assert len(side.rows.row_of_values(np.zeros(4, np.int64))) == 0


def test_sums_and_counts(side, random_csr):
    indptr, indices, data, dense = random_csr(30, 50, 0.3, 1, dtype=np.float32)
    data[3] = 0
    dense = dense_of((indptr, indices, data), 50)
    np.testing.assert_allclose(side.rows.row_sums(indptr, data), dense.sum(1), rtol=1e-12)
    np.testing.assert_array_equal(side.rows.row_nnz(indptr, data), (dense != 0).sum(1))


@pytest.mark.parametrize("order", ["kept", "shuffled"])
def test_select_columns(side, random_csr, order):
    indptr, indices, data, dense = random_csr(40, 200, 0.2, 2)
    rng = np.random.default_rng(3)
    kept = np.sort(rng.choice(200, 130, replace=False))
    if order == "shuffled":
        kept = rng.permutation(kept)
    lut = np.full(200, -1, dtype=np.int32)
    lut[kept] = np.arange(130)
    parts = side.rows.select_columns(indptr, indices, data, lut)
    np.testing.assert_array_equal(dense_of(parts, 130), dense[:, kept])
    assert strictly_ascending(parts)
    assert parts[1].dtype == np.uint16


def test_select_into_a_wider_space(side, random_csr):
    indptr, indices, data, dense = random_csr(5, 10, 0.5, 2, index_dtype=np.uint8)
    lut = (1000 - 100 * np.arange(10)).astype(np.int32)
    parts = side.rows.select_columns(indptr, indices, data, lut)
    assert parts[1].dtype == np.int32
    np.testing.assert_array_equal(dense_of(parts, 1001)[:, lut], dense)


def test_select_nothing_and_twice(side, random_csr):
    indptr, indices, data, _ = random_csr(5, 10, 0.5, 2)
    assert side.rows.select_columns(indptr, indices, data, np.full(10, -1))[0][-1] == 0
    with pytest.raises(ValueError, match="same new number"):
        side.rows.select_columns(indptr, indices, data, np.zeros(10, dtype=np.int32))


def test_validate_counts(side):
    values = np.array([1, 2.5, -1, np.nan, np.inf, -0.5, 7], dtype=np.float32)
    assert tuple(side.rows.validate_counts(values)) == (2, 2, 2, 7.0)
    assert tuple(side.rows.validate_counts(np.array([3, -4], dtype=np.int32))) == (1, 0, 0, 3.0)
    assert tuple(side.rows.validate_counts(np.array([3, 4], dtype=np.uint16))) == (0, 0, 0, 4.0)
    assert tuple(side.rows.validate_counts(np.array([0.5], dtype=np.float16))) == (0, 0, 1, 0.5)
    assert tuple(side.rows.validate_counts(np.array([np.nan]))) == (0, 1, 0, 0.0)
    assert tuple(side.rows.validate_counts(np.zeros(0))) == (0, 0, 0, 0.0)


def test_check_rows(side):
    indptr = np.array([0, 3, 3, 5, 7])
    indices = np.array([0, 2, 5, 3, 3, -1, 4], dtype=np.int32)
    assert tuple(side.rows.check_rows(indptr, indices, 6)) == (1, 1)
    assert tuple(side.rows.check_rows(indptr, indices, 5)) == (2, 1)
    assert tuple(side.rows.check_rows(np.array([0, 2]), np.array([3, 1], dtype=np.uint16), 6)) == (0, 1)
