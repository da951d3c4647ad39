"""Halos are exact: a tile with its rings does what the whole graph does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlasnmf.features.neighbourhood import edge_weights, read_neighbourhood
from tests.features.sources import any_rows, mean_matrix, neighbour_graph

GRAPH = neighbour_graph((60, 37))
SOURCE = any_rows(GRAPH)
M = mean_matrix(GRAPH)


@settings(deadline=None)
@given(start=st.integers(0, 59), n_rows=st.integers(1, 40), hops=st.integers(0, 4))
def test_averages_of_the_core_are_those_of_the_whole_graph(start: int, n_rows: int, hops: int) -> None:
    stop = min(start + n_rows, 60)
    around = read_neighbourhood(SOURCE, start, stop, hops, weighting="mean")
    values = np.random.default_rng(0).standard_normal((97, 3))
    averaged = around.average(values[around.rows])
    assert len(averaged) == hops + 1
    for hop, found in enumerate(averaged):
        expected = np.linalg.matrix_power(M, hop) @ values
        np.testing.assert_allclose(found, expected[start:stop], atol=1e-6)
    assert around.rows[: around.n_core].tolist() == list(range(start, stop))
    assert len(set(around.rows)) == len(around.rows) == around.rings[-1]


@settings(deadline=None)
@given(start=st.integers(0, 59), n_rows=st.integers(1, 40), hops=st.integers(0, 4))
def test_spreading_is_the_transpose_of_averaging(start: int, n_rows: int, hops: int) -> None:
    stop = min(start + n_rows, 60)
    around = read_neighbourhood(SOURCE, start, stop, hops, weighting="mean")
    core = np.random.default_rng(1).standard_normal((stop - start, 2))
    for hop, spread in enumerate(around.spread(core)):
        expected = np.linalg.matrix_power(M, hop)[start:stop].T @ core
        found = np.zeros((97, 2))
        found[around.rows[: len(spread)]] = spread
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_symmetric_weights_use_degrees_of_the_whole_slice() -> None:
    degrees = np.diff(GRAPH.indptr)
    degrees[3] = 9  # whatever the graph says: a halo row's own list is not looked at
    around = read_neighbourhood(SOURCE, 10, 20, 1, weighting="symmetric", degrees=degrees)
    dense = GRAPH.toarray() / np.sqrt(np.outer(degrees, degrees))
    found = around.graph.to_scipy().toarray()
    np.testing.assert_allclose(found, dense[10:20][:, around.rows], rtol=1e-6)
    with pytest.raises(ValueError, match="degrees"):
        edge_weights(np.array([0, 1]), np.array([0]), [0], weighting="symmetric")
