"""Embeddings, proportions, stacks, genes and loadings."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from atlasnmf import pl
from atlasnmf.errors import BadInput, BadOption
from atlasnmf.plots.colourings import colouring_of
from atlasnmf.plots.embeddings import layout_of
from atlasnmf.store.atlas import open_atlas


@pytest.fixture
def clouds():
    """Two slices and three clouds in eight dimensions; a spot without an embedding."""
    rng = np.random.default_rng(0)
    n = 150
    cloud = np.arange(n) % 3
    embedding = (rng.normal(0, 0.3, (n, 8)) + 6 * np.eye(8)[cloud]).astype(np.float32)
    embedding[7] = np.nan
    shares = rng.dirichlet(np.ones(3), n).astype(np.float32)
    counts = rng.poisson(2.0, (n, 4)).astype(np.float32)
    adata = anndata.AnnData(
        scipy.sparse.csr_matrix(counts),
        obs=pd.DataFrame(
            {
                "slice": pd.Categorical(np.repeat(["early", "late"], [90, 60])),
                "domains": pd.Categorical([f"d{c}" for c in cloud]),
                "depth": counts.sum(axis=1),
            },
            index=[f"s{i}" for i in range(n)],
        ),
        var=pd.DataFrame(index=["Shh", "Pax6", "Actb", "Myl7"]),
        obsm={"spatial": rng.uniform(0, 50, (n, 2)), "X_inspire": embedding, "inspire_factors": shares},
        varm={"inspire_loadings": rng.dirichlet(np.ones(4), 3).T},
    )
    return open_atlas(adata, slice_key="slice")


@pytest.mark.slow  # compiles UMAP
def test_umap_of_a_sample_places_the_others_among_their_own(clouds):
    places = layout_of(clouds, "X_inspire", n_sample=90, random_state=1)
    assert np.isnan(places[7]).all()
    cloud = np.arange(150) % 3
    known = np.isfinite(places).all(axis=1)
    assert known.sum() == 149
    centres = np.stack([places[known & (cloud == c)].mean(axis=0) for c in range(3)])
    nearest = np.linalg.norm(places[known][:, None] - centres, axis=2).argmin(axis=1)
    assert (nearest == cloud[known]).mean() > 0.95
    np.testing.assert_array_equal(places, layout_of(clouds, "X_inspire", n_sample=90, random_state=1))
    some = layout_of(clouds, "X_inspire", n_sample=50, n_shown=80)
    assert np.isfinite(some).all(axis=1).sum() == 80


def test_one_layout_many_colours(clouds, monkeypatch):
    layout = np.random.default_rng(0).normal(size=(150, 2))
    axes = pl.embedding(clouds, color=["slice", "domains", 2, "depth"], layout=layout)
    assert [axis.get_title() for axis in axes] == ["slice", "domains", "factor 2", "depth"]
    assert [text.get_text() for text in axes[1].get_legend().get_texts()] == ["d0", "d1", "d2"]
    colours = [{tuple(c) for c in axis.collections[0].get_facecolors()} for axis in axes[:2]]
    assert [len(c) for c in colours] == [2, 3]
    monkeypatch.setattr("atlasnmf.plots.embeddings._SHADE_ABOVE", 10)
    assert pl.embedding(clouds, color="domains", layout=layout).images
    with pytest.raises(BadOption, match="one row per spot"):
        pl.embedding(clouds, layout=layout[:4])
    with pytest.raises(BadInput, match="did you mean 'X_inspire'"):
        pl.embedding(clouds, "X_inspyre")
    with pytest.raises(BadOption, match="from 0 to 2"):
        pl.embedding(clouds, color=3, layout=layout)


def test_shares_of_groups_and_of_factors_by_stage(clouds):
    axes = pl.proportions(clouds, "domains")
    heights = np.array([[bar.get_height() for bar in group] for group in axes.containers])
    obs = clouds.tables[0].adata.obs
    expected = pd.crosstab(obs["domains"], obs["slice"], normalize="columns").to_numpy()
    np.testing.assert_allclose(heights, expected)
    assert [text.get_text() for text in axes.get_xticklabels()] == ["early", "late"]
    axes = pl.proportions(clouds, "inspire_factors", by="domains")
    heights = np.array([[bar.get_height() for bar in group] for group in axes.containers])
    np.testing.assert_allclose(heights.sum(axis=0), 1.0)
    shares = clouds.tables[0].obsm("inspire_factors").astype(float)
    first = shares[np.arange(150) % 3 == 0].mean(axis=0)
    np.testing.assert_allclose(heights[:, 0], first / first.sum())
    obs.loc["s0", "domains"] = np.nan
    assert pl.proportions(clouds, "domains").get_legend_handles_labels()[1] == ["d0", "d1", "d2", "none"]
    with pytest.raises(BadInput, match="holds numbers"):
        pl.proportions(clouds, "depth")
    with pytest.raises(BadInput, match="did you mean 'domains'"):
        pl.proportions(clouds, "domain")


def test_slices_lie_above_each_other(clouds):
    axes = pl.stack3d(clouds, "domains", gap=7.0)
    x, _, z = axes.collections[0]._offsets3d
    assert set(np.round(np.asarray(z), 6)) == {0.0, 7.0}
    assert len(x) == 150
    assert (np.asarray(z) == 0).sum() == 90
    only = pl.stack3d(clouds, slices=["late"], n_shown=20)
    assert len(only.collections[0]._offsets3d[0]) == 20
    import matplotlib.pyplot as plt

    with pytest.raises(BadOption, match="projection='3d'"):
        pl.stack3d(clouds, axes=plt.subplots()[1])
    with pytest.raises(BadInput, match="no obsm key 'nope'"):
        pl.stack3d(clouds, coordinates="nope")


def test_a_gene_measured_and_denoised(clouds):
    axes = pl.genes(clouds, ["Pax6", "Shh"], denoised="inspire")
    assert axes.shape == (4, 2)
    assert [line[0].get_ylabel() for line in axes] == [
        "Pax6\nmeasured",
        "Pax6\nby inspire",
        "Shh\nmeasured",
        "Shh\nby inspire",
    ]
    counts = clouds.tables[0].adata.X.toarray()
    log = np.log1p(1e4 * counts[:, 1] / counts.sum(axis=1))
    drawn = np.sort(axes[0, 0].collections[-1].get_array())
    np.testing.assert_allclose(drawn, np.sort(log[:90]), rtol=1e-5)
    assert axes[0, 0].collections[-1].get_clim() == axes[0, 1].collections[-1].get_clim()
    table = clouds.tables[0]
    made = table.obsm("inspire_factors").astype(float) @ table.varm("inspire_loadings")[0]
    np.testing.assert_allclose(np.sort(axes[3, 1].collections[-1].get_array()), np.sort(made[90:]), rtol=1e-5)
    with pytest.raises(BadInput, match="did you mean 'Pax6'"):
        pl.genes(clouds, "Pax7")
    with pytest.raises(BadInput, match="fit it first: atlasnmf fit stanmf"):
        pl.genes(clouds, "Pax6", denoised="stanmf")


def test_loadings_name_a_gene_once(clouds):
    clouds.tables[0].adata.varm["inspire_loadings"] = np.array(
        [[0.5, 0.5, 0.4], [0.5, 0.0, 0.1], [0.0, 0.5, 0.0], [0.0, 0.0, 0.5]]
    )
    axes = pl.loadings(clouds, n_top=1)
    assert [text.get_text() for text in axes.get_yticklabels()] == ["Pax6", "Actb", "Myl7"]
    np.testing.assert_allclose(axes.images[0].get_array()[0], [1.0, 0.0, 0.2])
    with pytest.raises(BadOption, match="from 0 to 2"):
        pl.loadings(clouds, factors=[5])


def test_numbers_and_groups_are_told_apart(clouds):
    assert colouring_of(clouds, "domains", "inspire").groups == ("d0", "d1", "d2")
    assert colouring_of(clouds, "depth", "inspire").groups == ()
    assert colouring_of(clouds, 1, "X_inspire").title == "factor 1"
    low, high = colouring_of(clouds, "depth", "inspire").limits()
    assert low == 0
    assert high > 0
