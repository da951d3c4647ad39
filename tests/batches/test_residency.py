"""Planned bytes hold in practice, and do not scare users away without need."""

from __future__ import annotations

import gc
import tracemalloc
from contextlib import closing
from itertools import islice

import numpy as np
import pytest
from small_sources import CountingCsr, LentDense, tiles_of

from atlasnmf.batches import BlockSampler, Loader, SpotSource, TileSampler, choose_residency
from atlasnmf.batches.residency import _READ_SCRATCH_BYTES
from atlasnmf.errors import BadOption
from atlasnmf.schema import Csr


def large_source(n=60_000, nnz=60):
    rng = np.random.default_rng(0)
    indptr = np.arange(n + 1, dtype=np.int64) * nnz
    columns = np.tile(np.arange(nnz, dtype=np.uint16), n)
    counts = Csr(indptr, columns, np.ones(n * nnz, np.uint16), 200)
    smooth = Csr(indptr, columns, np.ones(n * nnz, np.float32), 200)
    # A band along the curve: a few neighbours on either side.
    near = np.clip(np.arange(n)[:, None] + np.arange(-3, 4), 0, n - 1)
    graph = Csr(
        np.arange(n + 1, dtype=np.int64) * 7, near.ravel().astype(np.uint16), np.ones(n * 7, np.uint8), n
    )
    return SpotSource(
        np.array([0, n // 4, n]),
        CountingCsr(counts),
        np.ones(n, np.float32),
        LentDense(rng.random((n, 2, 20), dtype=np.float32)),
        (CountingCsr(smooth),),
        CountingCsr(graph),
        np.full(n, 7),
    )


@pytest.mark.parametrize("residency", ["host", "disk"])
@pytest.mark.parametrize("kind", ["blocks", "tiles"])
def test_the_peak_is_as_planned(residency, kind):
    source = large_source()
    hops = 2 if kind == "tiles" else 0
    if kind == "tiles":
        sampler = TileSampler(tiles_of(source.offsets, 3000), seed=0)
    else:
        sampler = BlockSampler(source.offsets, 256, seed=0, buffer_rows=12_000)
    Loader(source, sampler, residency=residency, hops=hops).first_unit()  # kernels are compiled
    loader = Loader(source, sampler, residency=residency, hops=hops)
    loader_bytes = loader.choice.host_bytes - _READ_SCRATCH_BYTES
    gc.collect()
    tracemalloc.start()
    with closing(loader.starting_at(0)) as units:
        for _ in islice(units, 120):
            pass
        peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= loader_bytes + _READ_SCRATCH_BYTES / 4
    assert peak >= 0.4 * loader_bytes


def choose(device=300, host=300, disk=20, **options):
    return choose_residency({"device": device, "host": host, "disk": disk}, **options)


def test_the_fastest_place_that_fits():
    assert choose(budget_bytes=1000, device_bytes=1000).residency == "device"
    assert choose(budget_bytes=1000, device_bytes=500).residency == "host"
    assert choose(budget_bytes=1000).residency == "host"
    assert choose(budget_bytes=299).residency == "disk"
    assert choose(budget_bytes=None).residency == "host"
    assert choose(budget_bytes=1000, device_bytes=1000, wanted="disk").residency == "disk"
    on_device = choose(budget_bytes=50, device_bytes=1000)
    assert (on_device.host_bytes, on_device.device_bytes) == (20, 300)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"budget_bytes": 10}, "streaming batches from disk needs 20 bytes .* may hold 10 bytes"),
        ({"budget_bytes": 10, "wanted": "disk"}, "fewer rows a step"),
        ({"budget_bytes": 100, "wanted": "host"}, "use residency auto or disk"),
        ({"budget_bytes": 100, "wanted": "device"}, "use --device cuda or residency host"),
        ({"budget_bytes": 100, "wanted": "device", "device_bytes": 400}, "half of its free memory"),
        ({"budget_bytes": 100, "wanted": "tape"}, "must be auto, device, host or disk"),
    ],
)
def test_refusals_say_what_would_fit(options, message):
    with pytest.raises(BadOption, match=message) as refused:
        choose(**options)
    assert "\n" not in str(refused.value)
