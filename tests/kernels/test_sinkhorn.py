"""Sparse transport with dustbins against the dense loop of SuperGlue and against POT."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp

from atlasnmf.kernels.cpu import sinkhorn as cpu


def problem(n_rows=23, n_columns=31, density=0.25, spread=6.0, seed=0):
    """Candidates, none for one row and one column; the same dense and augmented, -inf where forbidden."""
    rng = np.random.default_rng(seed)
    listed = rng.random((n_rows, n_columns)) < density
    listed[2], listed[:, 3] = False, False
    dense = np.where(listed, rng.uniform(0, spread, listed.shape), -np.inf)
    bin_score = spread / 2
    augmented = np.full((n_rows + 1, n_columns + 1), bin_score)
    augmented[:-1, :-1] = dense
    csr = scipy.sparse.csr_matrix(listed)
    return csr.indptr.astype(np.int64), csr.indices.astype(np.int32), dense[listed], bin_score, augmented


def plain_plan(augmented, n_iterations):
    n_rows, n_columns = np.array(augmented.shape) - 1
    log_rows = np.log(np.append(np.ones(n_rows), n_columns))
    log_columns = np.log(np.append(np.ones(n_columns), n_rows))
    v = np.zeros(n_columns + 1)
    for _ in range(n_iterations):
        u = log_rows - logsumexp(augmented + v, axis=1)
        v = log_columns - logsumexp(augmented + u[:, None], axis=0)
    return np.exp(augmented + u[:, None] + v)


def as_dense(kernels, indptr, indices, scores, found, shape):
    """Return the augmented plan that potentials stand for."""
    mass = kernels.plan_mass(indptr, indices, scores, found)
    rows, columns = kernels.bin_mass(found)
    dense = np.zeros(shape)
    dense[:-1, :-1] = scipy.sparse.csr_matrix((mass, indices, indptr), shape=np.array(shape) - 1).toarray()
    dense[:-1, -1], dense[-1, :-1] = rows, columns
    dense[-1, -1] = np.exp(found.bin_score + found.row_bin + found.column_bin)
    return dense


@pytest.mark.parametrize("n_iterations", [1, 2, 40])
@pytest.mark.parametrize("spread", [6.0, 600.0])
def test_equal_to_the_dense_loop(side, n_iterations, spread):
    indptr, indices, scores, bin_score, augmented = problem(spread=spread)
    found = side.sinkhorn.sinkhorn(
        indptr, indices, scores, 31, bin_score, max_iterations=n_iterations, tolerance=-1.0
    )
    assert found.n_iterations == n_iterations
    plan = as_dense(side.sinkhorn, indptr, indices, scores, found, augmented.shape)
    np.testing.assert_allclose(plan, plain_plan(augmented, n_iterations), atol=1e-9)
    np.testing.assert_allclose(plan.sum(axis=0), np.append(np.ones(31), 23), rtol=1e-9)


def test_equal_to_pot(side):
    ot = pytest.importorskip("ot")
    indptr, indices, scores, bin_score, augmented = problem(seed=5)
    rows, columns = np.append(np.ones(23), 31.0), np.append(np.ones(31), 23.0)
    expected = ot.bregman.sinkhorn_log(
        rows, columns, -augmented, reg=1.0, numItermax=20_000, stopThr=1e-14, warn=False
    )
    found = side.sinkhorn.sinkhorn(
        indptr, indices, scores, 31, bin_score, max_iterations=20_000, tolerance=1e-13
    )
    plan = as_dense(side.sinkhorn, indptr, indices, scores, found, augmented.shape)
    np.testing.assert_allclose(plan, expected, atol=1e-9)


def test_marginals_and_rows_without_candidates(side):
    indptr, indices, scores, bin_score, augmented = problem(seed=1)
    found = side.sinkhorn.sinkhorn(indptr, indices, scores, 31, bin_score, max_iterations=5000)
    assert found.violation <= 1e-9
    assert found.n_iterations < 5000
    plan = as_dense(side.sinkhorn, indptr, indices, scores, found, augmented.shape)
    np.testing.assert_allclose(plan.sum(axis=1), np.append(np.ones(23), 31), rtol=2e-9)
    rows, columns = side.sinkhorn.bin_mass(found)
    assert rows[2] == pytest.approx(1.0, abs=1e-8)
    assert columns[3] == pytest.approx(1.0, abs=1e-8)
    assert rows[[0, 1]].max() < 0.999


def test_symmetric_in_the_two_slices(side):
    indptr, indices, scores, bin_score, augmented = problem(seed=2)
    turned = scipy.sparse.csr_matrix((scores, indices, indptr), shape=(23, 31)).T.tocsr()
    turned.sort_indices()
    many = {"max_iterations": 5000, "tolerance": 1e-12}
    one = side.sinkhorn.sinkhorn(indptr, indices, scores, 31, bin_score, **many)
    other = side.sinkhorn.sinkhorn(
        turned.indptr.astype(np.int64), turned.indices, turned.data, 23, bin_score, **many
    )
    plan = as_dense(side.sinkhorn, indptr, indices, scores, one, augmented.shape)
    back = as_dense(side.sinkhorn, turned.indptr, turned.indices, turned.data, other, augmented.T.shape)
    np.testing.assert_allclose(plan, back.T, atol=1e-9)


def test_the_two_ways_of_the_host_agree(monkeypatch):
    indptr, indices, scores, bin_score, _ = problem(seed=3)
    fast = cpu.sinkhorn(indptr, indices, scores, 31, bin_score)
    monkeypatch.setattr(cpu, "_LINEAR_RANGE", 0.0)
    slow = cpu.sinkhorn(indptr, indices, scores, 31, bin_score)
    np.testing.assert_allclose(fast.rows, slow.rows, atol=1e-10)
    np.testing.assert_allclose(fast.columns, slow.columns, atol=1e-10)


@pytest.mark.parametrize("spread", [6.0, 600.0])
@given(block_rows=st.integers(1, 40), seed=st.integers(0, 5))
@settings(max_examples=20, deadline=None)
def test_blocks_do_not_show(spread, block_rows, seed):
    indptr, indices, scores, bin_score, _ = problem(seed=seed, spread=spread)
    whole = cpu.sinkhorn(indptr, indices, scores, 31, bin_score)
    parts = cpu.sinkhorn(indptr, indices, scores, 31, bin_score, block_rows=block_rows)
    np.testing.assert_array_equal(whole.rows, parts.rows)
    np.testing.assert_array_equal(whole.columns, parts.columns)
    mass = cpu.plan_mass(indptr, indices, scores, whole)
    part = slice(indptr[7], indptr[12])
    block = cpu.plan_mass(indptr[7:13] - indptr[7], indices[part], scores[part], whole, first_row=7)
    np.testing.assert_array_equal(block, mass[part])


def test_no_candidates_at_all(side):
    none = np.zeros(0)
    starts, pairs = np.zeros(4, np.int64), none.astype(np.int32)
    found = side.sinkhorn.sinkhorn(starts, pairs, none, 5, 1.0)
    augmented = np.full((4, 6), -np.inf)
    augmented[-1], augmented[:, -1] = 1.0, 1.0
    plan = as_dense(side.sinkhorn, starts, pairs, none, found, (4, 6))
    np.testing.assert_allclose(plan, plain_plan(augmented, found.n_iterations), atol=1e-9)
    assert plan[:-1, -1].min() > 0.99


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_columns": 0}, "need spots"),
        ({"n_columns": 20}, "columns 0 to 19"),
        ({"bin_score": np.inf}, "finite"),
        ({"scores": np.full(4, np.nan)}, "announced"),
    ],
)
def test_what_does_not_fit_is_refused(side, change, message):
    indptr, indices, scores, bin_score, _ = problem()
    given = {"n_columns": 31, "bin_score": bin_score, "scores": scores} | change
    with pytest.raises(ValueError, match=message):
        side.sinkhorn.sinkhorn(indptr, indices, **given)
