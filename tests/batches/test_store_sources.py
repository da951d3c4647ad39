"""The loader over matrices of a real working copy."""

from __future__ import annotations

import numpy as np
import pytest
from small_sources import assert_same_units, small_source, tiles_of
from test_loader import units_of

from atlasnmf.batches import BlockSampler, SpotSource, TileSampler
from atlasnmf.store.parts import PartedCsr, PartedDense, plan_parts


@pytest.fixture
def sources(tmp_path):
    held = small_source((400, 30, 700), n_genes=50)
    parts = plan_parts(held.offsets, 128)

    def stored(name, rows, **options):
        matrix = PartedCsr.create(tmp_path / name, parts, n_cols=rows.n_cols, **options)
        for part in parts:
            matrix.write_part(part.index, rows.rows(part.start, part.stop))
        return matrix

    scores = PartedDense.create(tmp_path / "scores", parts, row_shape=held.scores.row_shape)
    for part in parts:
        scores.write_part(part.index, held.scores.rows[part.start : part.stop])
    disk = SpotSource(
        held.offsets,
        stored("counts", held.counts.rows),
        held.totals,
        scores,
        tuple(stored(f"hop{i}", hop.rows, dtype=np.float32) for i, hop in enumerate(held.smoothed)),
        stored("graph", held.graph.rows),
        held.degrees,
    )
    return held, disk


@pytest.mark.parametrize("residency", ["host", "disk"])
def test_blocks(sources, residency):
    held, disk = sources
    sampler = BlockSampler(held.offsets, 32, seed=0, run_rows=16, buffer_rows=256)
    expected = units_of(held, sampler, 60, residency="host")
    assert_same_units(units_of(disk, sampler, 60, residency=residency), expected)
    assert disk.row_bytes == pytest.approx(held.row_bytes)


@pytest.mark.parametrize("residency", ["host", "disk"])
def test_tiles(sources, residency):
    held, disk = sources
    sampler = TileSampler(tiles_of(held.offsets, 100), seed=0)
    expected = units_of(held, sampler, 12, residency="host", hops=2)
    got = units_of(disk, sampler, 12, residency=residency, hops=2)
    assert_same_units(got, expected)
