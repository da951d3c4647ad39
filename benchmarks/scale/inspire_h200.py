"""INSPIRE at the published size on one device: half a million spots x 2400 genes x 8 slices, 10 000 steps.

usage: python benchmarks/scale/inspire_h200.py [--spots 500000] [--genes 2400] [--slices 8] [--factors 60]
           [--steps 10000] [--rows 2048] [--device auto] [--precision tf32] [--preset published]

JSON lines: the machine and the device; preparation and training by stage, as the command takes them; then a
step taken apart (``--apart`` steps with a wait for the device after each part), its dense operations as torch
counts them, and how far that is from the card's limits. The published run took 79.5 minutes for training.

On a processor, at small size:
``--device cpu --spots 4000 --genes 300 --slices 4 --factors 8 --steps 20 --rows 128``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

import atlasnmf as an

sys.path.insert(0, str(Path(__file__).parent))
from processes import machine

#: Of an H200: dense operations a second by precision, bytes a second of its memory (NVIDIA's data sheet).
LIMITS = {"float32": 67e12, "tf32": 494e12, "bf16": 989e12}
MEMORY = 4.8e12
PUBLISHED_S = 79.5 * 60
PARTS = ("inputs", "_discriminator_step", "_net_terms", "_descend")


def say(**record: Any) -> None:
    print(json.dumps(record, default=str), flush=True)


class Parts:
    """Seconds of the parts of a step; a part inside another counts for itself."""

    def __init__(self, method: Any, device: torch.device) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._device, self._inside = device, [0.0]
        for name in PARTS:
            setattr(method, name, self._timed(name, getattr(method, name)))

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def _timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            start = self._now()
            self._inside.append(0.0)
            try:
                return function(*args, **options)
            finally:
                took = self._now() - start
                self.seconds[name] += took - self._inside.pop()
                self._inside[-1] += took

        return call


def take_apart(fit: Any, n_steps: int, precision: str) -> None:
    """Time the parts of some steps and count their dense operations."""
    from torch.utils.flop_counter import FlopCounterMode

    method, loader = fit.model.method, fit._loader
    state = fit.state
    units = loader.starting_at(0)
    counter = FlopCounterMode(display=False)
    with counter:
        state, _ = method.step(state, next(units))
    parts = Parts(method, method.device)
    start = parts._now()
    for _ in range(n_steps):
        waited = time.perf_counter()
        unit = next(units)
        parts.seconds["wait for rows"] += time.perf_counter() - waited
        state, _ = method.step(state, unit)
    total = parts._now() - start
    units.close()
    flops = counter.get_total_flops()
    named = {"_descend": "backward and optimiser", "_discriminator_step": "discriminator, forward"}
    named |= {"_net_terms": "losses, forward", "inputs": "rows to the device"}
    shares = {named.get(name, name): seconds / total for name, seconds in parts.seconds.items()}
    shares["encoder and the rest"] = 1 - sum(shares.values())
    say(
        what="a step, taken apart",
        ms=round(1e3 * total / n_steps, 3),
        shares={name: round(share, 3) for name, share in shares.items()},
        dense_gflops=round(flops / 1e9, 3),
        share_of_the_cards_arithmetic=round(flops / (total / n_steps) / LIMITS[precision], 5),
        held_on_device_gb=round(torch.cuda.max_memory_allocated() / 1e9, 2)
        if method.device.type == "cuda"
        else None,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spots", type=int, default=500_000)
    parser.add_argument("--genes", type=int, default=2400)
    parser.add_argument("--slices", type=int, default=8)
    parser.add_argument("--factors", type=int, default=60)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="tf32", choices=list(LIMITS))
    parser.add_argument("--preset", default="published")
    parser.add_argument("--budget", default=None)
    parser.add_argument("--apart", type=int, default=50, help="steps that are taken apart")
    parser.add_argument("--dir", type=Path, default=Path("/tmp/atlasnmf-bench"))
    args = parser.parse_args()
    has = torch.cuda.is_available()
    if not has and args.device != "cpu":
        raise SystemExit(
            "error: no CUDA device is visible to torch; --device cpu takes small sizes (see the top)"
        )
    absent = [name for name in ("anndata", "dask", "spatialdata", "zarr") if find_spec(name) is None]
    if absent:
        raise SystemExit(
            f"error: {absent[0]} is not installed; device_step.py needs nothing that reads stores"
        )
    say(machine=machine(), device=torch.cuda.get_device_name() if has else "none", torch=torch.__version__)
    args.dir.mkdir(parents=True, exist_ok=True)
    store = args.dir / f"h200_{args.spots}_{args.genes}_{args.slices}.zarr"
    if not store.exists():
        from atlasnmf.simulate.embryo import simulate_embryo

        start = time.perf_counter()
        simulate_embryo(
            store, n_spots=args.spots, n_slices=args.slices, n_genes=args.genes, n_factors=args.factors
        )
        say(what="simulate, not counted", seconds=round(time.perf_counter() - start, 1))
    shutil.rmtree(f"{store}.atlasnmf", ignore_errors=True)  # all of it is timed
    atlas = an.open_atlas(str(store))
    model = an.Inspire(
        preset=args.preset,
        n_factors=args.factors,
        steps=args.steps,
        batch_spots=args.rows,
        encoder="lgcn",
        precision=args.precision,
    )
    start = time.perf_counter()
    fit = model.fit(
        atlas,
        device=args.device,
        memory_budget=args.budget,
        overwrite=True,
        prepare=an.options.PrepareOptions(n_hvgs=0),
    )
    trained = time.perf_counter()
    published = args.spots >= 500_000 and args.genes >= 2400 and args.steps >= 10_000
    fit.write()
    end = time.perf_counter()
    stages = {**fit.prepared.seconds, "fit": fit.seconds, "embed and write": end - trained}
    say(
        what="prepare, train, write",
        seconds=round(end - start, 1),
        stages={name: round(seconds, 2) for name, seconds in stages.items()},
        shares={name: round(seconds / (end - start), 3) for name, seconds in stages.items()},
        ms_per_step=round(1e3 * fit.seconds / max(args.steps, 1), 3),
        wait_share=round(fit.wait_share, 4),
        loss=float(fit.history["loss"][-1]),
        of_the_published_time=round((end - start) / PUBLISHED_S, 4) if published else None,
    )
    take_apart(fit, args.apart, args.precision)


if __name__ == "__main__":
    main()
