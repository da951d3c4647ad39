import anndata
import numpy as np
import pandas as pd
import pytest
import spatialdata

from atlasnmf import pl
from atlasnmf.errors import BadInput, BadOption
from atlasnmf.store.atlas import open_atlas
from atlasnmf.store.results import ResultWriter

N = 90


@pytest.fixture(params=["memory", "disk"])
def matched(request, tmp_path):
    """Two slices, the second turned and shifted; spot i of one is spot i of the other; labels in thirds."""
    rng = np.random.default_rng(0)
    xy = rng.uniform(0, 10, (N, 2))
    labels = pd.Categorical(np.repeat(["top", "mid", "low"], N // 3))
    turned = xy @ np.array([[0.0, 1.0], [-1.0, 0.0]]) + [100.0, 5.0]
    tables = {
        name: anndata.AnnData(
            np.ones((N, 2), np.float32),
            obs=pd.DataFrame({"domains": labels}, index=[f"{name}{i}" for i in range(N)]),
            obsm={"spatial": places, "spatialfuser_aligned": xy},
        )
        for name, places in (("a", xy), ("b", turned))
    }
    sdata = spatialdata.SpatialData(tables=tables)
    source = sdata
    if request.param == "disk":
        source = str(tmp_path / "pair.zarr")
        with anndata.settings.override(auto_shard_zarr_v3=False):
            sdata.write(source)
    # a sixth of the pairs goes from top to low, and one pair fails
    target = np.arange(N)
    target[: N // 6] += 2 * N // 3
    frame = pd.DataFrame(
        {
            "source_table": "a",
            "source": [f"a{i}" for i in range(N)],
            "target_table": "b",
            "target": [f"b{i}" for i in target],
            "score": np.linspace(0, 1, N),
            "passed": np.arange(N) < N - 1,
        },
        index=[str(i) for i in range(N)],
    )
    with ResultWriter(open_atlas(source)) as writer:
        writer.table("spatialfuser_matches", frame)
    return open_atlas(source)


def test_lines_end_at_the_spots_that_match(matched):
    axes = pl.matches(matched, n_lines=40)
    (lines,) = [artist for artist in axes.collections if hasattr(artist, "get_segments")]
    first, second = (artist.get_offsets() for artist in axes.collections[:2])
    assert len(lines.get_segments()) == 40
    for (start, end), score in zip(lines.get_segments(), lines.get_array(), strict=True):
        i = round(score * (N - 1))
        j = i + 2 * N // 3 if i < N // 6 else i
        np.testing.assert_allclose(start, first[i])
        np.testing.assert_allclose(end, second[j])
    assert first[:, 0].max() < second[:, 0].min()
    assert "89 pairs, 40 drawn" in axes.get_title()
    assert "90 pairs" in pl.matches(matched, all_pairs=True, color="domains").get_title()


def test_slices_may_be_asked_for_the_other_way_round(matched):
    axes = pl.matches(matched, slices=["b", "a"], n_lines=N)
    lines = axes.collections[2].get_segments()
    assert np.mean([line[0, 0] for line in lines]) < np.mean([line[1, 0] for line in lines])
    assert [text.get_text() for text in axes.texts[:2]] == ["b", "a"]


def test_flows_are_shares_of_the_pairs(matched):
    axes = pl.label_flow(matched, "domains")
    bars = [patch for patch in axes.patches if hasattr(patch, "get_height")]
    heights = {(round(bar.get_x()), round(bar.get_height() * 89)) for bar in bars}
    assert heights == {(0, 29), (0, 30), (1, 15), (1, 30), (1, 44)}
    assert len(axes.patches) - len(bars) == 4  # low-low, mid-mid, top-top, top-low
    assert "83% with the same label" in axes.get_title()


def test_aligned_slices_lie_on_each_other(matched):
    before, after = pl.registration(matched, n_shown=50)
    assert [axis.get_title() for axis in (before, after)] == ["as stored", "aligned"]
    a, b = (artist.get_offsets() for artist in before.collections)
    assert np.linalg.norm(a.mean(axis=0) - b.mean(axis=0)) > 50
    assert np.ptp(before.get_xlim()) > np.ptp(after.get_xlim())
    a, b = (artist.get_offsets() for artist in pl.registration(matched)[1].collections)
    np.testing.assert_allclose(a, b)


def test_what_is_not_there_is_named(matched, an_atlas):
    with pytest.raises(BadInput, match="run atlasnmf fit spatialfuser first"):
        pl.matches(an_atlas())
    with pytest.raises(BadInput, match="two are needed"):
        pl.registration(an_atlas())
    with pytest.raises(BadOption, match="no slice 'c'"):
        pl.matches(matched, slices=["a", "c"])
    with pytest.raises(BadOption, match="name two"):
        pl.label_flow(matched, slices=["a"])
    with pytest.raises(BadInput, match="did you mean 'domains'"):
        pl.label_flow(matched, "domain")
