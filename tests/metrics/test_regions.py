import numpy as np
import pytest
import scipy.ndimage
from skimage.filters import threshold_otsu

from atlasnmf.errors import BadInput
from atlasnmf.graph.grid import grid_graph
from atlasnmf.metrics.regions import adjacency_on_graph, adjacency_on_grid, region_sums


def a_volume(shape=(9, 8, 7), n_labels=6, seed=0):
    """Labels on a grid, patches of the nearest of a few points; -1 outside a ball."""
    rng = np.random.default_rng(seed)
    axes = np.stack(np.meshgrid(*[np.linspace(-1, 1, s) for s in shape], indexing="ij"), axis=-1)
    points = rng.uniform(-0.7, 0.7, (n_labels, len(shape)))
    labels = np.linalg.norm(axes[..., None, :] - points, axis=-1).argmin(axis=-1)
    return np.where((axes**2).sum(axis=-1) <= 1, labels, -1)


@pytest.mark.parametrize("seed", range(3))
def test_adjacency_is_that_of_dilated_regions(seed):
    labels = a_volume(seed=seed)
    n_labels = labels.max() + 1
    expected = np.zeros((n_labels, n_labels), bool)
    for a in range(n_labels):
        grown = scipy.ndimage.binary_dilation(labels == a)
        for b in range(n_labels):
            expected[a, b] = a != b and (grown & (labels == b)).any()
    np.testing.assert_array_equal(adjacency_on_grid(labels), expected)
    inside = labels >= 0
    graph = grid_graph(np.argwhere(inside))
    np.testing.assert_array_equal(adjacency_on_graph(labels[inside], graph, n_labels), expected)
    some = labels[inside].copy()
    some[::3] = -1  # spots of no region join nothing
    assert adjacency_on_graph(some, graph, n_labels).sum() <= expected.sum()
    with pytest.raises(BadInput, match="labels on a graph"):
        adjacency_on_graph(some[1:], graph, n_labels)


@pytest.fixture
def case():
    rng = np.random.default_rng(1)
    labels = rng.integers(-1, 5, 400)
    patterns = rng.gamma(1.0, size=(400, 3)) + 2.0 * (labels[:, None] == [0, 2, 4])
    contains = np.vstack([np.eye(5, dtype=bool), np.array([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]], bool)])
    return patterns, labels, contains


def indicator(labels, contains, union):
    held = contains[[region for region in union if region >= 0]].any(axis=0)
    return np.append(held, False)[labels]


@pytest.mark.parametrize("chunk_rows", [65_536, 37])
def test_unions_are_the_plain_formulas(case, chunk_rows, monkeypatch):
    monkeypatch.setattr("atlasnmf.metrics.regions._CHUNK_ROWS", chunk_rows)
    patterns, labels, contains = case
    patterns[7, 1] = np.nan
    finite = np.isfinite(patterns).all(axis=1)
    sums = region_sums(patterns, labels, contains)
    unions = np.array([[0, 2, 4], [5, 2, -1], [3, -1, -1], [6, -1, -1]])
    pearson, dice = sums.pearson(unions), sums.dice(unions)
    for row, union in enumerate(unions):
        inside = indicator(labels, contains, union)[finite]
        for k in range(3):
            values = patterns[finite, k]
            assert pearson[row, k] == pytest.approx(np.corrcoef(values, inside)[0, 1], abs=1e-12)
            high = values > threshold_otsu(values)
            assert dice[row, k] == pytest.approx(2 * (high & inside).sum() / (high.sum() + inside.sum()))
    np.testing.assert_allclose(sums.only(np.array([3])).pearson(np.array([[0]])), pearson[2:3])


def test_constant_patterns_and_full_regions_have_no_correlation(case):
    patterns, labels, contains = case
    patterns[:, 0] = 1e6 + 0.1
    sums = region_sums(patterns, np.maximum(labels, 0), contains)
    found = sums.pearson(np.array([[0], [6]]))
    assert np.isnan(found[:, 0]).all()
    assert np.isnan(found[1]).all()
    assert np.isfinite(found[0, 1:]).all()


def test_bad_patterns_are_refused(case):
    patterns, labels, contains = case
    with pytest.raises(BadInput, match="same spots"):
        region_sums(patterns[1:], labels, contains)
    with pytest.raises(BadInput, match="finite"):
        region_sums(patterns * np.nan, labels, contains)
