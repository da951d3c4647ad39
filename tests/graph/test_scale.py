import numpy as np
import pytest

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.graph.build import slice_graph
from atlasnmf.graph.scale import check_degrees, default_radius, published_radius, radius_for_degree, spacing


def square(n=40, step=1.0):
    return np.stack(np.meshgrid(np.arange(n) * step, np.arange(n) * step), -1).reshape(-1, 2)


def hexagonal(n=40, step=100.0):
    x, y = np.meshgrid(np.arange(n) * step, np.arange(n) * step * np.sqrt(0.75))
    x[1::2] += step / 2
    return np.stack([x, y], -1).reshape(-1, 2)


def cubic(n=12):
    return np.stack(np.meshgrid(*[np.arange(n) * 0.2] * 3), -1).reshape(-1, 3)


def at_random(n=3000, d=2, seed=0):
    return np.random.default_rng(seed).random((n, d)) * 50


def mean_degree(coords, radius):
    return slice_graph(coords, radius=radius).nnz / len(coords) - 1


@pytest.mark.parametrize(("grid", "inside"), [(square, 4), (hexagonal, 6), (cubic, 6)])
def test_grids_are_seen_and_get_their_nearest(grid, inside):
    coords = grid()
    assert spacing(coords).regular
    (radius,) = default_radius([coords])
    assert np.bincount(np.diff(slice_graph(coords, radius=radius).indptr)).argmax() == inside + 1
    np.testing.assert_allclose(radius, published_radius(coords), rtol=1e-6)


def test_grids_with_holes_rounding_and_a_turn_are_grids():
    rng = np.random.default_rng(0)
    coords = hexagonal()[rng.random(1600) < 0.9]
    turned = np.round(coords @ np.array([[0.8, 0.6], [-0.6, 0.8]]))
    assert spacing(turned).regular
    np.testing.assert_allclose(default_radius([turned])[0], 110, rtol=0.02)


def test_one_close_pair_does_not_mislead():
    coords = np.concatenate([square(), [[3.0, 3.001]]])
    assert published_radius(coords) < 0.01
    np.testing.assert_allclose(default_radius([coords])[0], 1.1, rtol=1e-6)


@pytest.mark.parametrize("d", [2, 3])
def test_irregular_spots_get_six_neighbours(d):
    coords = at_random(d=d)
    assert not spacing(coords).regular
    (radius,) = default_radius([coords])
    assert 5.5 < mean_degree(coords, radius) < 6.5
    assert 11 < mean_degree(coords, radius_for_degree(coords, 12)) < 13


def test_clustered_and_duplicated_spots():
    rng = np.random.default_rng(0)
    clusters = rng.random((20, 2))[rng.integers(0, 20, 4000)] * 1000 + rng.normal(size=(4000, 2))
    assert 5 < mean_degree(clusters, radius_for_degree(clusters)) < 8
    twice = np.repeat(at_random(1000), 2, axis=0)
    assert 4 < mean_degree(twice, default_radius([twice])[0]) < 9
    stacked = np.repeat(square(4), 100, axis=0)
    np.testing.assert_allclose(default_radius([stacked])[0], 1.1)


def test_each_slice_has_its_own():
    radii = default_radius([square(), square(step=7.0), at_random(), np.zeros((1, 2))])
    np.testing.assert_allclose(radii[:2], [1.1, 7.7])
    assert len(radii) == 4


def test_everything_at_one_place():
    with pytest.raises(BadInput, match="slice 2 of 2: all spots lie at the same"):
        default_radius([square(), np.ones((50, 2))])
    with pytest.raises(BadInput, match="same coordinates"):
        published_radius(np.ones((50, 2)))


@pytest.mark.parametrize("n", [2, 3, 7])
def test_few_spots(n):
    coords = np.arange(2 * n, dtype=float).reshape(n, 2)
    (radius,) = default_radius([coords])
    assert mean_degree(coords, radius) >= 1
    assert radius_for_degree(coords) > 0


def test_absurd_radii_are_refused_with_a_mend():
    coords = at_random()
    assert 5 < check_degrees(coords, radius_for_degree(coords)) < 7
    for radius, says in (
        (1e-3, r"a mean degree of 0\.0 neighbours"),
        (40.0, r"a mean degree of 2,\d+\.\d neighbours a spot in slice 'E9'"),
    ):
        with pytest.raises(BadOption, match=says) as refused:
            check_degrees(coords, radius, slice_name="E9")
        mend = float(str(refused.value).split("--radius ")[1].split()[0])
        assert 5 < mean_degree(coords, mend) < 7
    assert check_degrees(np.zeros((1, 2)), 1.0) == 0.0
    assert check_degrees(square(), 1.1) > 3.5


def test_sampling_sees_the_whole_slice():
    coords = square(150)
    np.testing.assert_allclose(check_degrees(coords, 1.1), mean_degree(coords, 1.1), rtol=0.05)
