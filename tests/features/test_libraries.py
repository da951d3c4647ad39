"""Log counts against the dense formula."""

from __future__ import annotations

import numpy as np

from atlasnmf.features.libraries import LogCounts
from atlasnmf.schema import Csr
from tests.features.sources import any_rows, random_counts

COUNTS = random_counts(120, 30)


def test_log_counts_are_made_as_they_are_read() -> None:
    counts = COUNTS.copy()
    counts[5] = 0
    totals = counts.sum(axis=1)
    logs = LogCounts(any_rows(counts), totals, 1e3)
    expected = np.log1p(1e3 * counts / np.maximum(totals, 1)[:, None])
    found = logs.read(2, 90)
    assert isinstance(found, Csr)
    assert found.data.dtype == np.float32
    np.testing.assert_allclose(found.to_scipy().toarray(), expected[2:90], rtol=1e-6)
    rows = np.array([7, 5, 100])
    np.testing.assert_allclose(logs.read_rows(rows).to_scipy().toarray(), expected[rows], rtol=1e-6)
