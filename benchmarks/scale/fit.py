"""Cost of ``fit inspire`` on a simulated embryo under one memory budget, streamed from disk or in memory.

usage: python benchmarks/scale/fit.py [--spots 500000] [--genes 2000] [--slices 8] [--steps 200] ...
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
    parser.add_argument("--spots", default="500000")
    parser.add_argument("--genes", default="2000")
    parser.add_argument("--slices", default="8")
    parser.add_argument("--factors", default="40")
    parser.add_argument("--steps", default="200")
    parser.add_argument("--budget", default="2GB")
    parser.add_argument("--residency", default="disk", help="disk, host or auto")
    parser.add_argument("--dir", type=Path, default=Path("/tmp/atlasnmf-bench"))
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--keep", action="store_true", help="keep the simulated store")
    args = parser.parse_args()
    args.dir.mkdir(parents=True, exist_ok=True)
    store = args.dir / f"embryo_{args.spots}_{args.genes}.zarr"
    if not store.exists():
        shape = ["--n-spots", args.spots, "--n-slices", args.slices, "--n-genes", args.genes]
        measure(atlasnmf("simulate", "embryo", str(store), *shape))
    limits = ["--memory-budget", args.budget, "--residency", args.residency]
    fit = ["--n-factors", args.factors, "--steps", args.steps, "--overwrite", "--json"]
    cost = measure(atlasnmf("fit", "inspire", str(store), *fit, *limits))
    outcome = json.loads(cost.stdout)
    record = {
        "machine": machine(),
        "n_spots": int(args.spots),
        "steps": int(args.steps),
        "residency": args.residency,
        "budget": args.budget,
        "wall_s": round(cost.wall_s, 1),
        "cpu_s": round(cost.cpu_s, 1),
        "peak_gb": round(cost.peak_bytes / 1e9, 3),
        "stages_s": {name: round(seconds, 1) for name, seconds in outcome["stages"].items()},
        "s_per_step": round(outcome["stages"]["fit"] / int(args.steps), 3),
        "wait_share": outcome["wait_share"],
        "loss": outcome["loss"],
    }
    print(json.dumps(record))
    if args.out:
        args.out.write_text(json.dumps(record, indent=1) + "\n")
    if not args.keep:
        shutil.rmtree(store)
        shutil.rmtree(f"{store}.atlasnmf", ignore_errors=True)


if __name__ == "__main__":
    main()
