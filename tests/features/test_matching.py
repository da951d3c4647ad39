import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.features import candidates as listing
from atlasnmf.features import matching
from atlasnmf.features.matching import map_slice, match
from atlasnmf.kernels.dispatch import to_host


def slices(n=120, p=150, d=5, seed=0, n_dims=2):
    rng = np.random.default_rng(seed)
    source, target = rng.uniform(0, 10, (n, n_dims)), rng.uniform(0, 10, (p, n_dims))
    source[0] += 1000  # far from everything
    return rng.normal(size=(n, d)), rng.normal(size=(p, d)), source, target


def cosine_matrix(left, right):
    left, right = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (left, right))
    return left @ right.T


def plain(left, right, source, target, radius, temperature, k, n_iterations):
    """Dense masked transport, and the pairs that are in each other's top k."""
    cosines = cosine_matrix(left, right)
    near = np.linalg.norm(source[:, None] - target[None], axis=2) < radius
    scores = (cosines + 1) / (2 * temperature)
    aside = np.median(scores[near])
    dense = np.pad(np.where(near, scores, -np.inf), ((0, 1), (0, 1)), constant_values=aside)
    n, p = scores.shape
    rows, columns = np.log(np.append(np.ones(n), p)), np.log(np.append(np.ones(p), n))
    v = np.zeros(p + 1)
    for _ in range(n_iterations):
        u = rows - logsumexp(dense + v, axis=1)
        v = columns - logsumexp(dense + u[:, None], axis=0)
    plan = np.exp(dense + u[:, None] + v)
    mass = np.where(near, plan[:-1, :-1], 0)
    best_of_rows = np.argsort(-mass, axis=1, kind="stable")[:, :k]
    best_of_columns = np.argsort(-mass, axis=0, kind="stable")[:k].T
    pairs = {(i, j) for i in range(n) for j in best_of_rows[i] if mass[i, j] > 0 and i in best_of_columns[j]}
    return pairs, plan, cosines, aside


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("n_dims", [2, 3])
def test_equal_to_the_dense_plan_and_its_mutual_best(k, n_dims):
    left, right, source, target = slices(n_dims=n_dims)
    pairs, plan, cosines, aside = plain(left, right, source, target, 2.5, 0.1, k, 50)
    found = match(
        left,
        right,
        source,
        target,
        radius=2.5,
        k=k,
        rng=np.random.default_rng(0),
        max_iterations=50,
        tolerance=-1,
    )
    assert found.bin_score == pytest.approx(aside, rel=1e-6)
    assert set(zip(found.source.tolist(), found.target.tolist(), strict=True)) == pairs
    assert found.source.dtype == found.target.dtype == np.int64
    np.testing.assert_allclose(found.score, plan[found.source, found.target], rtol=1e-4)
    np.testing.assert_allclose(found.cosine, cosines[found.source, found.target], atol=1e-6)
    np.testing.assert_allclose(found.to_bin_source, plan[:-1, -1], rtol=1e-4)
    np.testing.assert_allclose(found.to_bin_target, plan[-1, :-1], rtol=1e-4)
    near = np.linalg.norm(source[:, None] - target[None], axis=2) < 2.5
    assert found.n_without_candidates_source == (~near.any(1)).sum() >= 1
    assert found.n_without_candidates_target == (~near.any(0)).sum()
    assert found.to_bin_source[0] == pytest.approx(1, abs=1e-3)
    assert found.n_unmatched_source == 120 - len({i for i, _ in pairs})
    assert found.n_unmatched_target == 150 - len({j for _, j in pairs})


def test_a_pair_passes_above_the_95th_percentile_of_random_candidates():
    left, right, source, target = slices(n=600, p=700)
    near = np.linalg.norm(source[:, None] - target[None], axis=2) < 3.0
    cosines = cosine_matrix(left, right)
    found = match(left, right, source, target, radius=3.0, k=5, rng=np.random.default_rng(0))
    assert (cosines[near] < found.threshold).mean() == pytest.approx(0.95, abs=0.02)
    np.testing.assert_array_equal(found.passed, found.cosine > found.threshold)
    assert 0 < found.passed.sum() < len(found)


@given(block_rows=st.integers(1, 130))
@settings(max_examples=15, deadline=None)
def test_candidates_are_the_pairs_within_the_radius_whatever_the_blocks(block_rows):
    left, right, source, target = slices()
    units = listing.unit_rows(left), listing.unit_rows(right)
    found = listing.candidates_within(source, target, *units, 2.0, block_rows=block_rows)
    near = np.linalg.norm(source[:, None] - target[None], axis=2) < 2.0
    rows = np.repeat(np.arange(120), np.diff(found.indptr))
    np.testing.assert_array_equal(np.array(np.nonzero(near)), [rows, found.indices])
    np.testing.assert_allclose(found.cosines, cosine_matrix(left, right)[near], atol=1e-6)
    assert found.n_without() == (int((~near.any(1)).sum()), int((~near.any(0)).sum()))


@pytest.mark.parametrize("turned", [False, True])
def test_the_smaller_slice_is_mapped_to_its_best_candidates(turned):
    left, right, source, target = slices(p=120 + 80)
    near = np.linalg.norm(source[:, None] - target[None], axis=2) < 2.0
    cosines = np.where(near, cosine_matrix(left, right), -2)
    given_slices = (right, left, target, source) if turned else (left, right, source, target)
    mapped = map_slice(*given_slices, radius=2.0, rng=np.random.default_rng(0))
    assert mapped.source_is_smaller is not turned
    expected = np.where(near.any(1), cosines.argmax(1), -1)
    np.testing.assert_array_equal(mapped.partner, expected)
    some = expected >= 0
    np.testing.assert_allclose(mapped.cosine[some], cosines.max(1)[some], atol=1e-6)
    assert not mapped.passed[~some].any()
    np.testing.assert_array_equal(mapped.passed[some], mapped.cosine[some] > mapped.threshold)


def test_without_a_radius_pairs_come_from_clusters_alike():
    pytest.importorskip("ot")
    rng = np.random.default_rng(0)
    centres = 4 * rng.normal(size=(12, 16))
    kind = rng.integers(12, size=3000)
    left = centres[kind] + rng.normal(size=(3000, 16))
    order = rng.permutation(3000)
    right = (left + 0.2 * rng.normal(size=left.shape))[order]
    found = match(left, right, rng=rng, temperature=0.02)
    assert (order[found.target] == found.source).mean() > 0.95
    assert len(found) > 2500
    again = match(left, right, rng=np.random.default_rng(3), temperature=0.02)
    same = match(left, right, rng=np.random.default_rng(3), temperature=0.02)
    np.testing.assert_array_equal(again.target, same.target)


def test_tissue_the_other_slice_lacks_goes_to_the_dustbin():
    rng = np.random.default_rng(1)
    left = np.repeat(np.eye(4), 100, axis=0) + 0.1 * rng.normal(size=(400, 4))
    right = left[:300] + 0.1 * rng.normal(size=(300, 4))
    points = rng.uniform(0, 10, (400, 2))
    found = match(left, right, points, points[:300], radius=3.0, rng=rng, temperature=0.05)
    assert np.median(found.to_bin_source[300:]) > 0.95
    assert np.median(found.to_bin_source[:300]) < 0.8


def test_what_cannot_be_matched_is_refused():
    left, right, source, target = slices()
    rng = np.random.default_rng(0)
    with pytest.raises(BadInput, match="no spot of the one slice lies within 2 of a spot of the other"):
        match(left, right, source + 5000, target, radius=2.0, rng=rng)
    with pytest.raises(BadInput, match="as wide"):
        match(left, right[:, :3], source, target, radius=2.0, rng=rng)
    with pytest.raises(BadInput, match="no spots"):
        match(left[:0], right, source[:0], target, radius=2.0, rng=rng)
    with pytest.raises(BadInput, match="not finite"):
        match(np.full_like(left, np.nan), right, source, target, radius=2.0, rng=rng)
    with pytest.raises(BadInput, match="positions"):
        match(left, right, source[1:], target, radius=2.0, rng=rng)
    for wrong in {"radius": 0.0}, {"radius": 2.0, "k": 0}, {"radius": 2.0, "temperature": 0.0}:
        with pytest.raises(BadOption):
            match(left, right, source, target, rng=rng, **wrong)
    with pytest.raises(BadOption, match="needs the positions"):
        match(left, right, radius=2.0, rng=rng)


@pytest.mark.parametrize("k", [1, 3])
def test_a_device_matches_what_the_host_matches(cuda_kernels, k):
    left, right, source, target = slices()
    options = {"radius": 2.5, "k": k, "max_iterations": 50, "tolerance": -1}
    here, there = (
        match(left, right, source, target, rng=np.random.default_rng(0), device=device, **options)
        for device in ("cpu", cuda_kernels)
    )
    for name in ("source", "target", "passed", "cosine"):
        np.testing.assert_array_equal(getattr(there, name), getattr(here, name), err_msg=name)
        assert type(getattr(there, name)) is np.ndarray
    for name in ("score", "to_bin_source", "to_bin_target"):
        np.testing.assert_allclose(getattr(there, name), getattr(here, name), rtol=1e-6, err_msg=name)
    assert there.threshold == here.threshold
    for name in ("n_candidates", "n_unmatched_source", "n_without_candidates_target", "bin_score"):
        assert getattr(there, name) == getattr(here, name)


def test_a_device_is_left_to_torch(kernels_on_the_host, cuda_kernels):
    left, right, source, target = slices(n=20, p=20)
    before = kernels_on_the_host.n_released
    match(left, right, source, target, radius=2.5, rng=np.random.default_rng(0))
    assert kernels_on_the_host.n_released == before
    match(left, right, source, target, radius=2.5, rng=np.random.default_rng(0), device=cuda_kernels)
    assert kernels_on_the_host.n_released == before + (sys.modules["cupy"] is kernels_on_the_host)


def test_candidates_of_clusters_are_transported_on_a_device(cuda_kernels):
    pytest.importorskip("ot")
    left, right, _, _ = slices()
    here, there = (
        match(left, right, rng=np.random.default_rng(0), n_candidates=4, device=device)
        for device in ("cpu", cuda_kernels)
    )
    assert set(zip(there.source, there.target, strict=True)) == set(
        zip(here.source, here.target, strict=True)
    )
    np.testing.assert_allclose(there.to_bin_source, here.to_bin_source, rtol=1e-4, atol=1e-6)


def test_blocks_of_rows_change_nothing_on_a_device(cuda_kernels, monkeypatch):
    left, right, source, target = slices()
    options = {"radius": 2.5, "k": 2, "device": cuda_kernels}
    whole = match(left, right, source, target, rng=np.random.default_rng(0), **options)
    monkeypatch.setattr(matching, "BLOCK_ROWS", 50)
    units = [listing.unit_rows(rows) for rows in (left, right)]
    found = listing.candidates_within(source, target, *units, 2.5, block_rows=37, device=cuda_kernels)
    assert len(found.indices) == whole.n_candidates
    parts = match(left, right, source, target, rng=np.random.default_rng(0), **options)
    for name in ("source", "target", "score", "cosine"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))


def test_a_block_without_candidates_on_a_device(cuda_kernels):
    left, right, source, target = slices(n=20)
    source[:5] += 1000
    units = [listing.unit_rows(rows) for rows in (left, right)]
    here, there = (
        listing.candidates_within(source, target, *units, 2.5, block_rows=5, device=device)
        for device in ("cpu", cuda_kernels)
    )
    np.testing.assert_array_equal(np.diff(here.indptr)[:5], 0)
    for name in ("indptr", "indices", "cosines"):
        np.testing.assert_array_equal(to_host(getattr(there, name)), getattr(here, name))
