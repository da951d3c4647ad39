"""What to ask a cluster for, by the size of an atlas: the table of docs/deploy.md, from estimates.

usage: python deploy/sizes.py [--spots 1e5,1e6,1e7,1e8] [--genes 2000] [--slices 8] [--gpu-gb 80]

A small store is simulated and its estimate is taken with the counts, slices and non-zeros of a larger one, so
nothing large is written. Memory is that of one process that keeps its rows where they fit: a rank of n keeps
all rows in memory (or streams them), and computes one n-th of a step.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from atlasnmf import models
from atlasnmf.budget import format_bytes
from atlasnmf.options import PrepareOptions, RunOptions
from atlasnmf.pipeline.estimates import Estimate, estimate_fit
from atlasnmf.pipeline.request import FitRequest
from atlasnmf.reduce.devices import pool_bytes
from atlasnmf.store.atlas import open_atlas

_SMALL = 4000


class Grown:
    """An atlas that says it has more spots than it has; only estimates can use it."""

    def __init__(self, atlas: Any, n_spots: int) -> None:
        self._atlas, self.n_spots = atlas, n_spots
        times = n_spots / atlas.n_spots
        self.tables = [
            SimpleNamespace(
                var_names=table.var_names, counts=SimpleNamespace(nnz=int(table.counts.nnz * times))
            )
            for table in atlas.tables
        ]
        self.slices = tuple(
            dataclasses.replace(info, n_spots=int(info.n_spots * times)) for info in atlas.slices
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._atlas, name)


def estimate(atlas: Any, model: str, n_spots: int, **params: Any) -> Estimate:
    """Estimate a fit of a model to an atlas of this many spots."""
    values = models.params_with_preset(model, "default", params)
    run = RunOptions(memory_budget="16GB", device="cpu")
    request = FitRequest(model, str(atlas.path), values, PrepareOptions(), run=run)
    return estimate_fit(Grown(atlas, n_spots), request)  # type: ignore[arg-type]


def rows(atlas: Any, sizes: list[int], gpu_gb: float) -> list[list[str]]:
    """Return the table: a row a size, memory and disk by model, workers worth asking for."""
    table = []
    for n_spots in sizes:
        inspire = estimate(atlas, "inspire", n_spots, n_factors=40)
        stanmf = estimate(atlas, "stanmf", n_spots, ranks="20")
        # a worker more is worth it while its tiles take minutes
        workers = min(max(n_spots // 250_000, 1), 64)
        table.append(
            [
                f"{n_spots:,}",
                format_bytes(inspire.disk_bytes),
                format_bytes(inspire.memory_bytes),
                format_bytes(stanmf.memory_bytes),
                str(workers),
                format_bytes(pool_bytes(int(gpu_gb * 1e9))),
            ]
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spots", default="1e5,1e6,1e7,1e8")
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--slices", type=int, default=8)
    parser.add_argument("--gpu-gb", type=float, default=80.0)
    args = parser.parse_args()
    sizes = [int(float(text)) for text in args.spots.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "small.zarr"
        from atlasnmf.simulate.embryo import simulate_embryo

        simulate_embryo(store, n_spots=_SMALL, n_slices=args.slices, n_genes=args.genes, n_factors=12)
        atlas = open_atlas(str(store))
        head = ["spots", "disk", "INSPIRE, a worker", "staNMF, client", "CPU workers", "RMM pool of a GPU"]
        lines = [head, ["---:"] * len(head), *rows(atlas, sizes, args.gpu_gb)]
        print("\n".join("| " + " | ".join(line) + " |" for line in lines))


if __name__ == "__main__":
    main()
