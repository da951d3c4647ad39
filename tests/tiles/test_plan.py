import numpy as np
import pytest

from atlasnmf.errors import BadOption
from atlasnmf.features.neighbourhood import read_neighbourhood
from atlasnmf.graph.build import slice_graph
from atlasnmf.tiles.order import spatial_order
from atlasnmf.tiles.plan import expected_halo, plan_tiles
from tests.features.sources import AnyRows


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
    graph = slice_graph(coords, radius=1.45)
    source = AnyRows(graph)
    degree, n_dims = graph.nnz / len(coords), coords.shape[1]
    for tile_spots in (256, 2048):
        for hops in (1, 3):
            largest = max(
                read_neighbourhood(source, tile.start, tile.stop, hops, weighting="mean").rings[-1]
                for tile in plan_tiles([0, len(coords)], tile_spots)
            )
            expected = expected_halo(tile_spots, hops, mean_degree=degree, n_dims=n_dims)
            assert largest <= expected <= 3 * largest
