"""Cost of ``prepare`` against the number of spots, under one memory budget.

usage: python benchmarks/scale/prepare.py [--sizes 100000,200000,500000,2000000] [--genes 2000] [--budget 2GB]
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
    parser.add_argument("--sizes", default="100000,200000,500000,2000000")
    parser.add_argument("--genes", default="2000")
    parser.add_argument("--slices", default="8")
    parser.add_argument("--budget", default="2GB")
    parser.add_argument("--hops", default="1", help="stored gene-space neighbourhood sums")
    parser.add_argument("--dir", type=Path, default=Path("/tmp/atlasnmf-bench"))
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--keep", action="store_true", help="keep the simulated stores")
    args = parser.parse_args()
    args.dir.mkdir(parents=True, exist_ok=True)
    rows = []
    for size in (int(text) for text in args.sizes.split(",")):
        store = args.dir / f"embryo_{size}_{args.genes}.zarr"
        if not store.exists():
            shape = ["--n-spots", str(size), "--n-slices", args.slices, "--n-genes", args.genes]
            measure(atlasnmf("simulate", "embryo", str(store), *shape))
        shutil.rmtree(f"{store}.atlasnmf", ignore_errors=True)
        flags = ["--memory-budget", args.budget, "--hops", args.hops, "--json"]
        cost = measure(atlasnmf("prepare", str(store), *flags))
        stages = json.loads(cost.stdout).get("stages", {})
        row = {
            "n_spots": size,
            "wall_s": round(cost.wall_s, 2),
            "spots_per_s": round(size / cost.wall_s),
            "cpu_us_per_spot": round(1e6 * cost.cpu_s / size, 1),
            "peak_gb": round(cost.peak_bytes / 1e9, 3),
            "stages_s": {name: round(seconds, 2) for name, seconds in stages.items()},
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
        if not args.keep:
            shutil.rmtree(store)
            shutil.rmtree(f"{store}.atlasnmf", ignore_errors=True)
    record = {
        "machine": machine(),
        "budget": args.budget,
        "hops": args.hops,
        "genes": args.genes,
        "rows": rows,
    }
    if args.out:
        args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
