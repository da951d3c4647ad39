"""Recovery of planted factors and loadings on the simulated embryo, through the command line.

usage: python benchmarks/quality/embryo_recovery.py [--n-spots 20000] [--seeds 0] [options of the fit]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from atlasnmf.metrics import matched_correlation
from atlasnmf.store.atlas import open_atlas

sys.path.insert(0, str(Path(__file__).parents[1] / "scale"))
from processes import atlasnmf, machine, measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--n-spots", default="20000")
    parser.add_argument("--n-slices", default="4")
    parser.add_argument("--n-genes", default="1000")
    parser.add_argument("--n-factors", default="12")
    parser.add_argument("--seeds", default="0")
    args, options = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "embryo.zarr")
        shape = ["--n-spots", args.n_spots, "--n-slices", args.n_slices, "--n-genes", args.n_genes]
        measure(atlasnmf("simulate", "embryo", store, *shape, "--n-factors", args.n_factors))
        for seed in args.seeds.split(","):
            flags = [
                "--n-factors",
                args.n_factors,
                "--seed",
                seed,
                "--overwrite",
                "--labels",
                "domain",
                "--json",
            ]
            outcome = json.loads(measure(atlasnmf("fit", "inspire", store, *flags, *options)).stdout)
            tables = open_atlas(store).tables
            factors = matched_correlation(
                np.concatenate([table.obsm("inspire_factors") for table in tables]),
                np.concatenate([table.obsm("true_factors") for table in tables]),
            )
            found, true = tables[0].varm("inspire_loadings"), tables[0].varm("true_loadings")
            known = np.isfinite(found).all(axis=1)
            loadings = matched_correlation(found[known], true[known])
            record = {
                "seed": int(seed),
                "factors": round(float(factors.mean), 3),
                "loadings": round(float(loadings.mean), 3),
                "factors_each": np.round(factors.correlations, 2).tolist(),
                "loadings_each": np.round(loadings.correlations, 2).tolist(),
                "domain_ari": round(outcome["quality"]["ari"], 3),
                "baseline_ari": round(outcome["quality"]["baseline"]["ari"], 3),
                "fit_s": round(outcome["stages"]["fit"], 1),
                "machine": machine(),
            }
            print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
