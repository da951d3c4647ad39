"""Cost of fusing two slices against the number of spots, under one memory budget.

usage: python benchmarks/scale/spatialfuser.py [--sizes 10000,100000,500000] [--budget 8GB] [--keep]

A size is half of the spots: the two slices, stages of an embryo, have a third and two thirds of them. Prints
one JSON object a size: wall and processor seconds of the fit with prepare, by stage, and the peak memory of
the process. Steps of whole slices cost in proportion to the spots; steps of tiles do not: the steps of an
epoch (every spot once) are given too.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from processes import atlasnmf, machine, measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", default="10000,100000,500000")
    parser.add_argument("--genes", default="1000")
    parser.add_argument("--batch-spots", default="8192")
    parser.add_argument("--budget", default="8GB")
    parser.add_argument("--dir", type=Path, default=Path("/tmp/atlasnmf-bench"))
    parser.add_argument("--keep", action="store_true", help="keep the simulated stores")
    args, options = parser.parse_known_args()
    args.dir.mkdir(parents=True, exist_ok=True)
    print(machine(), flush=True)
    for size in (int(text) for text in args.sizes.split(",")):
        store = args.dir / f"two_{size}_{args.genes}.zarr"
        if not store.exists():
            shape = ["--n-spots", str(2 * size), "--n-slices", "2", "--n-genes", args.genes]
            measure(atlasnmf("simulate", "embryo", str(store), *shape))
        shutil.rmtree(f"{store}.atlasnmf", ignore_errors=True)
        # two stages of a growing embryo, drawn in one frame: there is no turn to find
        fit = ["--register-by", "none", "--memory-budget", args.budget, "--workers", "1"]
        fit += ["--batch-spots", args.batch_spots]
        cost = measure(atlasnmf("fit", "spatialfuser", str(store), *fit, "--overwrite", "--json", *options))
        record = json.loads(cost.stdout)
        (link,) = record["quality"]["links"]
        steps = -(-size // int(args.batch_spots))
        row = {
            "n_spots": 2 * size,
            "wall_s": round(cost.wall_s, 1),
            "cpu_s": round(cost.cpu_s, 1),
            "cpu_us_a_spot": round(1e6 * cost.cpu_s / (2 * size)),
            "peak_gb": round(record["peak_bytes"] / 1e9, 2),
            "bytes_a_spot": round(record["peak_bytes"] / (2 * size)),
            "steps_an_epoch": steps,
            "stages_s": {name: round(seconds, 1) for name, seconds in record["stages"].items()},
            "n_pairs": link["n_pairs"],
            "n_passed": link["n_passed"],
            "unmatched": round(link["unmatched"], 3),
        }
        print(json.dumps(row), flush=True)
        if not args.keep:
            shutil.rmtree(store)
            shutil.rmtree(f"{store}.atlasnmf", ignore_errors=True)


if __name__ == "__main__":
    main()
