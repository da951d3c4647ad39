"""INSPIRE's training steps on a device without a store: how long they take, and what precision costs.

usage: python benchmarks/scale/device_step.py [--spots 40000] [--genes 2000] [--slices 4] [--nnz 200]
           [--factors 20] [--rows 2048] [--steps 200] [--device auto] [--preset published] [--seeds 3]

Rows with planted factors are made in memory. JSON lines: the machine; milliseconds a step with rows held on
the device, sent ahead of the step, and in its way; then, after as many steps from the same weights in every
precision, the loss and how far factors are from those of float32, beside how far other batches take them.
Needs torch and what models import (numba, pydantic), nothing that reads stores. On a processor, small:
``--spots 3000 --genes 300 --nnz 60 --rows 128 --steps 40 --preset default``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from atlasnmf.batches import BlockSampler, HeldCsr, HeldDense, Loader, SpotSource
from atlasnmf.metrics.factors import matched_correlation
from atlasnmf.models.inspire.method import build
from atlasnmf.models.inspire.params import PRESETS, Params
from atlasnmf.schema import AtlasFacts, Csr
from atlasnmf.seeds import rng_for

sys.path.insert(0, str(Path(__file__).parent))
from processes import machine

WIDTH = 32


def say(**record: Any) -> None:
    print(json.dumps(record), flush=True)


def planted(args: argparse.Namespace) -> tuple[SpotSource, AtlasFacts]:
    """Make rows of slices that share factors, their mean with a neighbour, and projections of both."""
    per_slice = args.spots // args.slices
    offsets = np.arange(args.slices + 1) * per_slice
    shared = rng_for(0, "device step")
    loadings = shared.gamma(0.3, 1.0, (args.factors, args.genes))
    loadings /= loadings.sum(1, keepdims=True)
    basis = (shared.standard_normal((args.genes, WIDTH)) / args.genes**0.5).astype(np.float32)
    counts, means, scores = [], [], []
    for s in range(args.slices):
        rng = rng_for(0, "device step", s)
        for start in range(0, per_slice, 4096):
            n = min(4096, per_slice - start)
            weights = rng.dirichlet(np.full(args.factors, 0.2), n)
            rows = sp.csr_matrix(rng.poisson(1.5 * args.nnz * (weights @ loadings)).astype(np.uint16))
            logs = rows.astype(np.float32)
            logs.data = np.log1p(1e4 / (1.5 * args.nnz) * logs.data)
            near = ((logs + logs[rng.permutation(n)]) / 2).tocsr()
            counts.append(rows)
            means.append(near.astype(np.float32))
            scores.append(np.stack([logs @ basis, near @ basis], 1).astype(np.float32))
    stacked, smoothed = sp.vstack(counts).tocsr(), sp.vstack(means).tocsr()
    totals = np.asarray(stacked.sum(1)).ravel().astype(np.float32)
    narrow = Csr.from_scipy(stacked)
    narrow = Csr(narrow.indptr, narrow.indices.astype(np.uint16), narrow.data, narrow.n_cols)
    dense = HeldDense(np.concatenate(scores))
    hop = HeldCsr(Csr.from_scipy(smoothed))
    source = SpotSource(offsets, HeldCsr(narrow), totals, dense, (hop,))
    facts = AtlasFacts(
        slices=tuple(map(str, range(args.slices))),
        n_spots=np.full(args.slices, per_slice),
        genes=tuple(map(str, range(args.genes))),
        gene_mask=np.ones((args.slices, args.genes), bool),
        gene_sums=np.asarray(stacked.sum(0)) / args.slices * np.ones((args.slices, 1)),
        nnz_per_spot=stacked.nnz / stacked.shape[0],
        components=basis,
        centres=np.zeros((args.slices, args.genes), np.float32),
        component_scale=np.concatenate(scores)[:, -1].std(0),
    )
    return source, facts


class Run:
    """A fit of some steps from fixed weights, and what became of it."""

    def __init__(
        self,
        args: argparse.Namespace,
        given: tuple[SpotSource, AtlasFacts],
        *,
        residency: str = "auto",
        takes_tensors: bool = True,
        precision: str = "float32",
        seed: int = 0,
    ) -> None:
        source, facts = given
        options = PRESETS[args.preset] | {"n_factors": args.factors, "encoder": "lgcn"}
        model = build(Params(**options, precision=precision), facts, args.device, 0)
        sampler = BlockSampler(source.offsets, args.rows, seed=seed)
        loader = Loader(source, sampler, residency=residency, device=args.device, takes_tensors=takes_tensors)
        state, losses = model.method.init(loader.sample(4096, 0)), []
        with closing(loader.starting_at(0)) as units:
            for number, unit in enumerate(islice(units, args.steps)):
                if number == min(10, args.steps - 1):  # compiled and warm
                    self.wait(args.device)
                    start = time.perf_counter()
                state, figures = model.method.step(state, unit)
                losses.append(figures["loss"])
            self.wait(args.device)
        self.ms = 1e3 * (time.perf_counter() - start) / max(args.steps - 10, 1)
        self.loss = float(np.mean(losses[-max(args.steps // 10, 1) :]))
        self.where, self.wait_share = loader.choice.residency, loader.wait_share
        batches = loader.sample(2000, 1)
        with torch.no_grad():
            self.factors = np.concatenate([model.infer(state, batch)["inspire_factors"] for batch in batches])

    @staticmethod
    def wait(device: str) -> None:
        if device == "cuda":
            torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in [("spots", 40_000), ("genes", 2000), ("slices", 4), ("nnz", 200), ("factors", 20)]:
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cuda", "cpu"]
    )
    parser.add_argument("--preset", default="published", choices=list(PRESETS))
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(
            "error: no CUDA device is visible to torch; --device cpu takes small sizes (see --help)"
        )
    name = torch.cuda.get_device_name() if args.device == "cuda" else "none"
    torch.set_num_threads(1)
    say(machine=machine(), gpu=name, torch=torch.__version__, **vars(args))
    given = planted(args)
    places: dict[str, dict[str, Any]] = {"in memory": {"residency": "host"}}
    if args.device == "cuda":
        places = {
            "held on the device": {"residency": "device"},
            "sent ahead": {"residency": "host"},
            "in the step's way": {"residency": "host", "takes_tensors": False},
        }
    for label, options in places.items():
        run = Run(args, given, **options)
        waits = round(run.wait_share, 3)
        say(rows=label, residency=run.where, ms_per_step=round(run.ms, 3), wait_share=waits)
    exact = Run(args, given)
    others = [Run(args, given, seed=seed) for seed in range(1, args.seeds)]
    spread = [round(float(matched_correlation(run.factors, exact.factors).mean), 4) for run in others]
    say(precision="float32", loss=exact.loss, factors_of_other_batches=spread)
    for precision in ("tf32", "bf16"):
        run = Run(args, given, precision=precision)
        same = round(float(matched_correlation(run.factors, exact.factors).mean), 4)
        off = run.loss / exact.loss - 1
        say(precision=precision, loss=run.loss, loss_off=off, factors=same, ms_per_step=round(run.ms, 3))


if __name__ == "__main__":
    main()
