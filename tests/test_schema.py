"""Sparse rows: stacking them against scipy."""

import numpy as np
import pytest
import scipy.sparse as sp

from atlasnmf.schema import Csr


@pytest.mark.parametrize("heights", [[4], [3, 0, 5], [0, 0], [1, 1, 1, 1]])
def test_stacked_rows_are_those_of_scipy(heights):
    rng = np.random.default_rng(len(heights))
    pieces = [sp.random(height, 7, 0.4, "csr", rng=rng) for height in heights]
    stacked = Csr.stack([Csr.from_scipy(piece) for piece in pieces])
    expected = sp.vstack(pieces, format="csr")
    assert stacked.indptr.dtype == np.int64
    np.testing.assert_array_equal(stacked.indptr, expected.indptr)
    np.testing.assert_array_equal(stacked.indices, expected.indices)
    np.testing.assert_array_equal(stacked.data, expected.data)
    assert stacked.n_cols == 7


def test_the_widest_type_wins():
    narrow = Csr(np.array([0, 1]), np.array([2], np.uint16), np.array([3], np.uint16), 4)
    wide = Csr(np.array([0, 1]), np.array([1], np.uint16), np.array([70_000], np.uint32), 4)
    stacked = Csr.stack([narrow, wide])
    assert stacked.data.dtype == np.uint32
    assert stacked.data.tolist() == [3, 70_000]
