"""A~^h X on disk equals the dense formula."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from atlasnmf.features.smooth import write_smoothed
from atlasnmf.store.parts import PartedCsr, plan_parts
from tests.features.sources import any_rows, neighbour_graph, random_counts

SIZES = (90, 41)
GRAPH = neighbour_graph(SIZES)
X = np.log1p(random_counts(131, 50)).astype(np.float32)


@pytest.mark.parametrize("hops", [1, 2, 3])
@pytest.mark.parametrize("n_workers", [1, 2])
def test_equals_the_dense_formula(tmp_path: Path, hops: int, n_workers: int) -> None:
    parts = plan_parts(np.array([0, *np.cumsum(SIZES)]), 30)
    targets = [
        PartedCsr.create(tmp_path / f"hop{hop}", parts, n_cols=50, dtype=np.float32)
        for hop in range(1, hops + 1)
    ]
    degrees = np.diff(GRAPH.indptr)
    write_smoothed(any_rows(X), any_rows(GRAPH), targets, degrees=degrees, n_workers=n_workers)
    dense = GRAPH.toarray() / np.sqrt(np.outer(degrees, degrees))
    expected = X.astype(np.float64)
    for target in targets:
        expected = dense @ expected
        found = target.read(0, 131)
        assert found.data.dtype == np.float32
        np.testing.assert_allclose(found.to_scipy().toarray(), expected, rtol=1e-5, atol=1e-6)
    source = any_rows(X)
    write_smoothed(source, any_rows(GRAPH), targets, degrees=degrees)
    assert source.n_read == 0  # nothing is done twice
