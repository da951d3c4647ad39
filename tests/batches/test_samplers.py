"""Which rows: every row once an epoch, well mixed, the same from any start and over any ranks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_sources import tiles_of

from atlasnmf.batches.samplers import BlockSampler, TileSampler, spread_rows
from atlasnmf.errors import BadOption

SAMPLERS = st.builds(
    dict,
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=3),
    rows_per_slice=st.integers(1, 40),
    run_rows=st.integers(1, 20),
    buffer_rows=st.integers(1, 200),
    portions=st.integers(1, 9),
    seed=st.integers(0, 3),
)


def sampler_of(sizes, rows_per_slice, **options):
    return BlockSampler(np.r_[0, np.cumsum(sizes)], rows_per_slice, **options)


@given(SAMPLERS)
@settings(deadline=None, max_examples=60)
def test_every_step_takes_its_rows_and_an_epoch_repeats_none(options):
    sampler = sampler_of(**options)
    offsets = sampler.offsets
    for s, n_rows in enumerate(options["sizes"]):
        batch = min(options["rows_per_slice"], n_rows)
        n_steps = n_rows // batch
        for epoch in range(2):
            drawn = [sampler.draw(epoch * n_steps + step)[s] for step in range(n_steps)]
            assert all(len(rows) == batch for rows in drawn)
            rows = np.concatenate(drawn)
            assert len(np.unique(rows)) == len(rows) == n_steps * batch
            assert rows.min() >= offsets[s]
            assert rows.max() < offsets[s + 1]


@given(SAMPLERS, st.integers(2, 4), st.integers(0, 30))
@settings(deadline=None, max_examples=60)
def test_ranks_share_the_same_global_batch(options, n_ranks, step):
    whole = sampler_of(**options).draw(step)
    shares = [sampler_of(**options, rank=rank, n_ranks=n_ranks).draw(step) for rank in range(n_ranks)]
    for s, rows in enumerate(whole):
        for rank in range(n_ranks):
            np.testing.assert_array_equal(shares[rank][s], rows[rank::n_ranks])


@given(SAMPLERS, st.integers(0, 40))
@settings(deadline=None, max_examples=60)
def test_a_step_is_a_function_of_its_number(options, step):
    forward, direct = sampler_of(**options), sampler_of(**options)
    for before in range(step):
        forward.draw(before)
    for left, right in zip(forward.draw(step), direct.draw(step), strict=True):
        np.testing.assert_array_equal(left, right)


@given(SAMPLERS)
@settings(deadline=None, max_examples=60)
def test_places_run_through_the_blocks_in_order(options):
    sampler = sampler_of(**options)
    for s in range(sampler.n_slices):
        before = sampler.place(s, 0)
        assert (before.block, before.step) == (0, 0)
        for step in range(1, 40):
            place = sampler.place(s, step)
            if before.step + 1 < before.n_steps:
                assert (place.block, place.step) == (before.block, before.step + 1)
            else:
                assert (place.block, place.step) == (before.block + 1, 0)
            before = place


def test_seeds_and_epochs_differ():
    draws = {tuple(sampler_of([100], 10, seed=seed).draw(step)[0]) for seed in (0, 1) for step in (0, 10, 20)}
    assert len(draws) == 6


def test_all_rows_are_drawn_equally_often():
    sampler = sampler_of([1030], 100, seed=0, run_rows=16, buffer_rows=300)
    counts = np.bincount(np.concatenate([sampler.draw(step)[0] for step in range(2000)]), minlength=1030)
    # 2000 steps of 100 of 1030 rows: 194 expected; leaving 30 out of an epoch at random gives sd 2.4.
    assert counts.min() > 194 - 15
    assert counts.max() <= 200


def test_small_slices_give_all_rows_once():
    drawn = sampler_of([5, 100], 20, seed=0).draw(3)
    np.testing.assert_array_equal(np.sort(drawn[0]), np.arange(5))
    assert len(drawn[1]) == 20


def test_a_slice_in_one_block_is_sampled_uniformly():
    """The chance that two neighbours meet in a batch is that of any two rows."""
    sampler = sampler_of([128], 16, seed=0, run_rows=32, buffer_rows=1000)
    together = np.zeros((128, 128))
    n_steps = 4000
    for step in range(n_steps):
        rows = sampler.draw(step)[0]
        together[np.ix_(rows, rows)] += 1
    expected = n_steps * 16 * 15 / (128 * 127)
    neighbours = np.diagonal(together, 1).mean()
    assert neighbours == pytest.approx(expected, rel=0.05)


def smooth_signal(n, rng):
    """A signal as smooth along the curve as tissue domains: plateaus of 500 to 2000 rows."""
    edges = np.sort(rng.choice(n, n // 1000, replace=False))
    return rng.normal(size=n // 1000 + 1)[np.searchsorted(edges, np.arange(n))]


def design_effect(sampler, signal, batch, n_steps):
    means = [signal[sampler.draw(step)[0]].mean() for step in range(n_steps)]
    return np.var(means) / (signal.var() / batch)


def test_batches_of_a_large_slice_are_nearly_as_good_as_random_ones():
    n, batch = 400_000, 512
    rng = np.random.default_rng(0)
    signal = smooth_signal(n, rng)
    shuffled = sampler_of([n], batch, seed=0, run_rows=64, buffer_rows=32768)
    # Runs per batch: all but a few of the 512 runs of its block.
    assert np.mean([len(np.unique(shuffled.draw(step)[0] // 64)) for step in range(50)]) > 300
    # Without replacement within a block the variance of a mean cannot exceed that of random rows by much;
    # contiguous batches of the same size are hundreds of times worse.
    effect = design_effect(shuffled, signal, batch, 700)
    assert effect < 2.5, effect
    runs = [signal[at : at + batch].mean() for at in range(0, n - batch, 5 * batch)]
    assert np.var(runs) / (signal.var() / batch) > 100


def test_blocks_are_read_in_runs():
    sampler = sampler_of([50_000], 100, seed=0, run_rows=64, buffer_rows=6400)
    block = sampler.block(0, 3)
    assert len(block.rows) == 8
    for rows in block.rows:
        assert (np.diff(rows) > 0).all()
        n_breaks = np.count_nonzero(np.diff(rows) > 1)
        assert n_breaks <= len(rows) / 64 + 4


@pytest.mark.parametrize(
    "options, message",
    [
        ({"rows_per_slice": 0}, "rows per slice must be at least 1"),
        ({"run_rows": 0}, "run rows must be at least 1"),
        ({"buffer_rows": 0}, "buffer rows must be at least 1"),
        ({"portions": 0}, "portions must be at least 1"),
        ({"rank": 2, "n_ranks": 2}, "rank 2 is not one of 2"),
        ({"sizes": [4, 0]}, "slice 1 has no spots"),
    ],
)
def test_bad_sizes_are_refused(options, message):
    with pytest.raises(BadOption, match=message):
        sampler_of(**{"sizes": [10], "rows_per_slice": 2, "seed": 0, **options})


class TestTileSampler:
    offsets = np.array([0, 100, 130, 200])

    def sampler(self, **options):
        return TileSampler(tiles_of(self.offsets, 13), **{"seed": 0, **options})

    def test_one_tile_of_every_slice_and_every_tile_once_an_epoch(self):
        sampler = self.sampler()
        assert sampler.n_slices == 3
        for s, own in enumerate(sampler.tiles):
            for epoch in range(3):
                drawn = [sampler.draw(epoch * len(own) + i)[s] for i in range(len(own))]
                assert sorted(drawn, key=lambda tile: tile.start) == list(own)
                assert all(tile.slice_index == s for tile in drawn)

    def test_reshuffled_each_epoch(self):
        sampler = self.sampler()
        first, second = ([sampler.draw(e * 8 + i)[0].index for i in range(8)] for e in (0, 1))
        assert first != second

    @pytest.mark.parametrize("n_ranks", [2, 3, 20])
    def test_ranks_share_the_core(self, n_ranks):
        for step in range(10):
            whole = self.sampler().draw(step)
            shares = [self.sampler(rank=rank, n_ranks=n_ranks).draw(step) for rank in range(n_ranks)]
            for s, tile in enumerate(whole):
                rows = np.concatenate([np.arange(own[s].start, own[s].stop) for own in shares])
                np.testing.assert_array_equal(rows, np.arange(tile.start, tile.stop))

    def test_refusals(self):
        with pytest.raises(BadOption, match="rank 1 is not one of 1"):
            self.sampler(rank=1)
        with pytest.raises(BadOption, match="slice 0 has no spots"):
            TileSampler([], seed=0)
        with pytest.raises(BadOption, match="slice 0 has no spots"):
            TileSampler([tile for tile in tiles_of(self.offsets, 13) if tile.slice_index], seed=0)


@given(st.lists(st.integers(1, 500), min_size=1, max_size=3), st.integers(1, 200), st.integers(1, 40))
@settings(deadline=None, max_examples=100)
def test_spread_rows(sizes, rows_per_slice, run_rows):
    offsets = np.r_[0, np.cumsum(sizes)]
    chosen = spread_rows(offsets, rows_per_slice, seed=1, run_rows=run_rows)
    for s, rows in enumerate(chosen):
        assert (np.diff(rows) > 0).all()
        assert rows[0] >= offsets[s]
        assert rows[-1] < offsets[s + 1]
        if sizes[s] <= rows_per_slice:
            assert len(rows) == sizes[s]
        else:
            assert rows_per_slice / 2 < len(rows) <= rows_per_slice
