"""Which radius each slice gets: the user's, its own, or the published one of the first slice."""

import numpy as np
import pytest

from atlasnmf.errors import BadOption
from atlasnmf.graph.write import settle_radii

SQUARE = np.stack(np.meshgrid(np.arange(12.0), np.arange(12.0)), -1).reshape(-1, 2)


def settle(*slices, radius=None, **options):
    offsets = np.cumsum([0, *map(len, slices)])
    names = [f"s{i}" for i in range(len(slices))]
    return settle_radii(np.concatenate(slices), offsets, radius, names, **options)


def test_every_slice_has_its_own_or_all_the_first_ones():
    np.testing.assert_allclose(settle(SQUARE, 1.5 * SQUARE), [1.1, 1.65])
    np.testing.assert_allclose(settle(SQUARE, 0.9 * SQUARE, rule="published"), [1.1, 1.1])
    assert settle(SQUARE, SQUARE, radius=1.2, rule="published") == [1.2, 1.2]


def test_a_published_radius_that_makes_no_graph_is_refused():
    close_pair = np.concatenate([SQUARE, [[3.0, 3.001]]])
    with pytest.raises(BadOption, match=r"radius of 0.0011 .* in slice 's0'; try --radius"):
        settle(close_pair, SQUARE, rule="published")
    with pytest.raises(BadOption, match="in slice 's1'"):
        settle(SQUARE, 1.5 * SQUARE, rule="published")
