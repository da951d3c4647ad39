"""A store with shapes and a real fit, as other packages find it."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")


@pytest.fixture(scope="session")
def fitted_store(tmp_path_factory):
    """Two slices of circles that tables annotate, fitted with INSPIRE, with domains."""
    import anndata
    import geopandas
    import shapely
    import spatialdata
    from spatialdata.models import ShapesModel, TableModel

    import atlasnmf as an

    folder = tmp_path_factory.mktemp("interop")
    an.simulate_embryo(folder / "made.zarr", n_spots=700, n_slices=2, n_genes=80, n_factors=4, seed=0)
    tables, shapes = {}, {}
    with anndata.settings.override(auto_shard_zarr_v3=False):
        for name, table in spatialdata.read_zarr(folder / "made.zarr").tables.items():
            circles = shapely.points(table.obsm["spatial"])
            frame = geopandas.GeoDataFrame({"radius": np.full(table.n_obs, 40.0)}, geometry=circles)
            shapes[f"{name}_spots"] = ShapesModel.parse(frame)
            adata = anndata.AnnData(table.X, obs=table.obs[["domain"]].copy(), var=table.var[[]].copy())
            adata.obsm["spatial"] = np.asarray(table.obsm["spatial"])
            adata.obs["region"], adata.obs["spot"] = f"{name}_spots", np.arange(table.n_obs)
            tables[name] = TableModel.parse(
                adata, region=f"{name}_spots", region_key="region", instance_key="spot"
            )
        spatialdata.SpatialData(tables=tables, shapes=shapes).write(folder / "atlas.zarr")
    atlas = an.open_atlas(folder / "atlas.zarr")
    an.Inspire(n_factors=4, encoder="lgcn").fit(atlas, steps=8, memory_budget="2GB").write()
    an.tl.domains(folder / "atlas.zarr", n_domains=3)
    return folder / "atlas.zarr"


@pytest.fixture(autouse=True)
def _no_open_figures():
    import matplotlib.pyplot as plt

    yield
    plt.close("all")
