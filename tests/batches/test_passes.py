"""A pass reads every spot once, in order, and gives the same bits for any number of workers."""

from __future__ import annotations

import numpy as np
import pytest
from small_sources import CountingCsr, random_csr, tiles_of

from atlasnmf.batches.passes import Passes
from atlasnmf.batches.sources import SpotSource

OFFSETS = np.array([0, 70, 120])


@pytest.fixture
def source() -> SpotSource:
    counts = CountingCsr(random_csr(120, 11, np.random.default_rng(0), np.uint16))
    return SpotSource(OFFSETS, counts, np.ones(120, dtype=np.float32))


def passes(source: SpotSource, tile_spots: int, n_workers: int = 1) -> Passes:
    return Passes(source, tuple(tiles_of(OFFSETS, tile_spots)), n_workers=n_workers)


def column_sums(batch):
    return np.asarray(batch.counts.to_scipy().sum(axis=0), dtype=np.float64).ravel()


def add_totals(batch, own):
    totals = np.asarray(batch.counts.to_scipy().sum(axis=1), dtype=np.float64)
    return float(own.sum()), own + totals + batch.slice_index


@pytest.mark.parametrize("n_workers", [1, 3])
@pytest.mark.parametrize("tile_spots", [7, 64, 1000])
def test_every_spot_is_read_once(source, tile_spots, n_workers):
    unit = next(passes(source, tile_spots, n_workers).starting_at(3))
    expected = np.asarray(source.counts._rows.to_scipy().sum(axis=0)).ravel()
    np.testing.assert_allclose(unit.reduce(column_sums), expected)
    np.testing.assert_array_equal(np.sort(np.concatenate(source.counts.reads)), np.arange(120))


@pytest.mark.parametrize("n_workers", [1, 3])
def test_the_models_own_rows_are_replaced_by_tile(source, n_workers):
    rows = np.ones((120, 1))
    unit = passes(source, 16, n_workers).whole()
    assert unit.reduce(add_totals, rows=rows) == 120.0
    totals = np.asarray(source.counts._rows.to_scipy().sum(axis=1))
    slices = np.repeat([0, 1], np.diff(OFFSETS))[:, None]
    np.testing.assert_allclose(rows, 1 + totals + slices)


def exchanged(batch, left, right, weight):
    return int(weight.sum()), (right, left + weight)


def test_several_arrays_are_replaced_together(source):
    left, right, weight = np.zeros(120), np.ones((120, 2)), np.arange(120)
    unit = passes(source, 16).whole()
    assert unit.reduce(lambda b, x, y, w: (0, (x + 1, y * 2)), rows=(left, right), beside=(weight,)) == 0
    np.testing.assert_array_equal(left, 1)
    np.testing.assert_array_equal(right, 2)
    other = np.full(120, 5.0)
    assert unit.reduce(exchanged, rows=(left, other), beside=(weight,)) == weight.sum()
    np.testing.assert_array_equal(left, 5.0)
    np.testing.assert_array_equal(other, 1 + weight)


def halved(own, beside):
    return own.sum(axis=0) + beside.sum(axis=0), own / 2


def test_a_sweep_reads_only_what_the_model_keeps(source):
    rows, beside = np.full((120, 2), 4.0), np.ones((120, 2))
    part = passes(source, 16).whole().sweep(halved, rows, beside)
    np.testing.assert_array_equal(part, [600.0, 600.0])
    np.testing.assert_array_equal(rows, 2.0)
    np.testing.assert_array_equal(beside, 1.0)
    assert source.counts.reads == []


def test_workers_change_no_bit(source):
    rng = np.random.default_rng(1)
    rows = rng.random((120, 3)).astype(np.float32)
    parts = [passes(source, 9, n).whole().reduce(rounded, rows=rows.copy()) for n in (1, 2, 4)]
    np.testing.assert_array_equal(parts[0], parts[1])
    np.testing.assert_array_equal(parts[0], parts[2])


def test_a_pass_here_asks_nobody_else_and_reads_what_is_held(source):
    stored = SpotSource(OFFSETS, CountingCsr(source.counts._rows), source.totals)
    nobody = object()  # whatever is asked of this client is an error
    unit = Passes(stored, tuple(tiles_of(OFFSETS, 16)), client=nobody, held=source).whole()
    with pytest.raises(AttributeError):
        unit.reduce(column_sums)
    for here in (unit.here(), unit.only(0).here(), unit.sampled(40).here()):
        assert here.here() is here
        read = np.concatenate([np.arange(tile.start, tile.stop) for tile in here.tiles])
        expected = np.asarray(source.counts._rows.to_scipy()[read].sum(axis=0)).ravel()
        np.testing.assert_allclose(here.reduce(column_sums), expected)
    assert stored.counts.reads == []
    assert source.counts.reads


def rounded(batch, own):
    product = batch.counts.to_scipy().T.astype(np.float32) @ own
    return product.astype(np.float64), own
