from itertools import pairwise

import numpy as np
import pytest

from atlasnmf.errors import BadOption
from atlasnmf.graph.build import (
    count_duplicates,
    slice_graph,
    slice_index,
    symmetric_union,
)


def square_distances(coords):
    return sum((coords[:, None, a] - coords[None, :, a]) ** 2 for a in range(coords.shape[1]))


def dense(graph):
    out = np.zeros((graph.n_rows, graph.n_cols))
    for row in range(graph.n_rows):
        edges = slice(graph.indptr[row], graph.indptr[row + 1])
        out[row, graph.indices[edges]] = graph.data[edges]
    return out


@pytest.fixture(params=[2, 3])
def coords(request):
    rng = np.random.default_rng(0)
    spots = rng.random((200, request.param)) * (10 if request.param == 2 else 5)
    spots[50:60] = spots[20:30]
    return spots


def test_radius_graph(coords):
    graph = slice_graph(coords, radius=1.2)
    np.testing.assert_array_equal(dense(graph), square_distances(coords) < 1.2**2)


def test_knn_graph_is_directed_and_its_union_is_not(coords):
    graph = slice_graph(coords, n_neighbors=5)
    np.testing.assert_array_equal(np.diff(graph.indptr), 6)
    a = dense(graph)
    assert (a != a.T).any()
    assert np.diag(a).all()
    union = symmetric_union(graph)
    np.testing.assert_array_equal(dense(union), np.maximum(a, a.T))
    assert (union.indptr.dtype, union.indices.dtype, union.data.dtype) == (np.int64, np.int32, np.uint8)
    assert all((np.diff(union.indices[i:j]) > 0).all() for i, j in pairwise(union.indptr))


@pytest.mark.parametrize("options", [{"radius": 1.2}, {"n_neighbors": 5}])
def test_tiles_are_cuts_of_the_slice(coords, options):
    whole = slice_graph(coords, **options)
    index = slice_index(coords, **options)
    for start, stop in [(0, 70), (70, 71), (71, 200), (200, 200)]:
        for given in (None, index):
            part = slice_graph(coords, **options, start=start, stop=stop, index=given)
            expected = whole.rows(start, stop)
            np.testing.assert_array_equal(part.indptr, expected.indptr)
            np.testing.assert_array_equal(part.indices, expected.indices)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either a radius or"),
        ({"radius": 1.0, "n_neighbors": 3}, "either a radius or"),
        ({"radius": 0.0}, "must be positive"),
        ({"radius": -1.0}, "must be positive"),
        ({"radius": float("nan")}, "must be positive"),
        ({"radius": float("inf")}, "must be positive"),
        ({"n_neighbors": 0}, "from 1 to 200"),
        ({"n_neighbors": 201}, "from 1 to 200"),
    ],
)
@pytest.mark.parametrize("function", [slice_graph, slice_index])
def test_refusals(function, options, message):
    with pytest.raises(BadOption, match=message):
        function(np.zeros((3, 2)), **options)


def test_count_duplicates():
    assert count_duplicates(np.zeros((0, 2))) == 0
    assert count_duplicates(np.zeros((1, 2))) == 0
    assert count_duplicates(np.zeros((5, 3))) == 5
    rng = np.random.default_rng(0)
    coords = rng.integers(0, 6, (60, 2)).astype(float)
    same = (square_distances(coords) == 0).sum(1) > 1
    assert count_duplicates(coords) == same.sum()


def test_slices_of_one_spot():
    for options in ({"radius": 1.0}, {"n_neighbors": 6}):
        graph = slice_graph(np.zeros((1, 2)), **options)
        assert (graph.indptr.tolist(), graph.indices.tolist()) == ([0, 1], [0])
