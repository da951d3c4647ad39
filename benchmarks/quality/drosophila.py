"""staNMF on an embryo measured in 3-D, beside principal components and clusterings of them.

usage: python benchmarks/quality/drosophila.py bdtnp_drosophila_3d.h5ad [--ranks 3-12] [--replicates 16]
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--ranks", default="3-12")
    parser.add_argument("--replicates", default="16")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "embryo.zarr")
        measure(atlasnmf("ingest", args.data, "--out", store))
        study = ["--ranks", args.ranks, "--replicates", args.replicates, "--json"]
        cost = measure(atlasnmf("fit", "stanmf", store, *study))
        report(store, cost.cpu_s)


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
        print(f"{key:32s} {found.mean():.3f}")


_RIVALS = ("pca", "pca_kmeans", "pca_hierarchical", "stanmf_hierarchical")

if __name__ == "__main__":
    main()
