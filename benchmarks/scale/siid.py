"""Cost of ``fit siid`` on a simulated pair under one memory budget: seconds a pass and a cell, peak memory.

usage: python benchmarks/scale/siid.py [--cells 1000000] [--genes 5000] [--panel 500] [--budget 4GB] ...

24 cells to a coarse spot. The passes are those of one start; the seconds a pass are the median of all but the
first.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from processes import atlasnmf, machine, measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cells", default="1000000")
    parser.add_argument("--genes", default="5000")
    parser.add_argument("--panel", default="500")
    parser.add_argument("--factors", default="20")
    parser.add_argument("--passes", default="12")
    parser.add_argument("--budget", default="4GB")
    parser.add_argument("--workers", default="2")
    parser.add_argument("--dir", type=Path, default=Path("/tmp/atlasnmf-bench"))
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--keep", action="store_true", help="keep the simulated store")
    args = parser.parse_args()
    args.dir.mkdir(parents=True, exist_ok=True)
    store = args.dir / f"pair_{args.cells}_{args.genes}.zarr"
    shape = ["--n-cells", args.cells, "--n-genes", args.genes, "--n-panel", args.panel]
    measure(atlasnmf("simulate", "pair", str(store), *shape, "--n-types", args.factors, "--overwrite"))
    tables = ["--fine", "xenium", "--coarse", "visium", "--n-factors", args.factors, "--restarts", "1"]
    limits = ["--memory-budget", args.budget, "--workers", args.workers]
    cost = measure(
        atlasnmf("fit", "siid", str(store), *tables, *limits, "--passes", args.passes, "--tol", "0", "--json")
    )
    outcome = json.loads(cost.stdout)
    (history,) = Path(f"{store}.atlasnmf").glob("fits/*/metrics.jsonl")
    times = [json.loads(line)["time"] for line in history.read_text().splitlines()][: int(args.passes)]
    pass_s = statistics.median(after - before for before, after in pairwise(times))
    record = {
        "machine": machine(),
        "n_cells": int(args.cells),
        "s_per_pass": round(pass_s, 3),
        "us_per_cell_and_pass": round(1e6 * pass_s / int(args.cells), 3),
        "wall_s": round(cost.wall_s, 1),
        "cpu_s": round(cost.cpu_s, 1),
        "peak_gb": round(cost.peak_bytes / 1e9, 3),
        "stages_s": {name: round(seconds, 1) for name, seconds in outcome["stages"].items()},
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
