"""The loader: the same batches wherever the rows are and wherever reading starts."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import closing
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_sources import (
    CountingCsr,
    assert_same_batch,
    assert_same_csr,
    assert_same_units,
    small_source,
    tiles_of,
)

from atlasnmf.batches import BlockSampler, Loader, SpotSource, TileSampler
from atlasnmf.batches.device import on_device
from atlasnmf.batches.sources import HeldCsr
from atlasnmf.errors import BadOption
from atlasnmf.events import Silent

SIZES = (37, 9, 64)


def sampler_of(source, kind="blocks", **options):
    if kind == "tiles":
        return TileSampler(tiles_of(source.offsets, 10), seed=0, **options)
    return BlockSampler(source.offsets, 8, seed=0, run_rows=4, buffer_rows=24, portions=3, **options)


def units_of(source, sampler, n, step=0, **options):
    with closing(Loader(source, sampler, **options).starting_at(step)) as units:
        return list(islice(units, n))


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    yield
    assert [t for t in threading.enumerate() if t.name == "atlasnmf-prefetch"] == []


@pytest.mark.parametrize(
    "kind, hops, full",
    [("blocks", 0, True), ("blocks", 0, False), ("tiles", 0, True), ("tiles", 0, False), ("tiles", 2, True)],
)
@pytest.mark.parametrize("prefetch", [0, 2])
def test_the_same_units_from_disk_and_from_memory(full, kind, hops, prefetch):
    held, lent = small_source(SIZES, full=full), small_source(SIZES, lent=True, full=full)
    host = units_of(held, sampler_of(held, kind), 20, residency="host", hops=hops, prefetch=prefetch)
    disk = units_of(lent, sampler_of(lent, kind), 20, residency="disk", hops=hops, prefetch=prefetch)
    assert_same_units(disk, host)
    lent_host = units_of(lent, sampler_of(lent, kind), 20, residency="host", hops=hops)
    assert_same_units(lent_host, host)
    device = units_of(lent, sampler_of(lent, kind), 20, residency="device", device="cpu", hops=hops)
    assert_same_units(device, host)
    for unit in host:
        assert [batch.slice_index for batch in unit] == [0, 1, 2]
        for batch in unit:
            assert_same_csr(batch.counts, held.counts.read_rows(batch.rows))
            np.testing.assert_array_equal(batch.totals, held.totals[batch.rows])
            if full:
                np.testing.assert_array_equal(batch.scores, held.scores.rows[batch.rows])
                for hop, stored in zip(batch.smoothed, held.smoothed, strict=True):
                    assert_same_csr(hop, stored.read_rows(batch.rows))


@pytest.mark.parametrize("kind", ["blocks", "tiles"])
@pytest.mark.parametrize("residency", ["host", "disk"])
def test_a_unit_does_not_depend_on_where_reading_started(kind, residency):
    source = small_source(SIZES, lent=True)
    whole = units_of(source, sampler_of(source, kind), 25, residency=residency)
    for step in range(25):
        resumed = units_of(source, sampler_of(source, kind), 25 - step, step, residency=residency)
        assert_same_units(resumed, whole[step:])


@given(
    sizes=st.lists(st.integers(1, 90), min_size=1, max_size=3),
    rows_per_slice=st.integers(1, 20),
    run_rows=st.integers(1, 9),
    buffer_rows=st.integers(1, 60),
    portions=st.integers(1, 6),
    step=st.integers(0, 12),
    n_ranks=st.integers(1, 3),
)
@settings(deadline=None, max_examples=40)
def test_buffers_of_any_shape(sizes, rows_per_slice, run_rows, buffer_rows, portions, step, n_ranks):
    source = small_source(sizes, lent=True, full=False)
    for rank in range(n_ranks):
        sampler = BlockSampler(
            source.offsets,
            rows_per_slice,
            seed=1,
            run_rows=run_rows,
            buffer_rows=buffer_rows,
            portions=portions,
            rank=rank,
            n_ranks=n_ranks,
        )
        host = units_of(source, sampler, 12, step, residency="host", prefetch=0)
        disk = units_of(source, sampler, 12, step, residency="disk", prefetch=0)
        assert_same_units(disk, host)


def test_from_disk_every_row_is_read_once_an_epoch():
    source = small_source((400,), lent=True, full=False)
    sampler = BlockSampler(source.offsets, 10, seed=0, run_rows=8, buffer_rows=100, portions=5)
    units_of(source, sampler, 40, residency="disk", prefetch=0)
    read = np.concatenate(source.counts.reads)
    # One epoch, and what is read ahead of the next.
    assert len(read) <= 400 + 100
    counts = np.bincount(read, minlength=400)
    assert counts.min() == 1
    assert len(source.counts.reads) == 4 * 5 + 5


def test_ranks_make_up_the_global_batch():
    source = small_source(SIZES, lent=True)
    whole = units_of(source, sampler_of(source), 10, residency="disk")
    shares = [
        units_of(source, sampler_of(source, rank=rank, n_ranks=2), 10, residency="disk") for rank in (0, 1)
    ]
    for step, unit in enumerate(whole):
        for s, batch in enumerate(unit):
            rows = np.concatenate([share[step][s].rows for share in shares])
            np.testing.assert_array_equal(np.sort(rows), np.sort(batch.rows))


def test_batches_own_their_memory():
    """A unit that is kept must not change, nor keep its whole block alive."""
    source = small_source(SIZES, lent=True)
    for residency in ("host", "disk"):
        for batch in units_of(source, sampler_of(source), 1, residency=residency)[0]:
            assert batch.counts.data.base is None
            assert batch.smoothed[0].data.base is None


def test_sample_is_spread_and_repeatable():
    source = small_source(SIZES, lent=True)
    first, again, other = (
        Loader(source, sampler_of(source), residency="disk").sample(20, seed) for seed in (0, 0, 1)
    )
    assert_same_units([first], [again])
    assert not np.array_equal(first[0].rows, other[0].rows)
    assert [len(batch.rows) for batch in first] == [16, 9, 16]
    assert_same_csr(first[2].counts, source.counts.read_rows(first[2].rows))


def test_a_sample_comes_with_its_neighbours():
    source = small_source(SIZES, lent=True)
    bare = Loader(source, sampler_of(source, "tiles")).sample(20, 0)
    sample = Loader(source, sampler_of(source, "tiles"), hops=2).sample(20, 0)
    near = source.graph._rows.to_scipy()
    for batch, core in zip(sample, bare, strict=True):
        np.testing.assert_array_equal(batch.rows[: batch.n_core], core.rows)
        assert batch.graph.n_rows == batch.rings[1]
        reached = np.zeros(source.n_spots)
        reached[core.rows] = 1
        reached = near @ (near @ reached)  # the graph is symmetric
        np.testing.assert_array_equal(np.sort(batch.rows), np.flatnonzero(reached))


@pytest.mark.parametrize("residency", ["host", "disk"])
@pytest.mark.parametrize("hops", [0, 2])
def test_tiles_cover_every_row_in_order(residency, hops):
    source = small_source(SIZES, lent=True)
    loader = Loader(source, sampler_of(source, "tiles"), residency=residency, hops=hops)
    batches = list(loader.tiles(tiles_of(source.offsets, 12)))
    core = np.concatenate([batch.rows[: batch.n_core] for batch in batches])
    np.testing.assert_array_equal(core, np.arange(source.n_spots))
    assert all((batch.graph is not None) == bool(hops) for batch in batches)


def test_tensors_of_a_device_have_the_same_values():
    source = small_source(SIZES, lent=True)
    there = on_device(source, "cpu")
    host = units_of(source, sampler_of(source), 6, residency="host")
    # As the loader does it for a device; the CPU is the only one every machine has.
    for step, unit in enumerate(host):
        for s, rows in enumerate(sampler_of(source).draw(step)):
            assert_same_values(there.batch(s, there.read_rows(rows)), unit[s])
    run = there.batch(2, there.read(50, 60))
    assert_same_values(run, source.batch(2, source.read(50, 60)))


def assert_same_values(tensors, arrays):
    assert isinstance(tensors.counts.data, torch.Tensor)
    pairs = [(tensors.totals, arrays.totals), (tensors.scores, arrays.scores)]
    matrices = [(tensors.counts, arrays.counts), *zip(tensors.smoothed, arrays.smoothed, strict=True)]
    for left, right in matrices:
        assert left.nnz == right.nnz
        pairs += [(left.indptr, right.indptr), (left.indices, right.indices), (left.data, right.data)]
    for tensor, array in pairs:
        np.testing.assert_array_equal(tensor.numpy(), array)


def test_rows_stay_on_the_device_only_for_models_that_take_tensors(monkeypatch):
    monkeypatch.setattr("atlasnmf.batches.loader._free_bytes", lambda device: 10**9)
    source = small_source(SIZES, lent=True)
    plain = Loader(source, sampler_of(source), device="cuda")
    assert plain.choice.residency == "host"
    assert Loader(source, sampler_of(source), device="cuda", residency="device").choice.residency == "host"
    loader = Loader(source, sampler_of(source), device="cuda", takes_tensors=True)
    assert loader.choice.residency == "device"
    # The CPU stands in for the device: it is the only one every machine has.
    loader.device = "cpu"
    host = units_of(source, sampler_of(source), 5, residency="host")
    with closing(loader.starting_at(0)) as units:
        for unit, expected in zip(units, host, strict=False):
            for left, right in zip(unit, expected, strict=True):
                assert_same_values(left, right)


def test_large_unsigned_values_survive_the_device():
    from atlasnmf.schema import Csr

    data = np.array([1, 40_000, 65_535], np.uint16)
    rows = Csr(np.array([0, 1, 3]), np.array([5, 0, 65_535], np.uint16), data, 65_536)
    source = SpotSource(np.array([0, 2]), CountingCsr(rows), np.ones(2, np.float32))
    spots = on_device(source, "cpu").read_rows(np.array([1, 0]))
    np.testing.assert_array_equal(spots.counts.data.numpy(), [40_000, 65_535, 1])
    np.testing.assert_array_equal(spots.counts.indices.numpy(), [0, 65_535, 5])
    wide = Csr(
        rows.indptr, rows.indices.astype(np.uint32), np.array([1, 2**31, 2**32 - 1], np.uint32), 65_536
    )
    source = SpotSource(np.array([0, 2]), CountingCsr(wide), np.ones(2, np.float32))
    spots = on_device(source, "cpu").read_rows(np.array([1, 0]))
    np.testing.assert_array_equal(spots.counts.data.numpy(), [2**31, 2**32 - 1, 1])


def test_reading_errors_reach_the_loop():
    source = small_source(SIZES, lent=True)

    class Torn(CountingCsr):
        def read_rows(self, rows):
            raise OSError("torn chunk")

    torn = SpotSource(source.offsets, Torn(source.counts._rows), source.totals)
    with pytest.raises(OSError, match="torn chunk"):
        units_of(torn, sampler_of(torn), 1, residency="disk")


def test_the_choice_follows_the_budget():
    class Listener(Silent):
        def __init__(self):
            self.notes = []

        def note(self, message):
            self.notes.append(message)

    # Large enough that its rows outweigh the scratch that any reading needs.
    n = 2_000_000
    indptr = np.arange(n + 1, dtype=np.int64) * 50
    huge = CountingCsr(small_source().counts.rows)
    huge.n_rows, huge.nnz = n, int(indptr[-1])
    source = SpotSource(np.array([0, n // 2, n]), huge, np.empty(0, np.float32))
    sampler = BlockSampler(source.offsets, 512, seed=0)
    roomy, tight = Listener(), Listener()
    assert Loader(source, sampler, events=roomy).choice.residency == "host"
    assert Loader(source, sampler, budget_bytes=10**9, events=roomy).choice.residency == "host"
    choice = Loader(source, sampler, budget_bytes=2 * 10**8, events=tight).choice
    assert choice.residency == "disk"
    assert choice.host_bytes < 2 * 10**8
    assert tight.notes == [choice.reason]
    assert choice.reason.startswith("streaming from disk")
    with pytest.raises(BadOption, match=r"streaming batches from disk needs .* fewer rows a step"):
        Loader(source, sampler, budget_bytes=10**7)
    with pytest.raises(BadOption, match="all rows in memory need"):
        Loader(source, sampler, budget_bytes=10**8, residency="host")
    with pytest.raises(BadOption, match="residency must be auto"):
        Loader(source, sampler, residency="tape")


def test_misuse_is_a_bug():
    source, bare = small_source(), small_source(full=False)
    with pytest.raises(ValueError, match="no halo"):
        Loader(source, sampler_of(source), hops=1)
    with pytest.raises(ValueError, match="need the graph"):
        Loader(bare, sampler_of(bare, "tiles"), hops=1)


def test_holding_keeps_what_is_held():
    source = small_source()
    held = source.held()
    assert held.counts is source.counts
    assert held.scores is source.scores
    lent = small_source(lent=True).held()
    assert isinstance(lent.counts, HeldCsr)
    assert_same_csr(lent.counts.rows, source.counts.rows)
    assert_same_csr(lent.graph.rows, source.graph.rows)


def test_wait_share_is_reported():
    source = small_source(SIZES)
    loader = Loader(source, sampler_of(source))
    assert loader.wait_share == 0.0
    with closing(loader.starting_at(0)) as units:
        for _ in islice(units, 5):
            pass
    assert loader.clock.n_units == 5
    assert 0.0 <= loader.wait_share <= 1.0


def test_training_needs_no_store():
    """Neither the loop nor the loader brings zarr, dask or anndata along: they run beside any store."""
    code = (
        "import sys, atlasnmf.train, atlasnmf.batches, atlasnmf.batches.device;"
        "print([name for name in ('zarr', 'dask', 'anndata', 'torch', 'pandas') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_first_unit():
    source = small_source(SIZES)
    loader = Loader(source, sampler_of(source))
    assert_same_batch(loader.first_unit(3)[1], units_of(source, sampler_of(source), 4)[3][1])
