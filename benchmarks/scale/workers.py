"""Two workers against one process at the same total threads: the same global batch, steps taken in turn.

usage: python benchmarks/scale/workers.py [--model inspire] [--spots 20000] [--genes 1000] [--slices 4]
           [--steps 200] [--workers 2] [--repeats 3] [--batch-spots 512]

The first line is the machine; then one JSON line a run; the last is the overhead, what workers take beyond
one process with as many threads. All forms run in the same processes after a short fit of each, so imports
and compiling are apart. Time is the median of the times in ``metrics.jsonl``; processor seconds are those of
all processes, and on a busy machine they are what can be compared. ``--model spatialfuser`` takes a third of
its steps to pretrain and the rest to fuse, whole slices unless ``--batch-spots`` says less; the median step
is one that does not match, processor seconds are those of all steps, matching and measuring included. A step
of ``--model stanmf`` is the mean pass of a study, ``--steps`` its iterations at most; a last form sends
passes over all spots to the workers, which a fit does on its own where these have many threads.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import numpy as np
import psutil

import atlasnmf as an

sys.path.insert(0, str(Path(__file__).parent))
from processes import machine


def step_seconds(store: Path) -> float:
    """Return the median seconds of a step of the last fit."""
    newest = max(Path(f"{store}.atlasnmf").glob("fits/*/metrics.jsonl"), key=os.path.getmtime)
    records = [json.loads(line) for line in newest.read_text().splitlines()]
    times = np.array([record["time"] for record in records if "loss" in record])
    start = len(times) // 10
    # time stamps have milliseconds; a mean over runs of five steps is finer than the median of single steps
    return float(np.median(np.diff(times[start::5]) / 5))


def processor_seconds() -> float:
    """Return the processor seconds of this process and its children so far."""
    whole = psutil.Process()
    times = [process.cpu_times() for process in (whole, *whole.children(recursive=True))]
    return sum(time.user + time.system for time in times)


def built(args: argparse.Namespace, steps: int) -> Any:
    """Return the model, about to take so many steps."""
    if args.model == "inspire":
        batch_spots = args.batch_spots or 512
        return an.Inspire(
            n_factors=args.factors, steps=steps, batch_spots=batch_spots, encoder="lgcn", random_state=0
        )
    if args.model == "stanmf":
        return an.StaNMF(ranks="8,12", replicates=5, max_iterations=steps, random_state=0)
    return an.SpatialFuser(
        pretrain_steps=steps // 3,
        fuse_steps=steps - steps // 3,
        batch_spots=args.batch_spots or "auto",
        random_state=0,
    )


def run(store: Path, args: argparse.Namespace, steps: int, **options: Any) -> dict[str, float]:
    """Fit from the start; return what a step cost."""
    shutil.rmtree(f"{store}.atlasnmf/fits", ignore_errors=True)
    model = built(args, steps)
    start = processor_seconds()
    fit = model.fit(an.open_atlas(str(store)), device="cpu", overwrite=True, **{"workers": 1} | options)
    step_s = step_seconds(store)
    if args.model == "stanmf":  # passes of many kinds
        steps = len(fit.history["loss"])
        step_s = fit.seconds / steps
    return {
        "ms_per_step": round(1e3 * step_s, 2),
        "cpu_ms_per_step": round(1e3 * (processor_seconds() - start) / steps, 2),
        "fit_s": round(fit.seconds, 2),
        "load": round(os.getloadavg()[0], 1),
        "loss": float(fit.history["loss"][steps - 1]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("inspire", "spatialfuser", "stanmf"), default="inspire")
    parser.add_argument("--spots", type=int, default=20_000)
    parser.add_argument("--genes", type=int, default=1000)
    parser.add_argument("--slices", type=int, default=4)
    parser.add_argument("--factors", type=int, default=20)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-spots", type=int)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dir", type=Path, default=Path("/tmp/atlasnmf-bench"))
    args = parser.parse_args()
    print(json.dumps({"machine": machine()}), flush=True)
    args.dir.mkdir(parents=True, exist_ok=True)
    store = args.dir / f"workers_{args.spots}_{args.genes}_{args.slices}.zarr"
    if not store.exists():
        shape = {"n_spots": args.spots, "n_slices": args.slices, "n_genes": args.genes}
        an.simulate_embryo(store, **shape, n_factors=12)
    from atlasnmf.reduce.cluster import processes

    with processes(args.workers) as client:
        forms: dict[str, dict[str, Any]] = {
            "one process, one thread": {},
            f"one process, {args.workers} threads": {"threads": args.workers},
            f"{args.workers} workers, one thread each": {"client": client},
        }
        if args.model == "stanmf":
            for options in list(forms.values())[1:]:
                options.pop("threads", None)
                options["workers"] = args.workers
            forms[f"{args.workers} workers, passes over all spots sent"] = {"client": client}
        for options in forms.values():
            run(store, args, 12, **options)
        taken: dict[str, list[dict[str, float]]] = {name: [] for name in forms}
        for repeat in range(args.repeats):
            for name, options in forms.items():
                taken[name].append(run(store, args, args.steps, **options))
                print(json.dumps({"form": name, "repeat": repeat, **taken[name][-1]}), flush=True)
    best = {
        key: [min(record[key] for record in records) for records in taken.values()]
        for key in ("ms_per_step", "cpu_ms_per_step")
    }
    alone, threaded, shared = best["ms_per_step"][:3]
    cpu_alone, cpu_threaded, cpu_shared = best["cpu_ms_per_step"][:3]
    record = {
        "overhead": round(shared / threaded - 1, 3),
        "overhead_cpu": round(cpu_shared / cpu_threaded - 1, 3),
        "overhead_cpu_over_one_thread": round(cpu_shared / cpu_alone - 1, 3),
        "speed_up_over_one_thread": round(alone / shared, 2),
        **{key: dict(zip(forms, values, strict=True)) for key, values in best.items()},
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
