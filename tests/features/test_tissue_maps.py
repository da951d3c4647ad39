"""Slices with nothing in common but their regions are laid onto each other; unrelated ones are told apart."""

import numpy as np
import pytest

from atlasnmf.features.rigid import turned
from atlasnmf.features.tissue_maps import POOR_SCORE, _gain, register_maps, tissue_groups
from atlasnmf.seeds import rng_for


def tissue(seed, n_spots=1500, noise=0.1):
    """Spots of a tissue with five regions that no turn maps onto themselves: positions and regions."""
    rng = rng_for(seed, "tissue maps", n_spots)
    points = rng.uniform(-1, 1, (n_spots, 2)) * [1.0, 0.7]
    centres = rng_for(0, "tissue maps", "centres").uniform(-1, 1, (5, 2)) * [1.0, 0.7]
    regions = np.linalg.norm(points[:, None] - centres[None], axis=2).argmin(1)
    wrong = rng.uniform(size=n_spots) < noise
    return points, np.where(wrong, rng.integers(0, 5, n_spots), regions)


@pytest.mark.parametrize("reflected", [False, True])
@pytest.mark.parametrize("degrees", [40.0, -135.0])
def test_a_turn_is_found_from_regions_alone(degrees, reflected):
    fixed, fixed_groups = tissue(0, 1000)
    moving, moving_groups = tissue(1, 1500)
    # other names for the groups: one modality knows nothing of the other's
    moving_groups = np.array([3, 0, 4, 1, 2])[moving_groups]
    move = turned(degrees, reflected=reflected)
    found = register_maps(
        move.apply(moving) + [7.0, -2.0],
        fixed,
        moving_groups,
        fixed_groups,
        reflection=reflected,
        rng=rng_for(0, "test"),
    )
    missed = np.linalg.norm(found.rigid.apply(move.apply(moving) + [7.0, -2.0]) - moving, axis=1)
    assert np.median(missed) < 0.05
    assert found.score > 2 * POOR_SCORE
    assert found.rigid.reflected == reflected


def test_part_of_the_tissue_is_enough():
    fixed, fixed_groups = tissue(0, 2000)
    moving, moving_groups = tissue(1, 2000)
    part = moving[:, 0] > -0.3
    moving, moving_groups = moving[part], moving_groups[part]
    found = register_maps(turned(25.0).apply(moving), fixed, moving_groups, fixed_groups, rng=rng_for(0, "t"))
    missed = np.linalg.norm(found.rigid.apply(turned(25.0).apply(moving)) - moving, axis=1)
    assert np.median(missed) < 0.05


def test_unrelated_tissue_scores_poorly():
    fixed, fixed_groups = tissue(0, 1500)
    moving, moving_groups = tissue(1, 1500)
    shuffled = rng_for(0, "shuffled").permutation(moving_groups)
    found = register_maps(moving, fixed, shuffled, fixed_groups, rng=rng_for(0, "test"))
    right = register_maps(moving, fixed, moving_groups, fixed_groups, rng=rng_for(0, "test"))
    assert found.information < 0.05 * right.information


def test_the_gain_is_the_mutual_information_of_the_counts():
    rng = rng_for(0, "gain")
    joint = rng.integers(0, 9, (3, 4)).astype(float)
    share = joint / joint.sum()
    expected = sum(
        share[i, j] * np.log(share[i, j] / (share[i].sum() * share[:, j].sum()))
        for i in range(3)
        for j in range(4)
        if share[i, j] > 0
    )
    assert _gain(joint[None])[0] == pytest.approx(joint.sum() * expected - 2 * 3 / 2)


def test_groups_follow_the_features():
    rng = rng_for(0, "groups")
    truth = rng.integers(0, 4, 300)
    features = 8 * np.eye(4)[truth] + rng.standard_normal((300, 4))
    groups = tissue_groups(features, rng, n_groups=4)
    assert len(set(zip(truth.tolist(), groups.tolist(), strict=True))) == 4
    assert len(np.unique(tissue_groups(np.ones((50, 3)), rng))) == 1
