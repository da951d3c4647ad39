from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse

from atlasnmf.schema import Csr
from atlasnmf.tiles.read import coalesce, read_rows


class Recorder:
    """A source that remembers what was read."""

    def __init__(self, rows):
        self.rows, self.runs = rows, []

    def read(self, start, stop):
        self.runs.append((start, stop))
        return self.rows.rows(start, stop) if isinstance(self.rows, Csr) else self.rows[start:stop]


@pytest.mark.parametrize("gap", [0, 1, 3, 1000])
def test_coalesce(gap):
    rows = np.unique(np.random.default_rng(0).integers(0, 300, 80))
    runs = coalesce(rows, gap)
    assert all(start < stop for start, stop in runs)
    assert all(b - a > gap for (_, a), (b, _) in pairwise(runs))
    inside = np.concatenate([np.arange(start, stop) for start, stop in runs])
    assert np.isin(rows, inside).all()
    assert all(start in rows and stop - 1 in rows for start, stop in runs)
    assert coalesce(np.repeat(rows, 2), gap) == runs
    assert coalesce(rows[:0], gap) == []


@pytest.mark.parametrize("rows", [[], [5], [3, 4, 5], [9, 0, 0, 55, 41, 9], list(range(60))])
@pytest.mark.parametrize("gap", [0, 4, 256])
def test_read_rows(rows, gap):
    dense = np.random.default_rng(0).poisson(1.0, (60, 12)).astype(np.float32)
    rows = np.array(rows, dtype=np.int64)
    np.testing.assert_array_equal(read_rows(Recorder(dense), rows, gap), dense[rows])
    out = read_rows(Recorder(Csr.from_scipy(scipy.sparse.csr_matrix(dense))), rows, gap)
    assert out.indptr.dtype == np.int64
    np.testing.assert_array_equal(out.to_scipy().toarray(), dense[rows])


def test_few_reads():
    source = Recorder(np.arange(100_000))
    read_rows(source, np.concatenate([np.arange(5000, 9000), [4900, 9300, 50_000]]))
    assert source.runs == [(4900, 9000), (9300, 9301), (50_000, 50_001)]
