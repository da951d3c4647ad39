import numpy as np
import pytest

from atlasnmf.errors import BadOption
from atlasnmf.kernels.cpu.neighbours import radius_neighbours
from atlasnmf.tiles.halo import halo_tile
from atlasnmf.tiles.order import spatial_order
from atlasnmf.tiles.plan import expected_halo, plan_tiles, planned_bytes, spots_that_fit


@pytest.mark.parametrize("tile_spots", [1, 3, 7, 100, 1000])
def test_tiles_cover_every_slice_evenly(tile_spots):
    offsets = np.array([0, 100, 100, 101, 350])
    tiles = plan_tiles(offsets, tile_spots)
    assert [tile.index for tile in tiles] == list(range(len(tiles)))
    covered = np.concatenate([np.arange(tile.start, tile.stop) for tile in tiles])
    np.testing.assert_array_equal(covered, np.arange(350))
    for tile in tiles:
        assert offsets[tile.slice_index] <= tile.start < tile.stop <= offsets[tile.slice_index + 1]
        assert tile.n_spots <= tile_spots
    for s in range(4):
        sizes = [tile.n_spots for tile in tiles if tile.slice_index == s]
        assert len(sizes) == -(-(offsets[s + 1] - offsets[s]) // tile_spots)
        assert not sizes or max(sizes) - min(sizes) <= 1


def test_no_tile_of_nothing():
    with pytest.raises(BadOption, match="at least 1 spot"):
        plan_tiles([0, 5], 0)


@pytest.mark.parametrize("kind", ["plane", "grid", "cluster", "space"])
def test_expected_halo_is_an_upper_estimate(kind):
    rng = np.random.default_rng(0)
    coords = {
        "plane": lambda: rng.random((20_000, 2)) * 141,
        "grid": lambda: np.stack(np.meshgrid(*[np.arange(141.0)] * 2), -1).reshape(-1, 2),
        "cluster": lambda: rng.normal(size=(20_000, 2)) * 35,
        "space": lambda: rng.random((20_000, 3)) * 27,
    }[kind]()
    coords = coords[spatial_order(coords, np.zeros(len(coords), dtype=int))[0]]
    indptr, indices = radius_neighbours(coords, 1.45)
    degree, n_dims = len(indices) / len(coords), coords.shape[1]
    for tile_spots in (256, 2048):
        for hops in (1, 3):
            tiles = plan_tiles([0, len(coords)], tile_spots)
            largest = max(halo_tile(indptr, indices, tile, hops).ring_sizes[-1] for tile in tiles)
            expected = expected_halo(tile_spots, hops, mean_degree=degree, n_dims=n_dims)
            assert largest <= expected <= 3 * largest


def test_planned_bytes():
    assert planned_bytes(100, 8) == 800
    assert planned_bytes(100, 8, n_tiles=3, fixed_bytes=50) == 2450
    assert planned_bytes(100, 8, hops=1) == expected_halo(100, 1) * 8


def test_choose_a_tile_size():
    assert spots_that_fit(10**12, 1000) == 32_768
    assert spots_that_fit(10**12, 1000, largest=8192) == 8192
    assert spots_that_fit(10**12, 1000, tile_spots=100_000) == 100_000
    for budget in (3_000_000, 20_000_000):
        chosen = spots_that_fit(budget, 1000, hops=2, n_tiles=2, fixed_bytes=10_000)
        assert chosen % 256 == 0
        plans = [
            planned_bytes(spots, 1000, hops=2, n_tiles=2, fixed_bytes=10_000)
            for spots in (chosen, chosen + 256)
        ]
        assert plans[0] <= budget < plans[1]


def test_refuse_and_say_what_fits():
    with pytest.raises(BadOption) as refused:
        spots_that_fit(4_000_000_000, 622_559, tile_spots=8192)
    assert str(refused.value) == (
        "a tile of 8192 spots needs 5.1 GB but the budget is 4.0 GB; try --tile-size 6400"
    )
    assert spots_that_fit(4_000_000_000, 622_559, tile_spots=6400) == 6400
    with pytest.raises(BadOption, match=r"256 spots with 4 .* needs 1\.0 GB .* try a budget of 1\.0 GB"):
        spots_that_fit(1_000_000, 1_000_000, n_tiles=4)
    with pytest.raises(BadOption, match=r"a tile of 10 spots needs 10\.0 MB .* try a budget of 10\.1 MB"):
        spots_that_fit(1_000_000, 1_000_000, tile_spots=10)
