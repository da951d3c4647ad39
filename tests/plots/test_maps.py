import io

import matplotlib as mpl
import numpy as np
import pytest

from atlasnmf import plots
from atlasnmf.errors import BadInput, BadOption
from atlasnmf.plots import panels as panels_module


def rendered(axes):
    figure = np.ravel(axes)[0].figure
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getbuffer().nbytes


def test_a_row_a_factor_a_column_a_slice(an_atlas):
    atlas = an_atlas()
    axes = plots.factors(atlas, "inspire", unit="µm")
    assert axes.shape == (3, 2)
    assert [axis.get_title() for axis in axes[0]] == ["a", "b"]
    assert [axis.get_ylabel() for axis in axes[:, 0]] == ["factor 0", "factor 1", "factor 2"]
    assert rendered(axes) > 1000


def test_slices_share_scale_aspect_and_colours(an_atlas):
    atlas = an_atlas()
    axes = plots.factors(atlas, "inspire_factors", factors=[2])
    spans = [(np.ptp(axis.get_xlim()), np.ptp(axis.get_ylim())) for axis in axes[0]]
    assert spans[0] == pytest.approx(spans[1])
    assert all(axis.get_aspect() == 1 for axis in axes[0])
    limits = [axis.collections[-1].get_clim() for axis in axes[0]]
    values = atlas.tables[0].obsm("inspire_factors")[:, 2]
    assert limits[0] == limits[1] == pytest.approx((0, np.nanpercentile(values, 99)))
    drawn = np.concatenate([axis.collections[-1].get_array() for axis in axes[0]])
    assert len(drawn) == 99
    np.testing.assert_allclose(np.sort(drawn), np.sort(values[np.isfinite(values)]))
    # the spot without a value is drawn grey, below the others
    assert len(axes[0, 0].collections[0].get_offsets()) == 1
    assert all(artist.get_rasterized() for artist in axes[0, 0].collections)


def test_y_points_down_unless_asked(an_atlas):
    atlas = an_atlas()
    down, up = (plots.factors(atlas, factors=[0], invert_y=flag)[0, 0].get_ylim() for flag in (True, False))
    assert down == up[::-1]


def test_the_scale_bar_has_a_round_length(an_atlas):
    axis = plots.factors(an_atlas(), factors=[0], unit="µm")[0, 0]
    (bar,) = [line for line in axis.lines if line.get_label() == "_scale_bar"]
    length = np.ptp(bar.get_xdata())
    assert any(text.get_text() == f"{length:g} µm" for text in axis.texts)
    assert 0.08 < length / np.ptp(axis.get_xlim()) <= 0.22
    assert f"{length:e}"[0] in "125"
    others = plots.factors(an_atlas(), factors=[0])[0, 1].lines
    assert not others


def test_negative_values_have_their_own_lower_end(an_atlas):
    atlas = an_atlas()
    atlas.tables[0].adata.obsm["X_inspire"] = np.random.default_rng(1).normal(size=(100, 2))
    low, high = plots.factors(atlas, "X_inspire", factors=[0])[0, 0].collections[-1].get_clim()
    assert low < 0 < high


def test_chosen_slices_in_the_order_asked(an_atlas):
    axes = plots.factors(an_atlas(), factors=[0], slices=["b", "a"])
    assert [axis.get_title() for axis in axes[0]] == ["b", "a"]
    assert plots.domains(an_atlas(), slices=["b"]).shape == (1,)


def test_own_axes_are_drawn_on(an_atlas):
    import matplotlib.pyplot as plt

    _, given = plt.subplots(1, 2)
    assert plots.factors(an_atlas(), factors=[1], axes=given).ravel().tolist() == given.tolist()
    assert plots.domains(an_atlas(), axes=given).tolist() == given.tolist()
    with pytest.raises(BadOption, match="one per panel"):
        plots.factors(an_atlas(), axes=given)


def test_a_domain_has_one_colour_everywhere(an_atlas):
    atlas = an_atlas()
    axes = plots.domains(atlas, palette={"10": "black"})
    labels = [text.get_text() for text in axes[0].figure.legends[0].get_texts()]
    assert labels == ["0", "1", "2", "10", "none"]
    maps = [axis.collections[-1].cmap(np.arange(4)) for axis in axes]
    np.testing.assert_array_equal(maps[0], maps[1])
    np.testing.assert_array_equal(maps[0][3], [0, 0, 0, 1])
    for axis, name in zip(axes, "ab", strict=True):
        column = atlas.tables[0].adata.obs
        column = column.loc[(column["slice"] == name) & column["domains"].notna(), "domains"]
        expected = column.map({"0": 0, "1": 1, "2": 2, "10": 3}).astype(float)
        np.testing.assert_array_equal(np.sort(axis.collections[-1].get_array()), np.sort(expected))
    assert rendered(axes) > 1000


def test_numbers_make_domains_too(an_atlas):
    atlas = an_atlas()
    atlas.tables[0].adata.obs["area"] = np.repeat([3, 1], 50)
    axes = plots.domains(atlas, "area", slices=["a"])
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == ["1", "3"]


@pytest.mark.parametrize("many", [True, False])
def test_a_picture_of_very_many_spots_is_shaded(an_atlas, monkeypatch, many):
    monkeypatch.setattr(panels_module, "SHADE_ABOVE", 10 if many else 1000)
    atlas = an_atlas()
    axes = plots.factors(atlas, factors=[0])
    assert bool(axes[0, 1].images) == many
    assert rendered(axes) > 1000
    assert bool(plots.domains(atlas)[1].images) == many
    assert axes[0, 1].get_ylim()[0] > axes[0, 1].get_ylim()[1]


def test_pixels_take_the_mean_or_the_commonest():
    rng = np.random.default_rng(0)
    xy, values = rng.uniform(0, 4, (400, 2)), rng.uniform(size=400)
    xy[0], values[0] = [9.5, 9.5], np.nan
    image, missing = panels_module.shaded(xy, values, (5, 10), ([0.0, 10.0], [0.0, 10.0]))
    for row in range(2):
        for column in range(4):
            inside = (xy[:, 0] // 1 == column) & (xy[:, 1] // 2 == row)
            assert image[row, column] == pytest.approx(values[inside].mean())
    assert np.isnan(image[3, 3])
    assert missing.sum() == 1
    assert missing[4, 9]
    codes = rng.integers(0, 3, 400).astype(float)
    codes[0] = np.nan
    image, missing = panels_module.shaded(xy, codes, (5, 10), ([0.0, 10.0], [0.0, 10.0]), 3)
    inside = (xy[:, 0] // 1 == 2) & (xy[:, 1] // 2 == 1)
    assert image[1, 2] == np.bincount(codes[inside].astype(int)).argmax()
    assert missing[4, 9]


def test_matplotlibs_settings_stay_as_they_are(an_atlas):
    before = dict(mpl.rcParams)
    plots.factors(an_atlas(), factors=[0])
    plots.domains(an_atlas())
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize(
    "call, error, mend",
    [
        (lambda atlas: plots.factors(atlas, "inspyre"), BadInput, "did you mean 'inspire'"),
        (lambda atlas: plots.factors(atlas, factors=[3]), BadOption, "from 0 to 2"),
        (lambda atlas: plots.factors(atlas, slices=["c"]), BadOption, "no slice 'c'"),
        (lambda atlas: plots.domains(atlas, "domain"), BadInput, "did you mean 'domains'"),
    ],
)
def test_what_is_not_there_is_named(an_atlas, call, error, mend):
    with pytest.raises(error, match=mend):
        call(an_atlas())


def test_three_dimensional_positions_are_drawn_from_above(an_atlas):
    atlas = an_atlas()
    spatial = atlas.tables[0].adata.obsm["spatial"]
    atlas.tables[0].adata.obsm["spatial"] = np.column_stack([spatial, np.arange(100.0)])
    assert plots.factors(atlas, factors=[0]).shape == (1, 2)
