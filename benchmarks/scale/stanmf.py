"""Cost of a stability study against the number of spots, under one memory budget.

usage: python benchmarks/scale/stanmf.py [--sizes 100000,1000000] [--ranks 8-16] [--replicates 10] [--keep]
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="100000,1000000")
    parser.add_argument("--genes", default="2000")
    parser.add_argument("--slices", default="8")
    parser.add_argument("--ranks", default="8-16")
    parser.add_argument("--replicates", default="10")
    parser.add_argument("--budget", default="4GB")
    parser.add_argument(
        "--workers", default="1", help="processes; one keeps the values of the tiles for all passes"
    )
    parser.add_argument("--dir", type=Path, default=Path("/tmp/atlasnmf-bench"))
    parser.add_argument("--keep", action="store_true", help="keep the simulated stores")
    args = parser.parse_args()
    args.dir.mkdir(parents=True, exist_ok=True)
    print(machine(), flush=True)
    for size in (int(text) for text in args.sizes.split(",")):
        store = args.dir / f"embryo_{size}_{args.genes}.zarr"
        if not store.exists():
            shape = ["--n-spots", str(size), "--n-slices", args.slices, "--n-genes", args.genes]
            measure(atlasnmf("simulate", "embryo", str(store), *shape))
        # a finished study would only be read back
        shutil.rmtree(f"{store}.atlasnmf/fits", ignore_errors=True)
        study = ["--ranks", args.ranks, "--replicates", args.replicates, "--memory-budget", args.budget]
        workers = ["--workers", args.workers] if args.workers != "1" else []
        cost = measure(atlasnmf("fit", "stanmf", str(store), *study, *workers, "--overwrite", "--json"))
        record = json.loads(cost.stdout)
        row = {
            "n_spots": size,
            "wall_s": round(cost.wall_s, 1),
            "cpu_s": round(cost.cpu_s, 1),
            "cpu_ms_per_spot": round(1e3 * cost.cpu_s / size, 2),
            "peak_gb": round(cost.peak_bytes / 1e9, 2),
            "stages_s": {name: round(seconds, 1) for name, seconds in record["stages"].items()},
            "instability": record["quality"]["instability"],
        }
        print(json.dumps(row), flush=True)
        if not args.keep:
            shutil.rmtree(store)
            shutil.rmtree(f"{store}.atlasnmf", ignore_errors=True)


if __name__ == "__main__":
    main()
