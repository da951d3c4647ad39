"""Tiles with an exact halo: the rows of every ring, and their graph by position in the batch."""

from __future__ import annotations

import numpy as np

from atlasnmf.batches.sources import SpotSource
from atlasnmf.features.neighbourhood import neighbourhood_of
from atlasnmf.schema import SliceBatch

__all__ = ["halo_batch", "spots_with_halo"]


def halo_batch(source: SpotSource, slice_index: int, start: int, stop: int, hops: int) -> SliceBatch:
    """Read a run of spots and all spots within ``hops`` edges of it.

    Parameters
    ----------
    source
        Where the rows are; its graph and degrees are needed when ``hops`` > 0.
    slice_index
        The slice of the run.
    start, stop
        Core rows, within the slice.
    hops
        Rings around the core.

    Returns
    -------
    SliceBatch
        Core first, then ring by ring, rows ascending within a ring. The graph has one row for every spot
        but the outermost ring's, so ``hops`` rounds of message passing give exact values on the core; its
        weights are 1 / sqrt(d_i d_j) with the degrees of the whole slice (A~ of INSPIRE), float32. The
        neighbours of a spot keep the order of the atlas, so sums have the same bits in every tiling;
        positions within a row therefore do not ascend.

    Notes
    -----
    Only the neighbours of the tile are read, see :func:`~atlasnmf.features.neighbourhood.neighbourhood_of`.
    """
    if hops == 0:
        return source.batch(slice_index, source.read(start, stop))
    return spots_with_halo(source, slice_index, np.arange(start, stop), hops)


def spots_with_halo(source: SpotSource, slice_index: int, core: np.ndarray, hops: int) -> SliceBatch:
    """Read spots of one slice and all spots within ``hops`` edges of them, as :func:`halo_batch` does.

    Parameters
    ----------
    source, slice_index, hops
        See :func:`halo_batch`; at least one hop.
    core
        Working rows of the spots, ascending, none twice.
    """
    if source.graph is None or source.degrees is None:
        raise ValueError("tiles with a halo need the graph and the degrees")
    around = neighbourhood_of(source.graph, core, hops, weighting="symmetric", degrees=source.degrees)
    return source.batch(slice_index, source.read_rows(around.rows), around.rings, around.graph)
