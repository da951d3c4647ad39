import anndata
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.features.edges import closest_edges, edge_agreement, find_edge
from atlasnmf.features.icp import closest_points, consensus_moves, mutual_alike
from atlasnmf.features.ndt import NormalField, climb
from atlasnmf.features.overlay import overlap_agreement, overlay_starts, shared_excess
from atlasnmf.features.registration import POOR_SCORE, register
from atlasnmf.features.rigid import Rigid, fit_rigid, turned

FAR = np.array([300.0, -120.0])


def tissue(n=3000, seed=0):
    """Points of a shape that no turn or reflection brings onto itself."""
    points = np.random.default_rng(seed).uniform(0, 10, (4 * n, 2)) * [0.7, 1.0]
    x, y = points.T
    inside = ((x < 3) | (y < 3.5) | ((x < 5) & (y > 8))) & (x + 0.5 * y > 1.5)
    return points[inside][:n]


def fields(points):
    """Three features that vary over the tissue, with noise."""
    x, y = points.T
    clean = np.column_stack(
        [np.sin(0.7 * x), np.cos(0.5 * x + 0.6 * y), np.exp(-((x - 3) ** 2 + (y - 6) ** 2) / 6)]
    )
    return clean + 0.3 * np.random.default_rng(len(points)).normal(size=clean.shape)


def moved(points, degrees=40.0, *, reflected=False):
    return turned(degrees, reflected=reflected).apply(points) + FAR


def error(found, start, truth):
    return float(np.median(np.linalg.norm(found.rigid.apply(start) - truth, axis=1)))


@given(st.floats(-180, 180), st.floats(-180, 180), st.booleans(), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_moves_are_a_group(one, other, reflected, seed):
    rng = np.random.default_rng(seed)
    first = Rigid(turned(one, reflected=reflected).rotation, rng.normal(size=2))
    second = Rigid(turned(other).rotation, rng.normal(size=2))
    points = rng.normal(size=(7, 2))
    np.testing.assert_allclose(
        second.compose(first).apply(points), second.apply(first.apply(points)), atol=1e-9
    )
    np.testing.assert_allclose(first.inverse().apply(first.apply(points)), points, atol=1e-8)
    assert first.reflected is reflected
    assert second.compose(first).reflected is reflected


@pytest.mark.parametrize("reflected", [False, True])
@pytest.mark.parametrize("n_dims", [2, 3])
def test_the_move_of_least_squares(reflected, n_dims):
    rng = np.random.default_rng(0)
    points = rng.normal(size=(30, n_dims))
    turn = np.linalg.qr(rng.normal(size=(n_dims, n_dims)))[0]
    turn[0] *= np.sign(np.linalg.det(turn)) * (-1 if reflected else 1)
    aims = points @ turn.T + 5
    aims[0] += 100
    weights = np.append(0.0, np.ones(29))
    found = fit_rigid(points, aims, reflected=reflected, weights=weights)
    np.testing.assert_allclose(found.rotation, turn, atol=1e-9)
    np.testing.assert_allclose(found.apply(points)[1:], aims[1:], atol=1e-9)


def test_icp_ends_on_the_points_themselves_and_keeps_what_it_was_given_without_pairs():
    points = tissue()
    near = Rigid(turned(2.0).rotation, np.array([0.05, -0.1]))
    start = near.inverse()
    found = closest_points(near.apply(points), cKDTree(points), Rigid.identity(), reach=1.0, trim=1.0)
    np.testing.assert_allclose(found.rotation, start.rotation, atol=1e-6)
    far = Rigid(np.eye(2), np.array([500.0, 0.0]))
    assert closest_points(points, cKDTree(points), far, reach=1.0) is far


def test_the_slope_of_the_field_is_that_of_its_score():
    points = tissue(300)
    field, probe = NormalField(points, 1.5), tissue(20, seed=1) + 0.01
    value, slopes = field.score(probe)
    assert 0 < value < 1
    for i, axis in (3, 0), (11, 1):
        step = np.zeros_like(probe)
        step[i, axis] = 1e-6
        numeric = (field.score(probe + step)[0] - field.score(probe - step)[0]) / 2e-6
        assert slopes[i, axis] == pytest.approx(numeric, abs=1e-7)


def test_the_field_is_the_sum_of_its_cells():
    points, probe, width = tissue(200), tissue(30, seed=3), 1.7
    lowest, total = points.min(axis=0) - width, 0.0
    for offset in (0, 0), (0.5, 0), (0, 0.5), (0.5, 0.5):
        cells = np.floor((points - lowest) / width + offset)
        for one in probe:
            inside = points[(cells == np.floor((one - lowest) / width + offset)).all(axis=1)]
            n = len(inside)
            if n:
                mean = inside.mean(axis=0)
                spread = (inside - mean).T @ (inside - mean) + 5 * width**2 / 12 * np.eye(2)
                gap = one - mean
                total += n / (n + 5) * np.exp(-0.5 * gap @ np.linalg.inv(spread / (n + 5)) @ gap)
    assert NormalField(points, width).score(probe)[0] == pytest.approx(total / 120, rel=1e-12)


def test_a_cell_of_two_points_does_not_score_like_a_full_one():
    rng = np.random.default_rng(0)
    lone = NormalField(np.array([[0.4, 0.4], [0.6, 0.6]]), 1.0)
    full = NormalField(rng.uniform(0, 1, (200, 2)), 1.0)
    probe = np.array([[0.5, 0.5]])
    assert lone.score(probe)[0] < 0.4 < full.score(probe)[0]
    # nor is it a needle: a step aside costs little
    assert lone.score(probe + 0.1)[0] > 0.7 * lone.score(probe)[0]


def test_ndt_climbs_to_the_fixed_slice():
    points, other = tissue(), tissue(seed=1)
    start = Rigid(turned(6.0).rotation, np.array([0.3, 0.2]))
    move = start
    for width in (2.0, 1.0, 0.5):
        move = climb(other, NormalField(points, width), move)
    away = np.linalg.norm(move.apply(other) - other, axis=1)
    assert np.median(np.linalg.norm(start.apply(other) - other, axis=1)) > 0.5
    assert np.median(away) < 0.1


@pytest.mark.parametrize("reflected", [False, True])
def test_overlays_start_near_the_truth(reflected):
    points = tissue()
    start = overlay_starts(moved(points, reflected=reflected), points, None, None, reflection=True)[0]
    assert start.move.reflected is reflected
    assert (
        np.median(np.linalg.norm(start.move.apply(moved(points, reflected=reflected)) - points, axis=1)) < 0.5
    )
    assert overlap_agreement(points, points, 0.5) == pytest.approx(1)
    assert overlap_agreement(points, points + 100, 0.5) == 0


def test_shared_points_are_told_from_a_shift():
    points = tissue()
    tree, spacing = cKDTree(points), 0.1
    assert shared_excess(points, tree, spacing) == pytest.approx(1, abs=0.01)
    assert abs(shared_excess(tissue(seed=5), tree, spacing)) < 0.05


def test_the_edge_is_where_tissue_ends_and_faces_out():
    grid = np.stack(np.meshgrid(np.arange(0, 30.0), np.arange(0, 30.0)), -1).reshape(-1, 2)
    edge = find_edge(grid, 1.0)
    depth = np.minimum(edge.points, 29 - edge.points).min(axis=1)
    assert depth.max() <= 4
    assert len(edge.points) > 4 * 29
    left = (edge.points[:, 0] == 0) & (abs(edge.points[:, 1] - 15) < 4)
    np.testing.assert_allclose(edge.outward[left], [[-1, 0]] * int(left.sum()), atol=0.02)
    np.testing.assert_allclose(np.linalg.norm(edge.outward, axis=1), 1)


def test_edges_are_laid_on_edges_though_half_of_one_was_cut_away():
    # two thirds of the tissue each, a third in both
    whole = tissue(6000)
    first, second = whole[whole[:, 1] < 6.5], tissue(6000, seed=1)
    second = second[second[:, 1] > 2.5]
    edges = find_edge(second, 0.05), find_edge(first, 0.05)
    near = Rigid(turned(4.0).rotation, np.array([0.3, 0.1]))
    laid = closest_edges(*edges, near, reaches=(1.0, 0.5, 0.3))
    away = np.median(np.linalg.norm(laid.apply(second) - second, axis=1))
    assert away < 0.25 * np.median(np.linalg.norm(near.apply(second) - second, axis=1))
    at_truth, at_start = (edge_agreement(*edges, move) for move in (Rigid.identity(), near))
    assert at_truth > 1.5 * at_start
    assert edge_agreement(edges[0], edges[0], Rigid.identity()) == pytest.approx(1)


def test_mutual_pairs_and_their_consensus():
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(50, 6)), rng.normal(size=(60, 6))
    left, right = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (left, right))
    rows, columns = mutual_alike(left, right)
    likeness = left @ right.T
    expected = {(i, j) for i, j in enumerate(likeness.argmax(1)) if likeness[:, j].argmax() == i}
    assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == expected
    points = tissue(400)
    start, aims = moved(points, reflected=True), points.copy()
    aims[:280] = rng.permutation(aims[:280])  # 70 % of the pairs are wrong
    _, found = consensus_moves(start, aims, tolerance=0.3, reflection=True, rng=rng)
    assert found.reflected
    assert np.median(np.linalg.norm(found.apply(start) - points, axis=1)) < 0.15


@pytest.mark.parametrize("method", ["auto", "icp", "ndt", "features"])
@pytest.mark.parametrize("reflected", [False, True])
def test_a_turned_slice_of_other_spots_is_brought_back(method, reflected):
    fixed, other = tissue(2000), tissue(1700, seed=1)
    shared = (fields(other), fields(fixed)) if method in ("auto", "features") else None
    start = moved(other, reflected=reflected)
    found = register(
        start, fixed, method=method, reflection=reflected, features=shared, rng=np.random.default_rng(0)
    )
    # by features alone the noise of the spots stays; the tissue is ten units across
    assert error(found, start, other) < (0.4 if method == "features" else 0.2)
    assert found.rigid.reflected is reflected
    assert found.score > POOR_SCORE
    np.testing.assert_allclose(found.rigid.rotation @ found.rigid.rotation.T, np.eye(2), atol=1e-9)


def test_the_same_draws_give_the_same_move():
    fixed, other = tissue(1000), tissue(900, seed=1)
    shared = fields(other), fields(fixed)
    found = [register(other, fixed, features=shared, rng=np.random.default_rng(4)) for _ in range(2)]
    np.testing.assert_array_equal(found[0].rigid.shift, found[1].rigid.shift)
    assert found[0].score == found[1].score


def test_shared_cells_are_met_to_a_hair():
    points = tissue()
    found = register(moved(points[300:]), points, rng=np.random.default_rng(0))
    assert found.method == "icp"
    assert error(found, moved(points[300:]), points[300:]) < 1e-6
    assert found.score == 1


def test_features_tell_the_turn_of_a_square():
    grid = np.stack(np.meshgrid(np.arange(0, 10, 0.25), np.arange(0, 10, 0.25)), -1).reshape(-1, 2)
    start = moved(grid, 130.0)
    blind = register(start, grid, rng=np.random.default_rng(0))
    assert blind.score < POOR_SCORE
    assert any("fits almost as well" in note.text for note in blind.notes)
    found = register(start, grid, features=(fields(grid), fields(grid + 0.0)), rng=np.random.default_rng(0))
    assert error(found, start, grid) < 0.3
    assert found.score > 0.5
    assert not found.notes


def test_slices_that_do_not_belong_together_score_low_and_say_so():
    fixed, rng = tissue(), np.random.default_rng(0)
    disc = rng.normal(size=(3000, 2))
    found = register(disc, fixed, rng=rng)
    assert found.score < POOR_SCORE
    assert any("agrees poorly" in note.text for note in found.notes)
    noise = rng.normal(size=(3000, 3)), rng.normal(size=(len(fixed), 3))
    found = register(moved(tissue(seed=1)), fixed, features=noise, rng=rng, method="features")
    assert found.score < POOR_SCORE


def test_other_units_are_said():
    fixed, other = tissue(), tissue(seed=1)
    start = 1000 * moved(other)
    said = register(start, fixed, rng=np.random.default_rng(0))
    assert "coordinates may be in different units" in said.notes[0].text
    assert str(said.notes[0]).endswith("-fold)")
    still = register(other, fixed, method="none", rng=np.random.default_rng(0))
    np.testing.assert_array_equal(still.rigid.apply(other), other)
    assert np.isnan(still.score)


def test_what_cannot_be_registered_is_refused():
    points, rng = tissue(100), np.random.default_rng(0)
    with pytest.raises(BadOption, match="no such registration 'best'; use one of auto"):
        register(points, points, method="best", rng=rng)
    with pytest.raises(BadOption, match="needs scores"):
        register(points, points, method="features", rng=rng)
    with pytest.raises(BadInput, match="ten spots"):
        register(points[:5], points, rng=rng)
    with pytest.raises(BadInput, match="finite positions"):
        register(np.full((20, 2), np.nan), points, rng=rng)
    with pytest.raises(BadInput, match="same place"):
        register(points, np.zeros((20, 2)), rng=rng)
    with pytest.raises(BadInput, match="do not go with"):
        register(points, points, features=(points[1:], points), rng=rng)


@pytest.mark.data
@pytest.mark.parametrize("reflected", [False, True])
def test_the_two_planes_of_an_embryo(real_data, reflected):
    embryo = anndata.read_h5ad(real_data / "seqfish_mouse_embryo2.h5ad")
    planes = [embryo.obsm["spatial"][embryo.obs["z"] == z].astype(float) for z in ("z2", "z5")]
    start = moved(planes[0], reflected=reflected)
    found = register(start, planes[1], reflection=reflected, rng=np.random.default_rng(0))
    # cells lie 0.033 units apart
    assert error(found, start, planes[0]) < 0.005
    assert found.score > 0.9
