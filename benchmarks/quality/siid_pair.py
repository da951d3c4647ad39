"""Held-out genes of the breast cancer pair: SIID over seeds beside imputation without a model, and by folds.

usage: python benchmarks/quality/siid_pair.py [--seeds 0,1,2,3,4] [--folds 10] [--workers 2] [--out FILE]
           [--set NAME=VALUE ...]

Every tenth gene that both slices have is hidden from the fine one, h = 20, cells linked within 17 units, the
default parameters but for those set (`--set links=4`). Prints one JSON object a fit: the mean over hidden
genes of R2 (squared Pearson), Pearson, Spearman, RMSE of z-scores, Jensen-Shannon divergence and structural
similarity. Then every gene is hidden once.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "scale"))

from pair_arrays import ArrayFit, PairArrays, breast, fit
from processes import machine

from atlasnmf.features.pairing import link_spots
from atlasnmf.metrics import gene_scores, r_squared, spot_baselines
from atlasnmf.models.siid.params import Params


def baselines(pair: PairArrays, hidden: np.ndarray) -> dict[str, np.ndarray]:
    """R2 of the hidden genes by baselines A to D."""
    spot_of = link_spots(pair.fine_positions, pair.coarse_positions, pair.max_distance).spots[:, 0]
    _, neighbours = cKDTree(pair.fine_positions).query(pair.fine_positions, k=30)
    seen = np.setdiff1d(np.arange(pair.n_panel), hidden)
    totals = np.asarray(pair.fine[:, seen].sum(axis=1)).ravel()
    found = spot_baselines(pair.coarse[:, hidden].toarray(), spot_of, totals, neighbours)
    measured = pair.fine[:, hidden].toarray()
    return {name: r_squared(measured, values) for name, values in found.items()}


def scores(pair: PairArrays, done: ArrayFit) -> dict[str, np.ndarray]:
    """Scores of all hidden genes of all folds."""
    parts = []
    for lane, hidden in done.model.folds(done.state):
        parts.append(gene_scores(pair.fine[:, hidden].toarray(), done.impute(hidden, lane)))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def means(found: dict[str, np.ndarray]) -> dict[str, float]:
    return {name: round(float(np.nanmean(values)), 4) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--folds", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--n-factors", type=int, default=20)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    more = dict(text.split("=", 1) for text in args.set)
    pair = breast(coarse_only="out_of_panel" in more)
    hidden = np.arange(0, pair.n_panel, 10)
    names = ",".join(pair.genes[g] for g in hidden)
    record: dict[str, object] = {
        "machine": machine(),
        "baselines": means(baselines(pair, hidden)),
        "seeds": [],
    }
    print(json.dumps(record), flush=True)
    for seed in map(int, args.seeds.split(",")):
        params = Params(**{"n_factors": args.n_factors, "holdout": names, **more})
        done = fit(pair, params, seed=seed, n_workers=args.workers)
        row = {"seed": seed, "passes": len(done.losses), "seconds": round(float(done.seconds[-1]), 1)}
        row |= {"loss": round(float(done.losses[-1])), **means(scores(pair, done))}
        record["seeds"].append(row)  # type: ignore[attr-defined]
        print(json.dumps(row), flush=True)
    if args.folds:
        params = Params(**{"n_factors": args.n_factors, "holdout": f"{args.folds}fold", **more})
        done = fit(pair, params, n_workers=args.workers)
        found = scores(pair, done)
        plain = {name: [] for name in "ABCD"}
        for _, genes in done.model.folds(done.state):
            for name, values in baselines(pair, genes).items():
                plain[name].append(values)
        row = {"folds": args.folds, "n_genes": len(found["r2"]), "seconds": round(float(done.seconds[-1]), 1)}
        row |= means(found)
        row["baselines"] = means({name: np.concatenate(values) for name, values in plain.items()})
        record["folds"] = row
        print(json.dumps(row), flush=True)
    if args.out:
        args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
