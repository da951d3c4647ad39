"""A small store with regions, counts, and results as fits leave them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scipy.sparse

from atlasnmf.schema import Csr
from atlasnmf.store.writer import create_store

N_SPOTS, N_GENES, N_REGIONS = 240, 40, 3
GENES = [f"g{i:02d}" for i in range(N_GENES)]
SETS = {f"region_{r}": [f"g{i:02d}" for i in range(r, N_GENES, N_REGIONS)][:8] for r in range(N_REGIONS)}


def make_slice(seed: int, n_spots: int = N_SPOTS) -> anndata.AnnData:
    """Three bands along y, each with genes of its own; an embedding and factors that know the bands."""
    rng = np.random.default_rng(seed)
    spatial = rng.uniform(0, 30, (n_spots, 2))
    region = np.minimum(spatial[:, 1] // 10, N_REGIONS - 1).astype(int)
    profile = np.full((N_REGIONS, N_GENES), 0.4)
    for g in range(N_GENES):
        profile[g % N_REGIONS, g] = 4.0 + (N_GENES - g) / 10
    counts = rng.poisson(profile[region]).astype(np.float32)
    depth = spatial[:, 1:] / 10
    embedding = np.hstack([depth, np.cos(depth), np.sin(depth)]) + rng.normal(0, 0.05, (n_spots, 3))
    factors = 0.8 * np.eye(N_REGIONS)[region] + 0.2 * rng.dirichlet(np.ones(N_REGIONS), n_spots)
    table = anndata.AnnData(
        scipy.sparse.csr_matrix(counts),
        obs=pd.DataFrame(
            {"region": pd.Categorical([f"r{i}" for i in region]), "age": 1.0 + seed},
            index=[f"s{seed}_{i}" for i in range(n_spots)],
        ),
        var=pd.DataFrame(index=GENES),
        obsm={"spatial": spatial, "X_inspire": embedding.astype(np.float32)},
        varm={"inspire_loadings": (profile / profile.sum(axis=1, keepdims=True)).T},
    )
    table.obsm["inspire_factors"] = factors.astype(np.float32)
    return table


def make_store(path: Path, **tables: anndata.AnnData) -> Path:
    """Write tables; two slices when none are given."""
    chosen = tables or {"slice_1": make_slice(1), "slice_2": make_slice(2, 200)}
    with create_store(path) as store:
        for name, table in chosen.items():
            writer = store.table(name, n_genes=table.n_vars)
            writer.append(Csr.from_scipy(table.X))
            writer.close(obs=table.obs, var=table.var, obsm=dict(table.obsm), varm=dict(table.varm))
    return path


def bytes_of(path: Path) -> str:
    """Hash every file's path and bytes of a store."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        if file.is_file():
            digest.update(str(file.relative_to(path)).encode() + file.read_bytes())
    return digest.hexdigest()
