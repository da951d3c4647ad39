"""However an atlas is cut into tiles, whatever order its rows come in: the same numbers, most to the bit."""

from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from atlasnmf.features.neighbourhood import read_neighbourhood
from atlasnmf.graph.build import slice_graph, slice_index
from atlasnmf.kernels.cpu import lognorm, moments, products, rows, smooth
from atlasnmf.schema import Csr
from atlasnmf.tiles.order import spatial_order
from atlasnmf.tiles.plan import plan_tiles
from tests.features.sources import AnyRows

N_GENES = 70
unhurried = settings(deadline=None, max_examples=40)


@st.composite
def slices(draw, min_spots=2, max_spots=120):
    """Spots of a slice in working order with counts: scattered, on a grid, with duplicates, in 2-D or 3-D."""
    n = draw(st.integers(min_spots, max_spots))
    d = draw(st.sampled_from([2, 3]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if draw(st.booleans()):
        coords = rng.integers(0, max(2, round(n ** (1 / d))), (n, d)).astype(float)
    else:
        coords = rng.random((n, d)) * n ** (1 / d)
    coords = coords[spatial_order(coords, np.zeros(n, dtype=int))[0]]
    counts = rng.poisson(0.4, (n, N_GENES)).astype(np.uint16)
    row, column = np.nonzero(counts)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=n))]).astype(np.int64)
    return coords, Csr(indptr, column.astype(np.uint16), counts[row, column], N_GENES)


def edges():
    return st.one_of(
        st.floats(0.3, 3.0).map(lambda radius: {"radius": radius}),
        st.integers(1, 8).map(lambda k: {"n_neighbors": k}),
    )


def smooth_by_tile(graph, counts, tile_spots, hops, weighting="mean"):
    edges, rows = AnyRows(graph), AnyRows(counts)
    pieces = []
    for tile in plan_tiles([0, counts.n_rows], tile_spots):
        around = read_neighbourhood(
            edges, tile.start, tile.stop, hops, weighting=weighting, degrees=np.diff(graph.indptr)
        )
        x = rows.read_rows(around.rows)
        for n_rows in around.rings[-2::-1]:
            x = Csr(
                *smooth.smooth_rows(*around.graph_of(n_rows), x.indptr, x.indices, x.data, N_GENES), N_GENES
            )
        pieces.append(x)
    return np.concatenate([p.indices for p in pieces]), np.concatenate([p.data for p in pieces])


def dense_weights(graph, weighting):
    near = graph.to_scipy().astype(np.float64)
    lengths = np.diff(graph.indptr)
    left = scipy.sparse.diags(1 / (lengths if weighting == "mean" else np.sqrt(lengths)))
    return left @ near if weighting == "mean" else left @ near @ left


@given(slices(), edges(), st.integers(1, 60), st.integers(1, 3), st.sampled_from(["mean", "symmetric"]))
@unhurried
def test_smoothing_by_tile_is_smoothing(spots, options, tile_spots, hops, weighting):
    coords, counts = spots
    graph = slice_graph(coords, **options)
    indices, data = smooth_by_tile(graph, counts, tile_spots, hops, weighting)
    whole_indices, whole_data = smooth_by_tile(graph, counts, counts.n_rows, hops, weighting)
    np.testing.assert_array_equal(indices, whole_indices)
    np.testing.assert_array_equal(data, whole_data)
    dense = counts.to_scipy().astype(np.float64)
    for _ in range(hops):
        dense = dense_weights(graph, weighting) @ dense
    np.testing.assert_allclose(data, dense.toarray()[dense.toarray() > 0], rtol=1e-5)


@given(slices(), edges(), st.lists(st.integers(0, 120), max_size=5))
@unhurried
def test_graphs_by_tile_are_the_graph(spots, options, cuts):
    coords, _ = spots
    whole, index = slice_graph(coords, **options), slice_index(coords, **options)
    bounds = np.unique(np.clip([0, *cuts, len(coords)], 0, len(coords)))
    parts = [
        slice_graph(coords, **options, start=int(start), stop=int(stop), index=index)
        for start, stop in pairwise(bounds)
    ]
    np.testing.assert_array_equal(np.concatenate([part.indices for part in parts]), whole.indices)
    lengths = np.concatenate([np.diff(part.indptr) for part in parts])
    np.testing.assert_array_equal(lengths, np.diff(whole.indptr))


@given(slices(), st.floats(0.3, 3.0), st.randoms(use_true_random=False))
@unhurried
def test_radius_graph_follows_the_spots(spots, radius, shuffler):
    coords, _ = spots
    shuffle = list(range(len(coords)))
    shuffler.shuffle(shuffle)
    shuffle = np.array(shuffle)
    graph, shuffled = slice_graph(coords, radius=radius), slice_graph(coords[shuffle], radius=radius)
    a, b = graph.to_scipy(), shuffled.to_scipy()
    assert (a[shuffle][:, shuffle] != b).nnz == 0
    assert (a != a.T).nnz == 0


@given(slices(), st.integers(1, 60))
@unhurried
def test_sums_by_tile_are_the_sums(spots, tile_spots):
    _, counts = spots
    clip = np.linspace(0, 4, N_GENES)
    totals = rows.row_sums(counts.indptr, counts.data)
    tiles = plan_tiles([0, counts.n_rows], tile_spots)
    parts = [counts.rows(tile.start, tile.stop) for tile in tiles]

    def added(kernel, *more):
        sums = [kernel(part.indptr, part.indices, part.data, N_GENES, *more) for part in parts]
        return [sum(of_parts) for of_parts in zip(*sums, strict=True)]

    whole = (counts.indptr, counts.indices, counts.data, N_GENES)
    np.testing.assert_array_equal(added(moments.gene_moments), moments.gene_moments(*whole))
    clipped = moments.clipped_moments(*whole, clip)
    np.testing.assert_allclose(added(moments.clipped_moments, clip), clipped, rtol=1e-12)
    np.testing.assert_array_equal(np.concatenate([rows.row_sums(p.indptr, p.data) for p in parts]), totals)
    logs = [
        lognorm.log_normalise(part.indptr, part.data, totals[tile.start : tile.stop], 1e4)
        for tile, part in zip(tiles, parts, strict=True)
    ]
    whole_logs = lognorm.log_normalise(counts.indptr, counts.data, totals, 1e4)
    np.testing.assert_array_equal(np.concatenate(logs), whole_logs)


@given(slices(), st.integers(1, 60), st.sampled_from([1, 5, 32, 130]))
@unhurried
def test_products_by_tile_are_the_products(spots, tile_spots, p):
    _, counts = spots
    rng = np.random.default_rng(p)
    right = rng.normal(size=(N_GENES, p)).astype(np.float32)
    left = rng.normal(size=(counts.n_rows, p)).astype(np.float32)
    tiles = plan_tiles([0, counts.n_rows], tile_spots)
    parts = [counts.rows(tile.start, tile.stop) for tile in tiles]
    products_of_parts = [products.csr_dot(x.indptr, x.indices, x.data, right) for x in parts]
    whole = products.csr_dot(counts.indptr, counts.indices, counts.data, right)
    np.testing.assert_array_equal(np.concatenate(products_of_parts), whole)
    added = sum(
        products.csr_t_dot(x.indptr, x.indices, x.data, left[tile.start : tile.stop], N_GENES)
        for tile, x in zip(tiles, parts, strict=True)
    )
    whole = products.csr_t_dot(counts.indptr, counts.indices, counts.data, left, N_GENES)
    np.testing.assert_allclose(added, whole, rtol=1e-11, atol=1e-11)


@given(slices(), st.data())
@unhurried
def test_rows_and_columns_may_be_taken_in_any_order(spots, data):
    _, counts = spots
    order = np.array(data.draw(st.permutations(range(counts.n_rows))))
    taken = rows.take_rows(counts.indptr, counts.indices, counts.data, order)
    back = rows.take_rows(*taken, np.argsort(order))
    for ours, original in zip(back, (counts.indptr, counts.indices, counts.data), strict=True):
        np.testing.assert_array_equal(ours, original)
    lut = np.array(data.draw(st.permutations(range(N_GENES))), dtype=np.int32)
    renamed = rows.select_columns(counts.indptr, counts.indices, counts.data, lut)
    back = rows.select_columns(*renamed, np.argsort(lut).astype(np.int32))
    for ours, original in zip(back, (counts.indptr, counts.indices, counts.data), strict=True):
        np.testing.assert_array_equal(ours, original)


@given(
    st.integers(0, 80),
    st.integers(1, 4),
    st.sampled_from([2, 3]),
    st.integers(0, 2**32 - 1),
)
@unhurried
def test_working_order_does_not_depend_on_the_order_of_the_rows(n, n_slices, d, seed):
    rng = np.random.default_rng(seed)
    coords, codes = rng.random((n, d)), rng.integers(-1, n_slices, n)
    shuffle = rng.permutation(n)
    order, offsets = spatial_order(coords, codes)
    shuffled, shuffled_offsets = spatial_order(coords[shuffle], codes[shuffle])
    np.testing.assert_array_equal(shuffle[shuffled], order)
    np.testing.assert_array_equal(shuffled_offsets, offsets)


@pytest.mark.parametrize("tile_spots", [1, 10**9])
def test_tiles_of_one_spot_and_of_all(tile_spots):
    rng = np.random.default_rng(0)
    coords = rng.random((30, 2)) * 5
    counts = rng.poisson(1.0, (30, N_GENES)).astype(np.uint16)
    row, column = np.nonzero(counts)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=30))]).astype(np.int64)
    graph = slice_graph(coords, radius=1.0)
    x = Csr(indptr, column.astype(np.uint16), counts[row, column], N_GENES)
    for ours, whole in zip(
        smooth_by_tile(graph, x, tile_spots, 2), smooth_by_tile(graph, x, 30, 2), strict=True
    ):
        np.testing.assert_array_equal(ours, whole)
