import itertools

import numpy as np
import pytest


def naive_radius(coords, radius):
    squared = sum((coords[:, None, a] - coords[None, :, a]) ** 2 for a in range(coords.shape[1]))
    return [np.flatnonzero(row < radius**2) for row in squared]


def naive_knn(coords, k):
    squared = sum((coords[:, None, a] - coords[None, :, a]) ** 2 for a in range(coords.shape[1]))
    out = []
    for i, row in enumerate(squared):
        order = [j for j in np.lexsort((np.arange(len(row)), row)) if j != i]
        out.append(np.sort([i, *order[:k]]))
    return out


def rows_of(parts):
    indptr, indices = parts
    return [indices[a:b] for a, b in itertools.pairwise(indptr)]


def points(kind, n=300, seed=0):
    rng = np.random.default_rng(seed)
    if kind == "plane":
        return rng.random((n, 2)) * 15
    if kind == "space":
        return rng.random((n, 3)) * 6
    if kind == "grid":
        return np.stack(np.meshgrid(np.arange(15.0), np.arange(20.0)), -1).reshape(-1, 2)
    if kind == "duplicates":
        return np.repeat(rng.integers(0, 8, (n // 6, 2)).astype(float), 6, axis=0)
    if kind == "one place":
        return np.full((n // 3, 2), 2.5)
    if kind == "line":
        return np.stack([np.arange(n) * 0.5, np.zeros(n)], 1)
    if kind == "one axis":
        return rng.random((n, 1)) * 90
    if kind == "stray":
        return np.concatenate([rng.random((n, 2)) * 15, [[1e12, -1e12], [1e12, -1e12 + 0.5]]])
    if kind == "far":
        return rng.random((n, 3)) * 6 + 1e6
    raise AssertionError(kind)


KINDS = ["plane", "space", "grid", "duplicates", "one place", "line", "one axis", "stray", "far"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("radius", [1e-6, 1.0, 1.1, 40.0])
def test_radius(side, kind, radius):
    coords = points(kind)
    indptr, indices = side.neighbours.radius_neighbours(coords, radius)
    assert (indptr.dtype, indices.dtype) == (np.int64, np.int32)
    for found, expected in zip(rows_of((indptr, indices)), naive_radius(coords, radius), strict=True):
        np.testing.assert_array_equal(found, expected)
    counted = side.neighbours.count_neighbours(coords, radius, np.arange(len(coords))[::-3])
    np.testing.assert_array_equal(counted, np.diff(indptr)[::-3])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 6, 30])
def test_knn(side, kind, k):
    coords = points(kind)
    indptr, indices = side.neighbours.knn_neighbours(coords, k)
    assert (indptr.dtype, indices.dtype) == (np.int64, np.int32)
    for found, expected in zip(rows_of((indptr, indices)), naive_knn(coords, k), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("rows", [(0, 300), (100, 217), (5, 5), (299, 300)])
def test_a_range_of_rows_is_a_cut_of_the_whole(side, rows):
    coords = points("plane")
    for ask, what in ((side.neighbours.radius_neighbours, 1.3), (side.neighbours.knn_neighbours, 5)):
        whole, part = rows_of(ask(coords, what)), rows_of(ask(coords, what, rows))
        assert len(part) == rows[1] - rows[0]
        for found, expected in zip(part, whole[rows[0] : rows[1]], strict=True):
            np.testing.assert_array_equal(found, expected)


def test_index_is_reused():
    from atlasnmf.kernels.cpu import neighbours

    coords = points("space")
    cells, tree = neighbours.radius_index(coords, 1.2), neighbours.knn_index(coords)
    for rows in ((0, 120), (120, 300)):
        indexed = neighbours.radius_neighbours(coords, 1.2, rows, index=cells)
        np.testing.assert_array_equal(indexed[1], neighbours.radius_neighbours(coords, 1.2, rows)[1])
        indexed = neighbours.knn_neighbours(coords, 4, rows, index=tree)
        np.testing.assert_array_equal(indexed[1], neighbours.knn_neighbours(coords, 4, rows)[1])
    with pytest.raises(ValueError, match=r"radius 1\.2, not 1\.3"):
        neighbours.radius_neighbours(coords, 1.3, index=cells)


@pytest.mark.parametrize("kind", KINDS)
def test_knn_distances(side, kind):
    coords = points(kind)
    rows = np.arange(0, len(coords), 7)
    gaps = coords[rows][:, None, :] - coords[None, :, :]
    expected = np.sqrt((gaps**2).sum(axis=2))
    expected[np.arange(len(rows)), rows] = np.inf
    found = side.neighbours.knn_distances(coords, 9, rows)
    np.testing.assert_allclose(found, np.sort(expected, axis=1)[:, :9], rtol=1e-12)
    assert side.neighbours.knn_distances(coords[:4], 9, np.array([2])).shape == (1, 3)


def test_few_points(side):
    for n in (0, 1, 2):
        coords = np.zeros((n, 2))
        np.testing.assert_array_equal(side.neighbours.radius_neighbours(coords, 1.0)[1], list(range(n)) * n)
        indptr, indices = side.neighbours.knn_neighbours(coords, 6)
        np.testing.assert_array_equal(indptr, np.arange(n + 1) * n)
        np.testing.assert_array_equal(indices, list(range(n)) * n)


def test_refusals(side):
    with pytest.raises(ValueError, match="shape"):
        side.neighbours.radius_neighbours(np.zeros((3, 4)), 1.0)
    with pytest.raises(ValueError, match="positive"):
        side.neighbours.radius_neighbours(np.zeros((3, 2)), 0.0)
    with pytest.raises(ValueError, match="at least 1"):
        side.neighbours.knn_neighbours(np.zeros((3, 2)), 0)
    with pytest.raises(IndexError, match="not within"):
        side.neighbours.radius_neighbours(np.zeros((3, 2)), 1.0, (1, 4))


def test_coordinates_are_left_alone(side):
    coords = points("plane")
    before = coords.copy()
    side.neighbours.knn_neighbours(coords, 5)
    side.neighbours.radius_neighbours(coords, 1.0)
    np.testing.assert_array_equal(coords, before)
