import numpy as np
import pytest

from atlasnmf.kernels.cpu.neighbours import knn_neighbours, radius_neighbours
from atlasnmf.tiles.halo import HaloTile, halo_rings, halo_tile, local_graph
from atlasnmf.tiles.order import spatial_order
from atlasnmf.tiles.plan import Tile, plan_tiles


def naive_rings(indptr, indices, core, hops):
    distance = dict.fromkeys(core, 0)
    frontier = list(core)
    for hop in range(1, hops + 1):
        new = []
        for row in frontier:
            for neighbour in indices[indptr[row] : indptr[row + 1]].tolist():
                if neighbour not in distance:
                    distance[neighbour] = hop
                    new.append(neighbour)
        frontier = new
    return [sorted(row for row, d in distance.items() if d == hop) for hop in range(1, hops + 1)]


def graph_of(kind, n=400, seed=0):
    rng = np.random.default_rng(seed)
    coords = rng.random((n, 3 if kind == "space" else 2)) * 20
    coords = coords[spatial_order(coords, np.zeros(n, dtype=int))[0]]
    if kind == "directed":
        return knn_neighbours(coords, 4)
    return radius_neighbours(coords, 5.0 if kind == "space" else 1.6)


@pytest.mark.parametrize("kind", ["plane", "space", "directed"])
@pytest.mark.parametrize("hops", [0, 1, 2, 5])
def test_halos_are_exact(kind, hops):
    indptr, indices = graph_of(kind)
    for start, stop in [(0, 50), (137, 200), (390, 400), (0, 400), (7, 7)]:
        rings = halo_rings(indptr, indices, start, stop, hops)
        expected = naive_rings(indptr, indices, range(start, stop), hops)
        assert [ring.tolist() for ring in rings] == expected
        assert all(ring.dtype == np.int64 for ring in rings)


@pytest.mark.parametrize("kind", ["plane", "directed"])
@pytest.mark.parametrize("hops", [1, 2, 3])
def test_local_graph_is_the_graph(kind, hops):
    indptr, indices = graph_of(kind)
    weights = np.random.default_rng(0).random(len(indices)).astype(np.float32)
    for tile in plan_tiles([0, 400], 90):
        halo = halo_tile(indptr, indices, tile, hops)
        local = local_graph(indptr, indices, weights, halo)
        rows, sizes = halo.rows, halo.ring_sizes
        assert sizes[0] == tile.n_spots
        assert sizes[-1] == len(rows) == len(np.unique(rows)) == local.n_cols
        assert local.n_rows == sizes[-2]
        for position, row in enumerate(rows[: sizes[-2]]):
            edges = slice(indptr[row], indptr[row + 1])
            here = slice(local.indptr[position], local.indptr[position + 1])
            np.testing.assert_array_equal(rows[local.indices[here]], indices[edges])
            np.testing.assert_array_equal(local.data[here], weights[edges])
        np.testing.assert_array_equal(local_graph(indptr, indices, None, halo).data, 1)


def test_no_ring_no_edges():
    indptr, indices = graph_of("plane")
    halo = HaloTile(Tile(0, 0, 5, 9), ())
    assert halo.rows.tolist() == [5, 6, 7, 8]
    assert halo.ring_sizes == (4,)
    local = local_graph(indptr, indices, None, halo)
    assert (local.n_rows, local.nnz, local.n_cols) == (0, 0, 4)
