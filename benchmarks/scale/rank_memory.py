"""Memory of each rank of a training shared by workers, against what is planned for it.

usage: python benchmarks/scale/rank_memory.py [--model spatialfuser] [--spots 40000] [--genes 300]
           [--slices 2,4] [--workers 2] [--batch-spots auto,4096] [--budget 4GB] [--steps 12]

For every number of slices and every form of a step: a simulated embryo is prepared, then fitted on worker
processes started for it, one thread each. The first line is the machine, then one JSON line a fit: the most
that each rank held (its own record, interpreter included), what is planned for a rank (``each of N workers
needs ..`` of the refusal) and for one process that trains alone, and how the largest rank compares.
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

import atlasnmf as an
from atlasnmf.budget import peak_bytes
from atlasnmf.pipeline.sizes import Sizes
from atlasnmf.reduce.cluster import processes

sys.path.insert(0, str(Path(__file__).parent))
from processes import machine


def model_of(args: argparse.Namespace, batch_spots: str) -> Any:
    """Return the model, about to take a few steps."""
    spots = batch_spots if batch_spots == "auto" else int(batch_spots)
    if args.model == "inspire":
        given = {} if spots == "auto" else {"batch_spots": spots}
        return an.Inspire(n_factors=20, steps=args.steps, encoder="lgcn", random_state=0, **given)
    pretrain = args.steps // 3
    return an.SpatialFuser(
        pretrain_steps=pretrain, fuse_steps=args.steps - pretrain, batch_spots=spots, random_state=0
    )


def measured(store: Path, args: argparse.Namespace, n_workers: int, batch_spots: str) -> dict[str, Any]:
    """Fit on new workers; return what they held and what was planned."""
    shutil.rmtree(f"{store}.atlasnmf/fits", ignore_errors=True)
    atlas = an.open_atlas(str(store))
    with processes(n_workers) as client:
        before = client.run(peak_bytes)
        fit = model_of(args, batch_spots).fit(
            atlas, client=client, device="cpu", overwrite=True, memory_budget=args.budget
        )
        held = sorted(client.run(peak_bytes).values())
    sizes = Sizes.of(atlas, fit.request)
    planned = {n: sizes.rank_bytes(n) for n in (1, n_workers)}
    return {
        "n_slices": len(sizes.slice_spots),
        "batch_spots": batch_spots,
        "workers": n_workers,
        "before_gb": round(max(before.values()) / 1e9, 2),
        "held_gb": [round(value / 1e9, 2) for value in held],
        "planned_gb": round(planned[n_workers] / 1e9, 2),
        "planned_alone_gb": round(planned[1] / 1e9, 2),
        "held_over_planned": round(held[-1] / planned[n_workers], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("inspire", "spatialfuser"), default="spatialfuser")
    parser.add_argument("--spots", type=int, default=40_000)
    parser.add_argument("--genes", type=int, default=300)
    parser.add_argument("--slices", default="2,4")
    parser.add_argument("--workers", default="2")
    parser.add_argument("--batch-spots", default="auto,4096")
    parser.add_argument("--budget", default="4GB")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--dir", type=Path, default=Path("/tmp/atlasnmf-bench"))
    args = parser.parse_args()
    print(json.dumps({"machine": machine()}), flush=True)
    args.dir.mkdir(parents=True, exist_ok=True)
    for n_slices in map(int, args.slices.split(",")):
        store = args.dir / f"workers_{args.spots}_{args.genes}_{n_slices}.zarr"
        if not store.exists():
            shape = {"n_spots": args.spots, "n_slices": n_slices, "n_genes": args.genes}
            an.simulate_embryo(store, **shape, n_factors=12)
        # prepared before: what preparation holds is not a rank's
        model_of(args, "512").fit(an.open_atlas(str(store)), device="cpu", overwrite=True)
        for n_workers in map(int, args.workers.split(",")):
            for batch_spots in args.batch_spots.split(","):
                print(json.dumps(measured(store, args, n_workers, batch_spots)), flush=True)


if __name__ == "__main__":
    main()
