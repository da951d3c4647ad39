"""Neighbourhood sums A~^h X in gene space, tile by tile with exact halos, onto disk."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from atlasnmf.events import SILENT, Events
from atlasnmf.features.neighbourhood import RandomRows, Weighting, read_around, read_neighbourhood
from atlasnmf.features.source import subtiles
from atlasnmf.kernels.cpu.smooth import smooth_rows
from atlasnmf.reduce import map_tiles
from atlasnmf.schema import Csr

if TYPE_CHECKING:
    from distributed import Client

    from atlasnmf.store.parts import Part, PartedCsr

__all__ = ["smooth_tile", "write_smoothed"]

#: Core rows smoothed at once; their sums are several times as many values as their counts.
_TILE_ROWS = 4096


def smooth_tile(
    log_counts: RandomRows,
    graph: RandomRows,
    start: int,
    stop: int,
    hops: int,
    *,
    degrees: np.ndarray | None = None,
    weighting: Weighting = "symmetric",
) -> list[Csr]:
    """Sum the rows of a run of spots over their neighbours.

    Parameters
    ----------
    log_counts
        X, rows in working order.
    graph
        Neighbours of every spot, itself included.
    start, stop
        The run of spots.
    hops
        How often, at least once.
    degrees, weighting
        See :func:`~atlasnmf.features.neighbourhood.edge_weights`.

    Returns
    -------
    smoothed
        A~^h X of the run for h = 1 .. hops, float32 values.
    """
    around = read_neighbourhood(graph, start, stop, hops, weighting=weighting, degrees=degrees)
    rows = read_around(log_counts, around)
    smoothed = []
    for n_rows in around.rings[-2::-1]:
        parts = smooth_rows(*around.graph_of(n_rows), rows.indptr, rows.indices, rows.data, rows.n_cols)
        rows = Csr(*parts, rows.n_cols)
        smoothed.append(rows.rows(0, around.n_core))
    return smoothed


def write_smoothed(
    log_counts: RandomRows,
    graph: RandomRows,
    targets: Sequence[PartedCsr],
    *,
    degrees: np.ndarray | None = None,
    weighting: Weighting = "symmetric",
    client: Client | None = None,
    n_workers: int = 1,
    events: Events = SILENT,
    stage: str | None = None,
) -> None:
    """Write A~^h X for h = 1 .. hops.

    Parameters
    ----------
    log_counts, graph, degrees, weighting
        As in :func:`smooth_tile`.
    targets
        Where each power goes, one a hop, of the same parts; parts that are there are not made again.
    client, n_workers, events, stage
        How parts are run (see :func:`~atlasnmf.reduce.map_tiles`).

    Notes
    -----
    O(nnz of the result) memory a part; a worker holds one part of every power.
    """
    missing = {part.index: part for target in targets for part in target.missing()}
    task = partial(
        _write_part, log_counts=log_counts, graph=graph, targets=targets, degrees=degrees, weighting=weighting
    )
    parts = [missing[index] for index in sorted(missing)]
    map_tiles(task, parts, client=client, n_workers=n_workers, events=events, stage=stage)


def _write_part(
    part: Part,
    *,
    log_counts: RandomRows,
    graph: RandomRows,
    targets: Sequence[PartedCsr],
    degrees: np.ndarray | None,
    weighting: Weighting,
) -> None:
    tiles = [
        smooth_tile(log_counts, graph, start, stop, len(targets), degrees=degrees, weighting=weighting)
        for start, stop in subtiles(part, _TILE_ROWS)
    ]
    for hop, target in enumerate(targets):
        if not target.has_part(part.index):
            target.write_part(part.index, Csr.stack([tile[hop] for tile in tiles]))
