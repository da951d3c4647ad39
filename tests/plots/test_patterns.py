from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest

from atlasnmf import pl, tl
from atlasnmf.errors import BadInput, BadOption
from atlasnmf.plots.projections import project
from atlasnmf.store.atlas import open_atlas

CURVE = {
    "ranks": np.array([4, 5, 6]),
    "instability_hungarian_mean": np.array([0.2, 0.05, 0.1]),
    "instability_hungarian_sd": np.array([0.02, 0.01, 0.03]),
    "instability_amari_mean": np.array([0.1, 0.02, 0.06]),
    "instability_amari_sd": np.array([0.01, 0.01, 0.01]),
    "rank": 5,
}


@pytest.fixture
def brain():
    """Two regions of a small box of voxels, two patterns, six genes."""
    voxels = np.argwhere(np.ones((5, 4, 3), bool))
    rng = np.random.default_rng(0)
    left = voxels[:, 0] < 2
    patterns = np.column_stack([left, ~left]) * rng.gamma(20, 0.05, (60, 2)).astype(np.float32)
    coefficients = np.array([[4.0, 1], [3, 0], [2, 1], [0, 5], [1, 9], [0.0, 0.0]])
    obs = pd.DataFrame(
        {"region": pd.Categorical(np.where(left, "L", "R"))}, index=[f"v{i}" for i in range(60)]
    )
    adata = anndata.AnnData(
        (patterns @ coefficients.T).astype(np.float32),
        obs=obs,
        var=pd.DataFrame(index=list("abcdef")),
        obsm={"spatial": voxels * [200.0, 200.0, 400.0], "voxel": voxels, "stanmf_patterns": patterns},
        varm={"stanmf_coefficients": coefficients},
    )
    adata.uns["stanmf"] = dict(CURVE)
    return open_atlas(adata)


def test_the_curve_has_its_points_bars_and_chosen_rank(brain):
    axes = pl.instability(brain)
    bars = axes.containers
    assert [bar.get_label() for bar in bars] == ["matched one to one", "Amari"]
    for bar, name in zip(bars, ("hungarian", "amari"), strict=True):
        line, _, (segments,) = bar
        np.testing.assert_array_equal(line.get_xdata(), [4, 5, 6])
        np.testing.assert_array_equal(line.get_ydata(), CURVE[f"instability_{name}_mean"])
        ends = np.array([segment[:, 1] for segment in segments.get_segments()])
        np.testing.assert_allclose(np.diff(ends).ravel() / 2, CURVE[f"instability_{name}_sd"])
    assert [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"] == [5]
    assert axes.get_ylim()[0] == 0
    (only,) = pl.instability(CURVE, measures=["amari"]).containers
    assert only.get_label() == "Amari"
    with pytest.raises(BadOption, match="hungarian, amari"):
        pl.instability(CURVE, measures=["cosine"])
    with pytest.raises(BadInput, match="several ranks"):
        pl.instability({"rank": 3})
    with pytest.raises(BadInput, match="no uns key 'stanmv'"):
        pl.instability(brain, "stanmv")


@pytest.mark.parametrize("reduce", ["max", "mean"])
def test_a_projection_is_the_largest_or_mean_along_an_axis(reduce):
    shape = (5, 4, 3)
    box = np.random.default_rng(0).uniform(size=shape)
    box[2, 1, :] = np.nan
    known = np.isfinite(box)
    voxels = np.argwhere(np.ones(shape, bool))
    for across, up, along in ((0, 1, 2), (0, 2, 1), (1, 2, 0)):
        image, extent = project(voxels * 2.0, box.ravel(), (across, up), steps=np.full(3, 2.0), reduce=reduce)
        filled = np.where(known, box, -np.inf if reduce == "max" else 0)
        total = (
            filled.max(axis=along)
            if reduce == "max"
            else filled.sum(axis=along) / known.sum(axis=along).clip(1)
        )
        expected = np.where(known.any(axis=along), total, np.nan).T
        np.testing.assert_allclose(image, expected)
        assert extent == (-1, 2 * shape[across] - 1, -1, 2 * shape[up] - 1)


def test_three_views_of_each_pattern(brain):
    axes = pl.projections(brain)
    assert axes.shape == (2, 3)
    assert [axis.get_title() for axis in axes[0]] == ["along z", "along y", "along x"]
    assert axes[1, 0].get_ylabel() == "pattern 1\ny"
    table = brain.tables[0]
    values = table.obsm("stanmf_patterns").reshape(5, 4, 3, 2)
    for row in range(2):
        for axis, along in zip(axes[row], (2, 1, 0), strict=True):
            (image,) = axis.images
            np.testing.assert_allclose(image.get_array(), values[..., row].max(axis=along).T, rtol=1e-6)
    assert axes[0, 0].images[0].get_extent() == [-100, 900, -100, 700]
    (row,) = pl.projections(brain, patterns=[1])
    assert row[0].get_ylabel().startswith("pattern 1")
    with pytest.raises(BadOption, match="from 0 to 1"):
        pl.projections(brain, patterns=[2])
    with pytest.raises(BadOption, match="3 axes given for 6 panels"):
        pl.projections(brain, axes=axes[0])


def test_spots_on_no_grid_are_gathered_and_flat_ones_refused(brain):
    adata = brain.source
    rng = np.random.default_rng(1)
    del adata.obsm["voxel"]
    adata.obsm["spatial"] = rng.uniform(0, 10, (60, 3))
    axes = pl.projections(open_atlas(adata), patterns=[0])
    image = axes[0, 0].images[0].get_array()
    assert 10 < image.size < 120
    assert image.max() == pytest.approx(adata.obsm["stanmf_patterns"][:, 0].max())
    adata.obsm["spatial"] = rng.uniform(0, 10, (60, 2))
    with pytest.raises(BadInput, match=r"pl\.factors"):
        pl.projections(open_atlas(adata))


@pytest.mark.parametrize("flat", [[2], [1, 2], [0, 1, 2]])
def test_what_lies_flat_makes_small_pictures(brain, flat):
    adata = brain.source
    del adata.obsm["voxel"]
    adata.obsm["spatial"] = np.random.default_rng(1).uniform(0, 1e4, (60, 3))
    adata.obsm["spatial"][:, flat] = 3.0
    axes = pl.projections(open_atlas(adata), patterns=[0])
    assert max(axis.images[0].get_array().size for axis in axes[0]) < 5000


@pytest.mark.parametrize("unit", [1e-9, 1e9])
def test_voxels_are_pixels_in_any_unit(brain, unit):
    adata = brain.source
    adata.obsm["spatial"] = adata.obsm["spatial"] * unit
    axes = pl.projections(open_atlas(adata), patterns=[0])
    assert [axis.images[0].get_array().shape for axis in axes[0]] == [(4, 5), (3, 5), (3, 4)]


def test_bubbles_are_the_scores(brain):
    with pytest.raises(BadInput, match=r"run tl\.link_regions"):
        pl.region_bubbles(brain)
    links = tl.link_regions(brain)
    axes = pl.region_bubbles(brain)
    names = [text.get_text() for text in axes.get_xticklabels()]
    assert sorted(names) == ["L", "R"]
    bubbles = axes.collections[0]
    places = bubbles.get_offsets()
    assert len(places) == 2  # each pattern has one region it goes with, the other has no bubble
    for (column, row), colour, size in zip(places, bubbles.get_array(), bubbles.get_sizes(), strict=True):
        score = links.pearson[links.regions.index(names[int(column)]), int(row)]
        assert colour == pytest.approx(score)
        assert size == pytest.approx(90 * score**2)
    only = pl.region_bubbles(brain, regions=["R"], score="dice")
    assert [text.get_text() for text in only.get_xticklabels()] == ["R"]
    with pytest.raises(BadOption, match="no region 'X'"):
        pl.region_bubbles(brain, regions=["X"])


def test_the_heat_map_has_markers_in_order(brain):
    axes = pl.marker_heatmap(brain, n_top=2)
    assert [text.get_text() for text in axes.get_yticklabels()] == ["b", "a", "d", "e"]
    np.testing.assert_allclose(axes.images[0].get_array(), [[1, 0], [0.8, 0.2], [0, 1], [0.1, 0.9]])
    everything = pl.marker_heatmap(brain, n_top=None)
    assert everything.images[0].get_array().shape == (5, 2)  # the gene no pattern has is left out
    assert everything.get_ylabel() == "5 genes"
    with pytest.raises(BadInput, match="varm key"):
        pl.marker_heatmap(brain, "inspire")


def test_networks_show_nodes_edges_and_names(brain):
    with pytest.raises(BadInput, match=r"run tl\.gene_networks"):
        pl.gene_networks(brain)
    networks = tl.gene_networks(brain, n_top=3, edge_share=0.4)
    axes = pl.gene_networks(brain)
    assert [axis.get_title() for axis in axes] == ["pattern 0", "pattern 1"]
    for axis, network in zip(axes, networks, strict=True):
        assert {text.get_text() for text in axis.texts} == set(network)
        edges, nodes = axis.collections
        assert len(nodes.get_offsets()) == len(network)
        importance = [network.nodes[text.get_text()]["importance"] for text in axis.texts]
        np.testing.assert_allclose(nodes.get_array(), importance)
        assert len(edges.get_segments()) == network.number_of_edges()
    (second,) = pl.gene_networks(brain, patterns=[1])
    assert second.get_title() == "pattern 1"
    with pytest.raises(BadOption, match="no network of pattern 7"):
        pl.gene_networks(brain, patterns=[7])
