"""staNMF on an embryo measured in 3-D, beside principal components and clusterings of them.

usage: python benchmarks/quality/drosophila.py bdtnp_drosophila_3d.h5ad [--ranks 3-12] [--replicates 16]

Smoothness in space is compared twice: of the one fit to all genes, and as published, of the patterns and of
the principal components of resampled genes (``--draws`` of them at each of ``--draw-ranks``).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "scale"))
from processes import atlasnmf, machine, measure

import atlasnmf as an
from atlasnmf.metrics.spatial import morans_i
from atlasnmf.models.stanmf.params import parse_ranks
from atlasnmf.models.stanmf.perturb import gene_draws
from atlasnmf.schema import Csr


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--ranks", default="3-12")
    parser.add_argument("--replicates", default="16")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--draw-ranks", default="3,5,8,12")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    resampled(args.data, parse_ranks(args.draw_ranks), args.draws)
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "embryo.zarr")
        measure(atlasnmf("ingest", args.data, "--out", store))
        study = ["--ranks", args.ranks, "--replicates", args.replicates, "--json"]
        cost = measure(atlasnmf("fit", "stanmf", store, *study))
        report(store, cost.cpu_s)


def resampled(path: str, ranks: tuple[int, ...], n_draws: int) -> None:
    """Print Moran's I of the patterns and of the components of resampled genes, over all draws."""
    import anndata
    from sklearn.decomposition import NMF, PCA
    from sklearn.neighbors import kneighbors_graph

    data = anndata.read_h5ad(path)
    values, near = np.asarray(data.X, dtype=np.float64), kneighbors_graph(data.obsm["spatial"], _NEIGHBORS)
    weights = Csr.from_scipy(near.maximum(near.T).tocsr())
    print(f"mean (sd) Moran's I over {n_draws} draws of genes: patterns, components, how often patterns lead")
    for rank in ranks:
        found: dict[str, list[np.ndarray]] = {"patterns": [], "components": []}
        for draw in range(n_draws):
            times = gene_draws(0, rank, draw, values.shape[1]).astype(int)
            drawn = np.repeat(values, times, axis=1)
            patterns = NMF(rank, init="nndsvda", tol=1e-4, max_iter=200, random_state=0).fit_transform(drawn)
            found["patterns"].append(morans_i(patterns, weights))
            found["components"].append(morans_i(PCA(rank).fit_transform(drawn), weights))
        means = {name: np.mean(each) for name, each in found.items()}
        spreads = {name: np.std(each) for name, each in found.items()}
        leads = np.mean(found["patterns"], axis=1) > np.mean(found["components"], axis=1)
        cells = [f"{means[name]:.3f} ({spreads[name]:.3f})" for name in found]
        print(f"rank {rank:2d}  {cells[0]}  {cells[1]}  {leads.sum()} of {n_draws}", flush=True)


def report(store: str, cpu_s: float) -> None:
    """Print the curve, and how smooth the patterns and those of the rivals are in space."""
    atlas = an.open_atlas(store)
    uns = atlas.tables[0].uns("stanmf")
    print(f"{machine()}; {cpu_s:.0f} s of processor time; chosen rank {int(uns['rank'])}")
    print("rank  matched (sd)     Amari   principal components")
    columns = ("ranks", "hungarian_mean", "hungarian_sd", "amari_mean", "pca_mean")
    names = [name if name == "ranks" else f"instability_{name}" for name in columns]
    for rank, mean, sd, amari, pca in zip(*(np.asarray(uns[name]) for name in names), strict=True):
        print(f"{int(rank):4d}  {mean:.4f} ({sd:.4f})  {amari:.4f}  {pca:.4f}")
    an.tl.comparisons(atlas)
    print("mean Moran's I of the patterns")
    for key in ("stanmf", *(f"comparison_{name}" for name in _RIVALS)):
        found = np.asarray(an.tl.morans_i(an.open_atlas(store), key), dtype=float)
        print(f"{key:32s} {found.mean():.3f}  {np.round(found, 3).tolist()}")


#: Nuclei next to each, as in ``tl.morans_i``.
_NEIGHBORS = 6
_RIVALS = ("pca", "pca_kmeans", "pca_hierarchical", "stanmf_hierarchical")

if __name__ == "__main__":
    main()
