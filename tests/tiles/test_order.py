import numpy as np
import pytest

from atlasnmf.tiles.order import hilbert_index, spatial_order


@pytest.mark.parametrize("d", [2, 3])
def test_runs_are_compact(d):
    coords = np.random.default_rng(0).random((4096, d))
    runs = coords[np.argsort(hilbert_index(coords))].reshape(16, 256, d)
    assert np.ptp(runs, axis=1).prod(axis=1).mean() < 3 / 16


def test_index_of_odd_inputs():
    assert len(hilbert_index(np.zeros((0, 2)))) == 0
    np.testing.assert_array_equal(hilbert_index(np.full((4, 3), 7.0)), 0)
    far = np.array([[0.0, 0.0], [1e300, 1e300], [1.0, 0.0]])
    assert hilbert_index(far).dtype == np.uint64
    with pytest.raises(ValueError, match="shape"):
        hilbert_index(np.zeros((3, 4)))
    with pytest.raises(ValueError, match="64-bit"):
        hilbert_index(np.zeros((3, 3)), bits=22)


def test_full_width_keys():
    coords = np.random.default_rng(0).random((100, 2))
    assert len(np.unique(hilbert_index(coords, bits=32))) == 100


def test_spatial_order():
    rng = np.random.default_rng(1)
    coords, codes = rng.random((500, 2)), rng.integers(-1, 4, 500)
    coords[codes < 0] = np.nan
    before = codes.copy()
    order, offsets = spatial_order(coords, codes)
    np.testing.assert_array_equal(codes, before)
    assert (order.dtype, offsets.dtype) == (np.int64, np.int64)
    np.testing.assert_array_equal(np.sort(order), np.flatnonzero(codes >= 0))
    for s in range(4):
        rows = order[offsets[s] : offsets[s + 1]]
        assert (codes[rows] == s).all()
        assert (np.diff(hilbert_index(coords[rows]).astype(float)) >= 0).all()


def test_ties_keep_their_order_and_empty_slices_their_place():
    order, offsets = spatial_order(np.zeros((5, 2)), np.array([2, 0, 2, 0, 2]))
    np.testing.assert_array_equal(order, [1, 3, 0, 2, 4])
    np.testing.assert_array_equal(offsets, [0, 2, 2, 5])
    order, offsets = spatial_order(np.zeros((0, 2)), np.zeros(0, dtype=int))
    assert (len(order), offsets.tolist()) == (0, [0])
