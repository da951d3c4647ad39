"""Passes of staNMF and SIID on a device against the same passes on the processor, without a store.

usage: python benchmarks/scale/device_passes.py [--spots 200000] [--genes 2000] [--nnz 200] [--factors 20]
           [--cells 100000] [--panel 300] [--passes 4] [--device cuda]

Rows with planted factors are made in memory. JSON lines: the machine; for each model the seconds of all
steps and of the longest after the first (in which kernels are compiled), the same on the processor with one
thread, and how far losses and factors are apart. Both begin at the same numbers and take the same operations,
so these differ by the order of sums: losses that are a share of 1e-3 apart say that something is wrong.
Needs numba, CuPy and what models import (torch, scipy, scikit-learn, pydantic), nothing that reads stores. On
a processor, small: ``--device cpu --spots 3000 --genes 200 --nnz 40 --factors 5 --cells 2000 --panel 60``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from atlasnmf.batches.passes import Passes
from atlasnmf.batches.sources import HeldCsr, SpotSource
from atlasnmf.errors import BadOption
from atlasnmf.kernels.dispatch import kernel
from atlasnmf.models.siid import method as siid
from atlasnmf.models.siid.params import Params as SiidParams
from atlasnmf.models.stanmf import method as stanmf
from atlasnmf.models.stanmf.params import Params as StanmfParams
from atlasnmf.schema import AtlasFacts, Csr
from atlasnmf.seeds import rng_for
from atlasnmf.tiles.plan import plan_tiles

sys.path.insert(0, str(Path(__file__).parent))
from processes import machine

TILE_SPOTS = 16_384
#: Cells to a coarse spot.
CELLS = 24


def say(**record: Any) -> None:
    print(json.dumps(record), flush=True)


def planted(n_rows: int, n_genes: int, nnz: int, n_factors: int, *where: Any) -> sp.csr_matrix:
    """Make Poisson counts of rows that mix factors, some thousand rows at a time."""
    loadings = rng_for(0, "device passes").dirichlet(np.full(n_genes, 0.3), n_factors)
    rng, parts = rng_for(0, "device passes", *where), []
    for start in range(0, n_rows, 4096):
        weights = rng.dirichlet(np.full(n_factors, 0.2), min(4096, n_rows - start))
        parts.append(sp.csr_matrix(rng.poisson(1.5 * nnz * (weights @ loadings)).astype(np.uint16)))
    return sp.vstack(parts).tocsr()


def narrow(counts: sp.csr_matrix) -> Csr:
    rows = Csr.from_scipy(counts)
    return Csr(rows.indptr, rows.indices.astype(np.uint16), rows.data, rows.n_cols)


def facts_of(counts: sp.csr_matrix, offsets: np.ndarray, **more: Any) -> AtlasFacts:
    n_genes = counts.shape[1]
    sums = [np.asarray(counts[a:b].sum(axis=0)).ravel() for a, b in pairwise(offsets)]
    given = {"gene_mask": np.ones((len(sums), n_genes), bool)} | more
    return AtlasFacts(
        slices=tuple("ab"[: len(sums)]),
        n_spots=np.diff(offsets),
        genes=tuple(f"g{gene}" for gene in range(n_genes)),
        gene_sums=np.stack(sums).astype(float),
        nnz_per_spot=counts.nnz / counts.shape[0],
        **given,
    )


def study(args: argparse.Namespace) -> tuple[AtlasFacts, Passes, Any]:
    """Return a study of one rank by the exact path: every iteration is a pass."""
    offsets = np.array([0, args.spots // 2, args.spots])
    counts = planted(args.spots, args.genes, args.nnz, args.factors, "study")
    totals = np.asarray(counts.sum(axis=1), np.float32).ravel()
    source = SpotSource(offsets, HeldCsr(narrow(counts)), totals)
    params = StanmfParams(
        ranks=str(args.factors), replicates=2, path="exact", max_iterations=args.passes, tol=0.0
    )
    return facts_of(counts, offsets), Passes(source, plan_tiles(offsets, TILE_SPOTS)), params


def pair(args: argparse.Namespace) -> tuple[AtlasFacts, Passes, Any]:
    """Return cells of a panel of genes beside spots of all genes that add the cells under them."""
    fine = planted(args.cells, args.genes, args.nnz, args.factors, "pair")
    spot = np.arange(args.cells) // CELLS
    sums = sp.csr_matrix((np.ones(args.cells, np.int64), (spot, np.arange(args.cells)))) @ fine
    sums.data = np.minimum(sums.data, np.iinfo(np.uint16).max)
    coarse = sums.astype(np.uint16).tocsr()
    panel = np.arange(args.genes) < args.panel
    cells = fine @ sp.diags(panel.astype(np.uint16), dtype=np.uint16)
    counts = sp.vstack([cells.tocsr(), coarse]).tocsr().astype(np.uint16)
    counts.eliminate_zeros()
    counts.sort_indices()
    offsets = np.array([0, args.cells, counts.shape[0]])
    source = SpotSource(offsets, HeldCsr(narrow(counts)), np.asarray(counts.sum(axis=1), np.float32).ravel())
    links = spot[:, None].astype(np.int32), np.ones((args.cells, 1), np.float32)
    facts = facts_of(counts, offsets, gene_mask=np.stack([panel, np.ones_like(panel)]), links=links)
    params = SiidParams(n_factors=args.factors, passes=args.passes, restarts=1, tol=0.0)
    return facts, Passes(source, plan_tiles(offsets, TILE_SPOTS)), params


def taken(
    build: Any, given: tuple[AtlasFacts, Passes, Any], device: str
) -> tuple[list[float], list[float], Any]:
    """Take the passes; return their seconds, their losses, and the factors."""
    facts, passes, params = given
    method, source = build(params, facts, device, 0).method, passes.source
    starts = [(int(at), int(min(at + 4096, end))) for at, end in pairwise(source.offsets)]
    state = method.init([source.batch(s, source.read(lo, hi)) for s, (lo, hi) in enumerate(starts)])
    seconds, losses = [], []
    for unit in passes.starting_at(0):
        if method.done(state):
            break
        start = time.perf_counter()
        state, figures = method.step(state, unit)
        seconds.append(time.perf_counter() - start)
        if "loss" in figures:
            losses.append(float(figures["loss"]))
    return seconds, losses, method.pack(state)[0]


def apart(ours: dict[str, np.ndarray], others: dict[str, np.ndarray]) -> float:
    """Return the largest distance of an array of one from that of the other, as a share of its length."""
    shares = [
        float(np.linalg.norm(ours[name].ravel() - value.ravel()) / max(np.linalg.norm(value.ravel()), 1e-30))
        for name, value in others.items()
        if np.issubdtype(value.dtype, np.floating) and value.size and np.isfinite(value).all()
    ]
    return max(shares, default=0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = {"spots": 200_000, "genes": 2000, "nnz": 200, "factors": 20, "cells": 100_000, "panel": 300}
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--passes", type=int, default=4)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    args = parser.parse_args()
    try:
        kernel("rows", args.device)
    except BadOption as problem:
        raise SystemExit(f"error: {problem}") from None
    say(machine=machine(), **vars(args))
    for name, make, build in (("stanmf", study, stanmf.build), ("siid", pair, siid.build)):
        given = make(args)
        there, losses, arrays = taken(build, given, args.device)
        here, expected, plain = taken(build, given, "cpu")
        say(
            model=name,
            steps=len(there),
            seconds=round(sum(there), 3),
            processor_seconds=round(sum(here), 3),
            first_s=round(there[0], 3),
            longest_s=round(max(there[1:], default=0.0), 4),
            processor_longest_s=round(max(here[1:], default=0.0), 4),
            losses_apart=apart({"loss": np.array(losses)}, {"loss": np.array(expected)}),
            factors_apart=apart(arrays, plain),
        )


if __name__ == "__main__":
    main()
