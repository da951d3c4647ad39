import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.features.pairing import align_rigid, link_spots, parse_affine, spacing, transformed


def positions(seed, n_fine=200, n_coarse=12):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 10, (n_fine, 2)), rng.uniform(0, 10, (n_coarse, 2))


@given(st.integers(0, 50), st.floats(0.5, 5.0))
@settings(max_examples=25, deadline=None)
def test_links_are_the_nearest_spot_within_reach(seed, reach):
    fine, coarse = positions(seed)
    distances = np.linalg.norm(fine[:, None] - coarse[None], axis=2)
    links = link_spots(fine, coarse, reach)
    expected = np.where(distances.min(1) <= reach, distances.argmin(1), -1)
    np.testing.assert_array_equal(links.spots[:, 0], expected)
    np.testing.assert_array_equal(links.weights[:, 0], expected >= 0)
    assert links.share_linked == (expected >= 0).mean()
    assert links.n_empty(12) == 12 - len(set(expected.tolist()) - {-1})


def test_soft_links_share_a_cell_by_distance():
    fine, coarse = positions(0)
    links = link_spots(fine, coarse, 3.0, n_spots=4)
    distances = np.linalg.norm(fine[:, None] - coarse[None], axis=2)
    for i in range(len(fine)):
        near = np.argsort(distances[i])[:4]
        near = near[distances[i, near] <= 3.0]
        np.testing.assert_array_equal(links.spots[i, : len(near)], near)
        weights = np.exp(-0.5 * (distances[i, near] / 1.5) ** 2)
        np.testing.assert_allclose(
            links.weights[i, : len(near)], weights / max(weights.sum(), 1e-300), rtol=1e-5
        )
        assert not links.weights[i, len(near) :].any()


def test_frames_that_do_not_meet_are_refused():
    fine, coarse = positions(0)
    with pytest.raises(BadInput, match=r"no cell lies within 2 um of a coarse spot \(0% linked\)"):
        link_spots(fine + 1000, coarse, 2.0, unit="um")
    with pytest.raises(BadOption, match="--max-distance"):
        link_spots(fine, coarse, 0.0)


def test_the_spacing_is_the_median_distance_to_the_next_spot():
    _, coarse = positions(3)
    distances = np.linalg.norm(coarse[:, None] - coarse[None], axis=2) + np.diag(np.full(12, np.inf))
    assert spacing(coarse) == pytest.approx(np.median(distances.min(1)))
    with pytest.raises(BadInput, match="--max-distance"):
        spacing(coarse[:1])
    with pytest.raises(BadInput, match="at one place"):
        spacing(np.zeros((5, 2)))
    assert spacing(np.concatenate([coarse, coarse, coarse])) == spacing(coarse)


def test_affine_from_text():
    affine = parse_affine("0,-1,10; 1,0,2")
    np.testing.assert_allclose(transformed(np.array([[3.0, 4.0]]), affine), [[6.0, 5.0]])
    for wrong in "1,2,3", "a,b,c;1,2,3", "1,0;0,1", "1,0,nan;0,1,0":
        with pytest.raises(BadOption, match="--affine"):
            parse_affine(wrong)


def tissue(points):
    """Five genes that vary smoothly over the plane, none symmetric."""
    x, y = points[:, 0] / 100, points[:, 1] / 100
    shapes = [x, np.sin(3 * y + x), np.exp(-((x - 0.2) ** 2) * 9 - (y - 0.8) ** 2 * 9), x * y, np.cos(4 * x)]
    return 4 * np.exp(1.2 * np.column_stack(shapes))


def test_a_turned_section_is_brought_back_and_trusted():
    rng = np.random.default_rng(0)
    fine = rng.uniform(0, 100, (1500, 2)) * [1.0, 0.8]
    coarse = np.stack(np.meshgrid(np.arange(4, 100, 8.0), np.arange(4, 80, 8.0)), -1).reshape(-1, 2)
    counts = rng.poisson(tissue(fine)), rng.poisson(10 * tissue(coarse))
    angle = 1.1
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = fine @ turn.T + [300.0, -40.0]
    found = align_rigid(moved, coarse, *counts, max_distance=8.0, rng=np.random.default_rng(1))
    error = np.linalg.norm(transformed(moved, found.affine) - fine, axis=1)
    assert np.median(error) < 4.0
    assert found.trusted
    assert found.share_linked > 0.95
    np.testing.assert_allclose(found.affine[:, :2] @ found.affine[:, :2].T, np.eye(2), atol=1e-9)


def test_unrelated_sections_are_not_trusted():
    rng = np.random.default_rng(0)
    fine, coarse = rng.uniform(0, 100, (1500, 2)), rng.uniform(0, 100, (120, 2))
    counts = rng.poisson(4.0, (1500, 5)), rng.poisson(40.0, (120, 5))
    found = align_rigid(fine, coarse, *counts, max_distance=8.0, rng=np.random.default_rng(1))
    assert not found.trusted
