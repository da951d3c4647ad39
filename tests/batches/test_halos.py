"""Halo tiles: the rings of a breadth-first search, and exact message passing on the core."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
from small_sources import small_source

from atlasnmf.batches.halos import halo_batch


def dense_graph(source):
    return source.graph.rows.to_scipy().toarray() > 0


@pytest.mark.parametrize("hops", [1, 2, 3, 4])
@pytest.mark.parametrize("core", [(0, 37, 0), (0, 5, 0), (37, 46, 1), (60, 61, 2), (50, 50, 2)])
def test_rings_and_graph(hops, core):
    start, stop, slice_index = core
    source = small_source()
    near = dense_graph(source)
    batch = halo_batch(source, slice_index, start, stop, hops)

    known = np.zeros(source.n_spots, dtype=bool)
    known[start:stop] = True
    rows, sizes = [np.arange(start, stop)], [stop - start]
    for _ in range(hops):
        reached = near[known].any(axis=0) if known.any() else known
        rows.append(np.flatnonzero(reached & ~known))
        known |= reached
        sizes.append(sizes[-1] + len(rows[-1]))
    np.testing.assert_array_equal(batch.rows, np.concatenate(rows))
    assert batch.rings == tuple(sizes)

    assert batch.graph.n_rows == sizes[-2]
    assert batch.graph.n_cols == sizes[-1]
    assert batch.graph.data.dtype == np.float32
    degrees = near.sum(axis=1)
    normalised = near / np.sqrt(np.outer(degrees, degrees))
    expected = normalised[np.ix_(batch.rows[: sizes[-2]], batch.rows)]
    np.testing.assert_allclose(batch.graph.to_scipy().toarray(), expected, rtol=1e-6)
    for row in range(batch.graph.n_rows):
        columns = batch.graph.indices[batch.graph.indptr[row] : batch.graph.indptr[row + 1]]
        assert (np.diff(batch.rows[columns]) > 0).all()
    np.testing.assert_array_equal(batch.totals, source.totals[batch.rows])
    np.testing.assert_array_equal(batch.scores, source.scores.rows[batch.rows])


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_as_many_rounds_as_hops_are_exact_on_the_core(hops):
    source = small_source()
    near = dense_graph(source)
    degrees = near.sum(axis=1)
    whole = scipy.sparse.csr_matrix(near / np.sqrt(np.outer(degrees, degrees)))
    values = np.random.default_rng(0).normal(size=(source.n_spots, 3))
    expected = values
    for _ in range(hops):
        expected = whole @ expected
    batch = halo_batch(source, 2, 60, 75, hops)
    graph = batch.graph.to_scipy()
    inside = values[batch.rows]
    for ring in reversed(batch.rings[:-1]):
        inside = graph[:ring, : len(inside)] @ inside
    np.testing.assert_allclose(inside, expected[60:75], rtol=1e-5)


def test_no_hops_gives_the_core_alone():
    source = small_source()
    batch = halo_batch(source, 2, 50, 60, 0)
    assert batch.rings == (10,)
    assert batch.graph is None
    np.testing.assert_array_equal(batch.rows, np.arange(50, 60))
