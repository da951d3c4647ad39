"""Results as scanpy, squidpy, spatialdata-plot and napari-spatialdata find them; atlasnmf only writes."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest

# what other packages warn of is theirs
pytestmark = pytest.mark.filterwarnings("ignore")


def _table(store, name="slice_1"):
    import spatialdata

    return spatialdata.read_zarr(store).tables[name]


def _drawn(figure) -> int:
    """Return how many colours a figure has; a blank one has few."""
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    with Image.open(buffer) as picture:
        return len(picture.convert("RGB").resize((200, 200)).getcolors(200 * 200))


def test_spatialdata_reads_a_store_whose_elements_are_all_there(fitted_store):
    import spatialdata

    sdata = spatialdata.read_zarr(fitted_store)
    assert sorted(sdata.tables) == ["slice_1", "slice_2"]
    for name, table in sdata.tables.items():
        element, matched = spatialdata.match_element_to_table(sdata, f"{name}_spots", name)
        assert matched.n_obs == table.n_obs == len(element[f"{name}_spots"])
        np.testing.assert_allclose(table.obsm["inspire_factors"].sum(axis=1), 1.0, atol=1e-3)
        assert isinstance(table.obs["domains"].dtype, pd.CategoricalDtype)


def test_scanpy_clusters_and_draws_the_embedding(fitted_store):
    sc = pytest.importorskip("scanpy")
    table = _table(fitted_store)
    sc.pp.neighbors(table, use_rep="X_inspire", n_neighbors=10)
    assert table.obsp["connectivities"].shape == (table.n_obs, table.n_obs)
    figure = sc.pl.embedding(table, basis="X_inspire", color="domains", show=False).figure
    assert _drawn(figure) > 5
    table.obs["factor_0"] = table.obsm["inspire_factors"][:, 0]
    figure = sc.pl.embedding(table, basis="spatial", color="factor_0", show=False).figure
    assert _drawn(figure) > 20


def test_scanpy_ranks_genes_of_domains(fitted_store):
    sc = pytest.importorskip("scanpy")
    table = _table(fitted_store)
    sc.pp.normalize_total(table)
    sc.pp.log1p(table)
    sc.tl.rank_genes_groups(table, "domains", method="t-test")
    assert len(sc.get.rank_genes_groups_df(table, group="0")) == table.n_vars


def test_slices_are_concatenated_with_one_embedding(fitted_store):
    import anndata
    import spatialdata

    tables = spatialdata.read_zarr(fitted_store).tables
    both = anndata.concat(tables, label="slice", index_unique="-", merge="first")
    assert both.obsm["X_inspire"].shape == (both.n_obs, 32)
    np.testing.assert_allclose(np.nansum(both.varm["inspire_loadings"], axis=0), 1.0, atol=1e-4)


@pytest.mark.slow  # compiles for a quarter of a minute
def test_squidpy_takes_domains_and_positions(fitted_store):
    sq = pytest.importorskip("squidpy")
    table = _table(fitted_store)
    sq.gr.spatial_neighbors(table, coord_type="generic", n_neighs=6)
    sq.gr.nhood_enrichment(table, cluster_key="domains", n_perms=20, show_progress_bar=False, seed=0)
    n = table.obs["domains"].cat.categories.size
    assert table.uns["domains_nhood_enrichment"]["zscore"].shape == (n, n)
    factors = [f"factor_{k}" for k in range(table.obsm["inspire_factors"].shape[1])]
    table.obs[factors] = table.obsm["inspire_factors"]
    sq.gr.spatial_autocorr(table, mode="moran", genes=factors, attr="obs", n_jobs=1)
    assert np.isfinite(table.uns["moranI"]["I"]).all()
    axes = sq.pl.spatial_scatter(table, shape=None, color="domains", return_ax=True)
    assert _drawn(axes.figure) > 5


def test_spatialdata_plot_colours_shapes_by_results(fitted_store):
    pytest.importorskip("spatialdata_plot")
    import matplotlib.pyplot as plt
    import spatialdata

    sdata = spatialdata.read_zarr(fitted_store)
    table = sdata.tables["slice_1"]
    table.obs["factor_0"] = table.obsm["inspire_factors"][:, 0]
    for color in ("domains", "factor_0"):
        figure, axes = plt.subplots()
        plot = sdata.pl.render_shapes("slice_1_spots", color=color, table_name="slice_1")
        plot.pl.show(coordinate_systems="global", ax=axes)
        assert _drawn(figure) > 5


def test_the_layout_that_napari_spatialdata_expects(fitted_store):
    """It lists obsm arrays by column, obs columns by type, and joins by region and instance."""
    import spatialdata

    sdata = spatialdata.read_zarr(fitted_store)
    for name, table in sdata.tables.items():
        attrs = table.uns["spatialdata_attrs"]
        assert attrs["region"] == f"{name}_spots"
        assert set(table.obs[attrs["region_key"]]) == {f"{name}_spots"}
        assert np.array_equal(table.obs[attrs["instance_key"]], sdata.shapes[f"{name}_spots"].index)
        for key in ("X_inspire", "inspire_factors", "inspire_discriminator"):
            values = table.obsm[key]
            assert isinstance(values, np.ndarray)
            assert values.dtype == np.float32
            assert values.shape[0] == table.n_obs
            assert values.ndim == 2


def test_napari_spatialdata_reads_the_results(fitted_store):
    # without Qt it cannot be imported either
    model = pytest.importorskip("napari_spatialdata._model", exc_type=ImportError)
    view, table = model.DataModel(), _table(fitted_store)
    view.adata = table
    assert {"X_inspire", "inspire_factors"} <= set(view.get_items("obsm"))
    assert "domains" in view.get_items("obs")
    column, *_ = view.get_obsm("inspire_factors", index=2)
    np.testing.assert_array_equal(np.asarray(column).ravel(), table.obsm["inspire_factors"][:, 2])


def test_results_survive_a_round_trip_through_h5ad(fitted_store, tmp_path):
    import anndata

    table = _table(fitted_store)
    table.write_h5ad(tmp_path / "slice.h5ad")
    back = anndata.read_h5ad(tmp_path / "slice.h5ad")
    np.testing.assert_array_equal(back.obsm["inspire_factors"], table.obsm["inspire_factors"])
    assert back.uns["inspire"]["seed"] == table.uns["inspire"]["seed"]
    assert back.uns["inspire"]["command"] == table.uns["inspire"]["command"]
