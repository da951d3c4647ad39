"""Products of listed pairs, and the best of rows and columns, against dense arrays."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.sparse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atlasnmf.kernels.cpu import pairs as cpu
from atlasnmf.kernels.cpu.gaussians import field_scores


def listed(seed, n=17, p=13, levels=6):
    """Masses with many ties; one row and one column without any."""
    rng = np.random.default_rng(seed)
    dense = rng.integers(1, levels, (n, p)) * (rng.random((n, p)) < 0.4) / levels
    dense[2], dense[:, 4] = 0, 0
    csr = scipy.sparse.csr_matrix(dense)
    return dense, csr.indptr.astype(np.int64), csr.indices.astype(np.int32), csr.data


@pytest.mark.parametrize("width", [1, 3, 4, 7, 32])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_products_of_pairs(side, width, kind):
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(9, width)).astype(kind), rng.normal(size=(8, width)).astype(kind)
    rows, columns = rng.integers(9, size=40), rng.integers(8, size=40).astype(np.int32)
    expected = (left.astype(float) @ right.T.astype(float))[rows, columns]
    products = side.pairs.pair_dots(rows, columns, left, right)
    assert products.dtype == kind
    np.testing.assert_allclose(products, expected, atol=1e-5 if kind == np.float32 else 1e-12)
    some = side.pairs.pair_dots(rows[5:9], columns[5:9], left, right)
    np.testing.assert_array_equal(some, products[5:9])
    np.testing.assert_array_equal(products, cpu.pair_dots(rows, columns, left, right))


def test_the_best_of_each_row_is_the_first_of_equals(side):
    dense, indptr, indices, mass = listed(1)
    places = side.pairs.best_of_rows(indptr, mass)
    for i in range(len(dense)):
        assert (places[i] == -1) == (not dense[i].any())
        if places[i] >= 0:
            assert indices[places[i]] == dense[i].argmax()


@given(seed=st.integers(0, 30), k=st.integers(1, 4), cuts=st.sets(st.integers(1, 16)))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_tops_and_mutual_pairs_whatever_the_blocks(side, seed, k, cuts):
    dense, indptr, indices, mass = listed(seed)
    n, p = dense.shape
    tops = [(np.full((size, k), -1, np.int32), np.zeros((size, k))) for size in (n, p)]
    bounds = [0, *sorted(cuts), n]
    for start, stop in itertools.pairwise(bounds):
        ends = indptr[start : stop + 1]
        part = slice(ends[0], ends[-1])
        side.pairs.keep_tops(ends - ends[0], indices[part], mass[part], start, *tops)
    best = [
        [[j for j in np.argsort(-line, kind="stable")[:k] if line[j] > 0] for line in masses]
        for masses in (dense, dense.T)
    ]
    for (partners, masses), expected, lines in zip(tops, best, (dense, dense.T), strict=True):
        for i, line in enumerate(expected):
            assert [j for j in partners[i] if j >= 0] == line
            np.testing.assert_array_equal(masses[i, : len(line)], lines[i, line])
    rows, ranks = side.pairs.mutual_tops(tops[0][0], tops[1][0])
    found = set(zip(rows.tolist(), tops[0][0][rows, ranks].tolist(), strict=True))
    assert found == {(i, j) for i, line in enumerate(best[0]) for j in line if i in best[1][j]}
    assert len(found) == len(rows)


def test_points_outside_a_field_score_nothing():
    means, inverses, weights = np.full((1, 2, 2, 2), 0.5), np.ones((1, 2, 2, 3)), np.zeros((1, 2, 2))
    inverses[..., 1] = 0
    weights[0, 0, 0] = 0.5
    points = np.array([[0.5, 0.5], [0.9, 0.5], [1.5, 0.5], [-3.0, 0.5], [0.5, 9.0]])
    total, slopes = field_scores(points, np.zeros(2), 1.0, np.zeros((1, 2)), means, inverses, weights)
    assert total == pytest.approx(0.5 * (1 + np.exp(-0.5 * 0.16)))
    np.testing.assert_allclose(slopes[1], [-0.4 * 0.5 * np.exp(-0.08), 0])
    assert not slopes[[0, 2, 3, 4]].any()
