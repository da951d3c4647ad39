"""Centres of the cells of a segmentation raster, whatever the size of the raster."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np

__all__ = ["raster_centres"]

#: Pixels looked at together, at about 50 bytes each.
_RUN_PIXELS = 1 << 20


def raster_centres(raster: Any, chunk: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids of a raster and the centre of each, chunk by chunk.

    Parameters
    ----------
    raster
        Integers of shape ([n_z,] n_y, n_x), 0 for background: a numpy, zarr or Dask array.
    chunk
        Shape of the blocks it is read in.

    Returns
    -------
    ids
        The ids above background, ascending, the raster's dtype, shape (n,).
    centres
        Mean place of their pixels, float64, shape (n, 2 or 3), columns x, y and z, in pixels: the middle of
        the first pixel is at 0.5, as in spatialdata.

    Notes
    -----
    Holds a chunk, 50 bytes a pixel for at most a million pixels, and 40 bytes for each cell of each run of
    pixels. Sums are of whole numbers, so the centres have the same bits however the raster is cut.

    Examples
    --------
    >>> ids, centres = raster_centres(np.array([[0, 7, 7], [3, 0, 0]]), (1, 2))
    >>> ids.tolist(), centres.tolist()
    ([3, 7], [[0.5, 1.5], [2.0, 0.5]])
    """
    parts = [part for origin, block in _blocks(raster, chunk) for part in _sums(block, origin)]
    if not parts:
        return np.empty(0, dtype=raster.dtype), np.empty((0, raster.ndim))
    found, sizes, sums = (np.concatenate(column) for column in zip(*parts, strict=True))
    ids, place = np.unique(found, return_inverse=True)
    n_pixels = np.bincount(place, weights=sizes)
    totals = np.stack([np.bincount(place, weights=axis) for axis in sums.T], axis=1)
    return ids, (totals / n_pixels[:, None] + 0.5)[:, ::-1]


def _blocks(raster: Any, chunk: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """Yield blocks of a raster with the place of their first pixel."""
    starts = [range(0, n, step) for n, step in zip(raster.shape, chunk, strict=True)]
    for origin in product(*starts):
        where = tuple(slice(start, start + step) for start, step in zip(origin, chunk, strict=True))
        yield origin, np.asarray(raster[where])


def _sums(block: np.ndarray, origin: tuple[int, ...]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield the ids of runs of a block, their pixels, and the sums of the pixels' places."""
    import pandas as pd

    flat = block.reshape(-1)
    for start in range(0, len(flat), _RUN_PIXELS):
        inside = start + np.flatnonzero(flat[start : start + _RUN_PIXELS])
        if not len(inside):
            continue
        codes, ids = pd.factorize(flat[inside])
        places = np.unravel_index(inside, block.shape)
        sizes = np.bincount(codes)
        sums = [
            np.bincount(codes, weights=place) + first * sizes
            for place, first in zip(places, origin, strict=True)
        ]
        yield ids, sizes, np.stack(sums, axis=1)
