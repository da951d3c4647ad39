"""What a large fit would cost, on paper, from parts that are measured here: bytes read, operations, sums.

usage: python benchmarks/scale/model.py [--spots 1e8] [--genes 2400] [--slices 64] [--factors 60]
           [--rows 2048] [--steps 10000] [--gpus 8] [--share 0.3] [--preset default]

Measured on this machine, at small size, with the code that a fit runs: bytes of a row as stored, dense and
sparse operations of a step a row (torch's counter, and the products of the non-zeros by formula), bytes and
messages that ranks add in a step, spots a second of preparation. Assumed, and printed: the card's rates and
the share of them that is reached. A model, not a measurement: it says which part would be the longest.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.flop_counter import FlopCounterMode

import atlasnmf as an

sys.path.insert(0, str(Path(__file__).parent))
from processes import machine

#: NVIDIA's data sheet of the H200 SXM: operations a second (TF32, dense), bytes a second of memory, of NVLink
#: in one direction, and of PCIe 5 x16 in one direction; seconds of a message between cards.
CARD = {"flops": 494e12, "memory": 4.8e12, "nvlink": 450e9, "pcie": 55e9, "message_s": 20e-6}
SMALL = {"n_spots": 40_000, "steps": 3}


class Sums:
    """Stands in for other ranks, and counts what would be added."""

    rank, n_ranks = 0, 1

    def __init__(self) -> None:
        self.n_bytes, self.n_messages = 0, 0

    def sum(self, tensors: Any) -> None:
        self.n_bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        self.n_messages += 1


def measured(args: argparse.Namespace) -> dict[str, float]:
    """Measure the parts at small size: two slices, so the adversaries are counted for one pair."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "small.zarr"
        an.simulate_embryo(store, n_spots=SMALL["n_spots"], n_slices=2, n_genes=args.genes, n_factors=12)
        atlas = an.open_atlas(str(store))
        start = time.perf_counter()
        an.prepare(atlas, n_hvgs=0, workers=1)
        prepare_s = time.perf_counter() - start
        options = {"n_factors": args.factors, "steps": SMALL["steps"], "encoder": "lgcn"}
        model = an.Inspire(preset=args.preset, batch_spots=512, **options)
        prepared = an.options.PrepareOptions(n_hvgs=0)
        fit = model.fit(atlas, device="cpu", prepare=prepared)
        method, source = fit.model.method, fit.source
        unit = fit._loader.first_unit()
        sums = Sums()
        counter = FlopCounterMode(display=False)
        with counter:
            method.with_ranks(sums).step(fit.state, unit)
        pair = sum(p.numel() * p.element_size() for p in fit.state.adversary[0].parameters())
        n_rows = sum(batch.n_core for batch in unit)
        nnz = sum(batch.counts.nnz for batch in unit) / n_rows
        smoothed = sum(hop.nnz for batch in unit for hop in batch.smoothed) / n_rows
        # likelihood and its two gradients; features and sums of neighbours into the hidden layer and back
        hidden = getattr(fit.model.params, "hidden", 512)
        reads = 4 * (nnz + smoothed) * hidden if fit.model.params.features == "genes" else 0
        return {
            "row_bytes": float(source.row_bytes),
            "dense_flops_a_row": counter.get_total_flops() / n_rows,
            "sparse_flops_a_row": 6 * nnz * args.factors + reads,
            "summed_bytes": sums.n_bytes - pair,
            "summed_bytes_a_pair": float(pair),
            "messages": sums.n_messages,
            "prepare_spots_a_second_a_core": SMALL["n_spots"] / prepare_s,
        }


def cost(parts: dict[str, float], args: argparse.Namespace) -> dict[str, Any]:
    """Put the parts together for the size and the machine asked for."""
    rows = args.slices * args.rows
    n, reached = args.gpus, args.share
    ring = 2 * (n - 1) / n
    summed = parts["summed_bytes"] + (args.slices - 1) * parts["summed_bytes_a_pair"]
    step = {
        "dense products": rows * parts["dense_flops_a_row"] / (n * CARD["flops"] * reached),
        # a sparse product moves a row of 4-byte factors a non-zero: memory decides
        "sparse products": rows * parts["sparse_flops_a_row"] * 2 / (n * CARD["memory"] * reached),
        "rows over PCIe": rows * parts["row_bytes"] / (n * CARD["pcie"] * reached),
        "sums": ring * summed / (CARD["nvlink"] * reached) + parts["messages"] * CARD["message_s"] * (n - 1),
        "optimisers": 20 * summed / (CARD["memory"] * reached),
    }
    compute = step["dense products"] + step["sparse products"] + step["sums"] + step["optimisers"]
    # rows travel beside the computation
    step_s = max(compute, step["rows over PCIe"])
    prepare_s = args.spots / (parts["prepare_spots_a_second_a_core"] * args.cores)
    return {
        "epochs": round(args.steps * rows / args.spots, 2),
        "step_ms": {name: round(1e3 * seconds, 4) for name, seconds in step.items()},
        "ms_per_step": round(1e3 * step_s, 4),
        "train_min": round(args.steps * step_s / 60, 2),
        "prepare_min": round(prepare_s / 60, 1),
        "working_copy_gb": round(args.spots * parts["row_bytes"] / 1e9, 1),
        "rows_fit_the_cards": bool(args.spots * parts["row_bytes"] < 0.7 * n * 141e9),
        "longest": max(step, key=lambda name: step[name]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spots", type=float, default=1e8)
    parser.add_argument("--genes", type=int, default=2400)
    parser.add_argument("--slices", type=int, default=64)
    parser.add_argument("--factors", type=int, default=60)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--cores", type=int, default=128, help="that prepare")
    parser.add_argument("--share", type=float, default=0.3, help="of the card's rates that is reached")
    parser.add_argument("--preset", default="default")
    args = parser.parse_args()
    print(json.dumps({"machine": machine()}), flush=True)
    parts = measured(args)
    print(json.dumps({"measured": {name: round(value, 1) for name, value in parts.items()}}))
    print(json.dumps({"assumed": {**CARD, "share": args.share, "cores": args.cores}}))
    given = {"spots": args.spots, "slices": args.slices, "rows": args.rows, "gpus": args.gpus}
    print(json.dumps({"on paper": {**given, "steps": args.steps, **cost(parts, args)}}))
    halved = argparse.Namespace(**{**vars(args), "share": args.share / 2})
    print(json.dumps({"on paper, half the share": cost(parts, halved)["train_min"]}))
    assert np.isfinite(parts["row_bytes"])


if __name__ == "__main__":
    main()
