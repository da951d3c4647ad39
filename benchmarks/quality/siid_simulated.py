"""SIID on made checkerboards: proportions and imputed genes against the truth and the noise's ceiling.

usage: python benchmarks/quality/siid_simulated.py [--grids 10,20] [--types 4,8,16] [--coverages 0.25,0.5,1,2]
           [--noise 0] [--n-cells 20000] [--seeds 0] [--lambdas none,1000,500] [--out FILE]

The 24 configurations of the paper are the defaults. A tenth of the panel is hidden. Prints one JSON object a
fit: mean Jensen-Shannon divergence of proportions (bits), agreement of types, mean R2 of the hidden genes and
the R2 that the true means reach.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from pathlib import Path

import anndata
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "scale"))

from pair_arrays import fit, pair_of
from processes import machine

from atlasnmf.metrics import hungarian_match, jensen_shannon, r_squared
from atlasnmf.models.siid.params import Params
from atlasnmf.simulate import simulate_pair


def tables(options: dict, seed: int) -> tuple[anndata.AnnData, anndata.AnnData]:
    import spatialdata

    with tempfile.TemporaryDirectory() as folder:
        store = simulate_pair(Path(folder) / "pair.zarr", **options, seed=seed)
        read = spatialdata.read_zarr(store).tables
        return read["xenium"], read["visium"]


def score(fine: anndata.AnnData, coarse: anndata.AnnData, params: dict, seed: int) -> dict:
    pair = pair_of(fine, coarse, coarse_only=False, max_distance=100.0)
    hidden = np.arange(0, pair.n_panel, 10)
    names = ",".join(pair.genes[g] for g in hidden)
    done = fit(pair, Params(holdout=names, **params), seed=seed)
    truth = np.asarray(fine.obsm["true_factors"])
    state = done.state
    p = state.factors[: pair.fine.shape[0], 0, : state.n_factors] * state.shared.scale[0, : state.n_factors]
    p /= p.sum(axis=1, keepdims=True)
    _, columns = hungarian_match(truth.T @ p)
    measured = pair.fine[:, hidden].toarray()
    loadings = np.asarray(fine.varm["true_loadings"])[[fine.var_names.get_loc(pair.genes[g]) for g in hidden]]
    means = np.asarray(fine.obs["true_depth"])[:, None] * (truth @ loadings.T)
    proportions = done.proportions()[:, columns]
    return {
        "js": float(jensen_shannon(proportions, np.asarray(coarse.obsm["true_proportions"])).mean()),
        "types": float((p.argmax(axis=1) == columns[truth.argmax(axis=1)]).mean()),
        "r2": float(r_squared(measured, done.impute(hidden)).mean()),
        "ceiling": float(r_squared(measured, means).mean()),
        "seconds": float(done.seconds[-1]),
        "passes": len(done.losses),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--grids", default="10,20")
    parser.add_argument("--types", default="4,8,16")
    parser.add_argument("--coverages", default="0.25,0.5,1,2")
    parser.add_argument("--noise", default="0", help="errors of the cells' positions, micrometres")
    parser.add_argument("--n-cells", type=int, default=20_000)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--lambdas", default="none,500")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    records = []
    grid = itertools.product(
        *(text.split(",") for text in (args.grids, args.types, args.coverages, args.noise))
    )
    for size, types, coverage, noise in grid:
        options = {"grid": int(size), "n_types": int(types), "coverage": float(coverage)}
        options |= {"mapping_noise": float(noise), "n_cells": args.n_cells}
        for seed in map(int, args.seeds.split(",")):
            fine, coarse = tables(options, seed)
            for text in args.lambdas.split(","):
                params = {"n_factors": int(types), "entropy_lambda": None if text == "none" else float(text)}
                if params["entropy_lambda"]:
                    params["passes"] = 80
                row = {**options, "seed": seed, "lambda": text, **score(fine, coarse, params, seed)}
                records.append(row)
                print(json.dumps(row), flush=True)
    if args.out:
        args.out.write_text(json.dumps({"machine": machine(), "fits": records}, indent=1) + "\n")


if __name__ == "__main__":
    main()
