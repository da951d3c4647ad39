from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlasnmf.kernels.cpu.tops import row_tops


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 40), st.sampled_from(["float32", "float64"]))
def test_tops_are_those_of_a_stable_sort(seed, n, p, kind):
    rng = np.random.default_rng(seed)
    values = rng.integers(-4, 5, (n, p)).astype(kind)  # many equal ones
    k = int(rng.integers(1, p + 1))
    expected = np.argsort(-values, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(row_tops(values, k), expected)


@pytest.mark.parametrize("k", [0, 4])
def test_as_many_as_there_are_columns(k):
    with pytest.raises(ValueError, match=r"k must lie in \[1, 3\]"):
        row_tops(np.zeros((2, 3)), k)


def test_no_rows():
    assert row_tops(np.zeros((0, 3), np.float32), 2).shape == (0, 2)
