"""Two workers against one process at the same total threads: the same global batch, steps taken in turn.

usage: python benchmarks/scale/workers.py [--spots 20000] [--genes 1000] [--slices 4] [--steps 200]
           [--workers 2] [--repeats 3] [--batch-spots 512]

The first line is the machine; then one JSON line a run. The time of a step is the median distance of the
times in ``metrics.jsonl`` after the first tenth of the steps: starting processes and reading rows are apart,
as ``fit_s`` less the steps. The last line is the overhead: what workers take beyond one process with as many
threads.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from processes import atlasnmf, machine, measure


def step_seconds(store: Path) -> float:
    """Return the median seconds of a step of the last fit."""
    newest = max(Path(f"{store}.atlasnmf").glob("fits/*/metrics.jsonl"), key=os.path.getmtime)
    times = np.array([json.loads(line)["time"] for line in newest.read_text().splitlines()])
    start = len(times) // 10
    # time stamps have milliseconds; a mean over runs of ten steps is finer than the median of single steps
    return float(np.median(np.diff(times[start::10]) / 10))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spots", default="20000")
    parser.add_argument("--genes", default="1000")
    parser.add_argument("--slices", default="4")
    parser.add_argument("--factors", default="20")
    parser.add_argument("--steps", default="200")
    parser.add_argument("--batch-spots", default="512")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dir", type=Path, default=Path("/tmp/atlasnmf-bench"))
    args = parser.parse_args()
    print(json.dumps({"machine": machine()}), flush=True)
    args.dir.mkdir(parents=True, exist_ok=True)
    store = args.dir / f"workers_{args.spots}_{args.genes}.zarr"
    if not store.exists():
        shape = ["--n-spots", args.spots, "--n-slices", args.slices, "--n-genes", args.genes]
        measure(atlasnmf("simulate", "embryo", str(store), *shape))
    common = ["--n-factors", args.factors, "--steps", args.steps, "--batch-spots", args.batch_spots]
    common += ["--encoder", "lgcn", "--device", "cpu", "--overwrite", "--json"]
    n = str(args.workers)
    forms = {
        "one process, one thread": ["--workers", "1"],
        f"one process, {n} threads": ["--workers", "1", "--threads", n],
        f"{n} workers, one thread each": ["--workers", n],
    }
    measure(atlasnmf("prepare", str(store), "--json"))
    taken: dict[str, list[float]] = {name: [] for name in forms}
    for repeat in range(args.repeats):
        for name, options in forms.items():
            shutil.rmtree(f"{store}.atlasnmf/fits", ignore_errors=True)
            cost = measure(atlasnmf("fit", "inspire", str(store), *common, *options))
            seconds = step_seconds(store)
            taken[name].append(seconds)
            outcome = json.loads(cost.stdout)
            record = {
                "form": name,
                "repeat": repeat,
                "ms_per_step": round(1e3 * seconds, 2),
                "fit_s": round(outcome["stages"]["fit"], 2),
                "wall_s": round(cost.wall_s, 2),
                "loss": outcome["loss"],
            }
            print(json.dumps(record), flush=True)
    best = {name: min(seconds) for name, seconds in taken.items()}
    alone, threaded, shared = best.values()
    print(
        json.dumps(
            {
                "overhead": round(shared / threaded - 1, 3),
                "speed_up_over_one_thread": round(alone / shared, 2),
                "ms_per_step": {name: round(1e3 * seconds, 2) for name, seconds in best.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
