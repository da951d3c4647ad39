"""A small store with a fitted result, written without fitting."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import scipy.sparse
import spatialdata

from atlasnmf.store.atlas import open_atlas
from atlasnmf.store.results import ResultWriter

RECORD = {
    "status": "done",
    "seed": 7,
    "model": "inspire",
    "params": {"n_factors": 3},
    "versions": {"atlasnmf": "0.1.0"},
    "command": "atlasnmf fit inspire <atlas>.zarr --n-factors 3 --seed 7",
    "history": {"step": np.arange(3), "loss": np.array([3.0, 2.0, 1.0])},
    "quality": {"ari": 0.41, "nmi": 0.5, "asw": 0.1, "baseline": {"ari": 0.52, "nmi": 0.4, "asw": 0.05}},
    "warnings": ["12 spots share their coordinates with another"],
}


def a_store(path, n=(400, 300), n_factors=3, *, quality=True):
    """A store of two slices with a fitted result, domains, labels and enrichment."""
    rng = np.random.default_rng(0)
    tables = {}
    for number, size in enumerate(n):
        xy = rng.uniform(0, 100 * (number + 1), (size, 2))
        shares = rng.dirichlet(np.full(n_factors, 0.3), size).astype(np.float32)
        obs = pd.DataFrame(
            {
                "domains": pd.Categorical([f"d{k}" for k in shares.argmax(axis=1)]),
                "depth": rng.uniform(size=size),
            },
            index=[f"s{number}_{i}" for i in range(size)],
        )
        tables[f"stage_{number}"] = anndata.AnnData(
            scipy.sparse.csr_matrix(rng.poisson(1.0, (size, 8)).astype(np.float32)),
            obs=obs,
            var=pd.DataFrame(index=[f"g{i}" for i in range(8)]),
            obsm={"spatial": xy, "factors": shares},
        )
    with anndata.settings.override(auto_shard_zarr_v3=False):
        spatialdata.SpatialData(tables=tables).write(path)
    atlas = open_atlas(str(path))
    shares = np.concatenate([table.obsm("factors") for table in atlas.tables])
    shares[5] = np.nan
    with ResultWriter(atlas) as writer:
        writer.per_spot("inspire_factors", n_factors)
        writer.put_spots("inspire_factors", np.arange(len(shares)), shares)
        loadings = rng.dirichlet(np.ones(8), n_factors).T
        writer.varm("inspire_loadings", loadings, atlas.genes)
        record = RECORD | {"slices": ["stage_0", "stage_1"], "gamma": rng.normal(0, 0.1, (2, 8))}
        writer.uns("inspire", record if quality else {**record, "quality": {}, "warnings": []})
        tested = {"q": np.array([[1e-4, 0.9], [0.8, 0.7], [0.2, 0.3]]), "fold": np.ones((3, 2))}
        sets = {"gene_sets": ["heart <1>", "midgut tube"], "over_representation": tested}
        writer.uns("inspire_enrichment", sets)
    return shares
