"""Whatever order voxels come in, however they are cut into runs: the same sums, unions and fillings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlasnmf.analysis.region_unions import link_regions, search_unions
from atlasnmf.analysis.regions import regions_of
from atlasnmf.features.fill import fill_missing
from atlasnmf.graph.grid import grid_graph
from atlasnmf.metrics.reconstruction import reconstruction_correlation, reconstruction_sums

unhurried = settings(deadline=None, max_examples=30)


@st.composite
def volumes(draw):
    """Voxels of a box with holes, regions grown from a few points, patterns, and missing values."""
    shape = draw(st.tuples(st.integers(2, 6), st.integers(2, 6), st.integers(1, 5)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    voxels = np.argwhere(rng.uniform(size=shape) < 0.9)
    if len(voxels) < 4:
        voxels = np.argwhere(np.ones(shape, bool))
    n_regions = draw(st.integers(2, 6))
    points = voxels[rng.choice(len(voxels), min(n_regions, len(voxels)), replace=False)]
    labels = np.linalg.norm(voxels[:, None] - points[None], axis=2).argmin(axis=1)
    patterns = rng.gamma(1.0, size=(len(voxels), 2))
    return voxels, np.array([f"R{label}" for label in labels]), patterns, rng


@unhurried
@given(volumes())
def test_the_order_of_voxels_changes_no_union(volume):
    voxels, labels, patterns, rng = volume
    order = rng.permutation(len(voxels))
    links = link_regions(patterns, regions_of(labels, grid_graph(voxels)), n_top=3)
    moved = link_regions(patterns[order], regions_of(labels[order], grid_graph(voxels[order])), n_top=3)
    assert links.regions == moved.regions
    assert links.n_unions == moved.n_unions
    np.testing.assert_allclose(links.unions["pearson"], moved.unions["pearson"], atol=1e-9)
    np.testing.assert_allclose(links.unions["dice"], moved.unions["dice"], atol=1e-9)


@unhurried
@given(volumes())
def test_a_wide_search_is_never_worse_than_looking_at_all_pairs(volume):
    voxels, labels, patterns, _ = volume
    regions = regions_of(labels, grid_graph(voxels))
    exact = link_regions(patterns, regions, max_size=2).best().set_index("pattern")["pearson"]
    found = search_unions(patterns, regions).set_index("pattern")["pearson"]
    for pattern, score in exact.items():
        assert found[pattern] >= score - 1e-9


@unhurried
@given(volumes(), st.integers(1, 8))
def test_filling_keeps_within_what_was_measured_and_shifts_with_it(volume, n_neighbors):
    voxels, _, patterns, rng = volume
    values = patterns[:, 0].astype(np.float32)
    values[rng.uniform(size=len(values)) < 0.4] = np.nan
    values[0] = 1.0
    filled = fill_missing(values, voxels, n_neighbors=n_neighbors)
    known = ~np.isnan(values)
    assert filled.min() >= values[known].min() - 1e-6
    assert filled.max() <= values[known].max() + 1e-6
    np.testing.assert_allclose(
        fill_missing(2 * values + 3, voxels, n_neighbors=n_neighbors), 2 * filled + 3, rtol=1e-5
    )
    # a constant is filled with itself, and another unit of length changes nothing
    np.testing.assert_allclose(fill_missing(np.where(known, 5.0, np.nan), voxels), 5.0, rtol=1e-6)
    np.testing.assert_array_equal(fill_missing(values, voxels * 4.0, n_neighbors=n_neighbors), filled)


@unhurried
@given(volumes(), st.integers(0, 200))
def test_sums_of_runs_are_sums_of_all(volume, cut):
    _, _, patterns, rng = volume
    coefficients = rng.gamma(1.0, size=(4, 2))
    values = patterns @ coefficients.T + rng.normal(size=(len(patterns), 4))
    cut = min(cut, len(patterns))
    whole = reconstruction_sums(values, patterns)
    parts = reconstruction_sums(values[:cut], patterns[:cut]) + reconstruction_sums(
        values[cut:], patterns[cut:]
    )
    found = reconstruction_correlation(parts, coefficients)
    np.testing.assert_allclose(found, reconstruction_correlation(whole, coefficients), atol=1e-9)
    expected = [np.corrcoef(values[:, g], patterns @ coefficients[g])[0, 1] for g in range(4)]
    assert found == pytest.approx(expected, abs=1e-7)
