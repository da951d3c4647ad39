"""The loader: a unit of 512 rows of four slices from memory and from disk, 200 genes a spot, 150 scores."""

from __future__ import annotations

import tempfile
from itertools import islice
from pathlib import Path

import numpy as np

from atlasnmf.batches import BlockSampler, Loader, SpotSource
from atlasnmf.schema import Csr
from atlasnmf.seeds import rng_for
from atlasnmf.store.parts import PartedCsr, PartedDense, plan_parts

N_SPOTS, N_SLICES, N_GENES, NNZ_PER_SPOT, N_UNITS = 100_000, 4, 2000, 200, 32


def stored_source(folder: Path) -> SpotSource:
    """Write a working copy of random counts and scores."""
    offsets = np.linspace(0, N_SPOTS, N_SLICES + 1).astype(np.int64)
    parts = plan_parts(offsets)
    counts = PartedCsr.create(folder / "counts", parts, n_cols=N_GENES)
    scores = PartedDense.create(folder / "scores", parts, row_shape=(3, 50))
    stride = N_GENES // NNZ_PER_SPOT
    for part in parts:
        rng = rng_for(0, "benchmark", "batches", part.index)
        steps = rng.integers(0, stride, (part.n_rows, NNZ_PER_SPOT), dtype=np.uint16)
        columns = (steps + np.arange(0, N_GENES, stride, dtype=np.uint16)).ravel()
        values = (1 + rng.poisson(0.5, len(columns))).astype(np.uint16)
        starts = np.arange(part.n_rows + 1, dtype=np.int64) * NNZ_PER_SPOT
        counts.write_part(part.index, Csr(starts, columns, values, N_GENES))
        scores.write_part(part.index, rng.normal(size=(part.n_rows, 3, 50)).astype(np.float32))
    return SpotSource(offsets, counts, np.ones(N_SPOTS, np.float32), scores)


class Units:
    """Read 32 units, once the first is there; a step beside it would hide this."""

    params = ("host", "disk")
    param_names = ("residency",)
    timeout = 300

    def setup(self, residency: str) -> None:
        self.folder = tempfile.TemporaryDirectory()
        source = stored_source(Path(self.folder.name))
        sampler = BlockSampler(source.offsets, 512, seed=0)
        self.stream = Loader(source, sampler, residency=residency, prefetch=0).starting_at(0)
        next(self.stream)

    def teardown(self, residency: str) -> None:
        self.stream.close()
        self.folder.cleanup()

    def time_units(self, residency: str) -> None:
        for _ in islice(self.stream, N_UNITS):
            pass

    def peakmem_units(self, residency: str) -> None:
        for _ in islice(self.stream, N_UNITS):
            pass
