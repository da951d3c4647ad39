"""Planted unions of one to three regions on an annotated grid: found again from fitted patterns?

usage: python benchmarks/quality/regions_allen.py [GRID.h5ad] [--seeds 0,1,2] [--ranks 9-13] [--rivals]

Geometry and regions are those of the file (the Allen Institute's 200 um grid), gene images are made: every
gene a non-negative mixture of patterns, each flat on a union of touching regions; a tenth of the values is
lost and filled. A pattern counts as recovered when the union it correlates best with, among every region of
every level, every touching pair and every connected triple, has the very voxels of the planted one.

Without a file, a made grid is used: then the figures are those of ``atlasnmf simulate volume``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from atlasnmf import tl
from atlasnmf.analysis.stored_patterns import stored_patterns
from atlasnmf.analysis.stored_regions import stored_regions
from atlasnmf.metrics import matched_correlation
from atlasnmf.pipeline.volumes import simulate_volume
from atlasnmf.store.atlas import open_atlas
from atlasnmf.store.results import ResultWriter

sys.path.insert(0, str(Path(__file__).parents[1] / "scale"))
from processes import atlasnmf, machine, measure


def fit_in_memory(store: str, rank: int) -> None:
    """Put the patterns of scikit-learn's NMF into the store (coordinate descent, nndsvda)."""
    from sklearn.decomposition import NMF

    atlas = open_atlas(store)
    table = atlas.tables[0]
    values = np.asarray(table.counts.read(0, table.n_spots).to_scipy().todense(), np.float32)
    model = NMF(rank, init="nndsvda", random_state=0)
    patterns = model.fit_transform(values)
    with ResultWriter(atlas) as writer:
        writer.per_spot("stanmf_patterns", rank)
        writer.put_spots("stanmf_patterns", np.arange(len(patterns)), patterns)
        writer.varm("stanmf_coefficients", model.components_.T, table.var_names())
        writer.uns("stanmf", {"transform": "none", "rank": rank})


def fit_study(store: str, ranks: str, replicates: int) -> dict[str, object]:
    """Run the study of ranks through the command line."""
    flags = ["--ranks", ranks, "--replicates", str(replicates), "--json"]
    return json.loads(measure(atlasnmf("fit", "stanmf", store, *flags)).stdout)


def recovered(store: str) -> dict[str, object]:
    """Compare the best union of each pattern with the planted union of its partner."""
    links = tl.link_regions(store)
    read = stored_patterns(store)
    regions = stored_regions(read)
    table = read.tables[0]
    truth, planted = table.obsm("true_patterns"), [str(u) for u in table.uns("truth")["pattern_regions"]]
    match = matched_correlation(read.patterns, truth)
    best = links.best()
    rows, n_same = [], 0
    for found, true, correlation in zip(match.found, match.truth, match.correlations, strict=True):
        union = str(best["regions"].iloc[int(found)])
        inside = regions.inside(union.split("+"))
        same = bool((inside == regions.inside(planted[int(true)].split("+"))).all())
        n_same += same
        rows.append(
            {
                "planted": planted[int(true)],
                "found": union,
                "pearson": round(float(best["pearson"].iloc[int(found)]), 3),
                "pattern_match": round(float(correlation), 3),
                "recovered": same,
            }
        )
    return {
        "recovered": f"{n_same} of {len(planted)}",
        "mean_match": round(float(match.mean), 4),
        "mean_pearson": round(float(best["pearson"].mean()), 4),
        "unions": rows,
        "n_unions": list(links.n_unions),
        "morans_i": round(float(np.mean(tl.morans_i(store))), 4),
    }


def rivals(store: str) -> dict[str, dict[str, float]]:
    """Return the mean best correlation with a union, and Moran's I, of what other ways find."""
    found = {}
    for name in tl.comparisons(store):
        links = tl.link_regions(store, f"comparison_{name}")
        smoothness = tl.morans_i(store, f"comparison_{name}")
        found[name] = {
            "mean_pearson": round(float(links.best()["pearson"].mean()), 4),
            "morans_i": round(float(np.nanmean(smoothness)), 4),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("grid", nargs="?", help="h5ad file of an annotated grid; a made one when not given")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--n-patterns", type=int, default=11)
    parser.add_argument("--n-genes", type=int, default=400)
    parser.add_argument("--solver", choices=["sklearn", "stanmf"], default="stanmf")
    parser.add_argument("--rivals", action="store_true", help="also PCA and clusterings")
    parser.add_argument("--ranks", help="with stanmf: the study's ranks; the planted one when not given")
    parser.add_argument("--replicates", type=int, default=16)
    args = parser.parse_args()
    for seed in (int(text) for text in args.seeds.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            store = str(Path(folder) / "allen.zarr")
            made = simulate_volume(
                store, annotated=args.grid, n_genes=args.n_genes, n_patterns=args.n_patterns, seed=seed
            )
            start = time.perf_counter()
            if args.solver == "sklearn":
                fit_in_memory(store, args.n_patterns)
                outcome: dict[str, object] = {"rank": args.n_patterns}
            else:
                fitted = fit_study(store, args.ranks or str(args.n_patterns), args.replicates)
                outcome = dict(fitted["quality"])  # type: ignore[call-overload]
            fit_s = time.perf_counter() - start
            record = {
                "grid": Path(args.grid).name if args.grid else "made",
                "seed": seed,
                "planted_rank": args.n_patterns,
                "solver": args.solver,
                "fill_r2": round(made.score.r2, 3),
                **outcome,
                **recovered(store),
                **({"rivals": rivals(store)} if args.rivals else {}),
                "fit_s": round(fit_s, 1),
                "machine": machine(),
            }
            print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
