"""What a pass over spots needs: something that reads runs of rows, runs to read, rows sorted by slice."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Protocol

import numpy as np

from atlasnmf.kernels.cpu.rows import take_rows
from atlasnmf.schema import Csr
from atlasnmf.tiles.parts import TILE_ROWS, Part

__all__ = ["TILE_ROWS", "RowSource", "read_tile", "row_tiles", "rows_by_slice", "subtiles"]


class RowSource(Protocol):
    """Sparse rows on disk or in memory: a table of the store, or a matrix of the working copy."""

    def read(self, start: int, stop: int) -> Csr:
        """Return a run of rows, columns ascending within a row."""
        ...


def read_tile(counts: RowSource, tile: range) -> Csr:
    """Return the rows of a run."""
    return counts.read(tile.start, tile.stop)


def row_tiles(n_rows: int, tile_rows: int = TILE_ROWS) -> list[range]:
    """Cut rows into runs.

    Examples
    --------
    >>> row_tiles(5, 2)
    [range(0, 2), range(2, 4), range(4, 5)]
    """
    return [range(start, min(start + tile_rows, n_rows)) for start in range(0, n_rows, tile_rows)]


def rows_by_slice(rows: Csr, codes: np.ndarray) -> Iterator[tuple[int, Csr]]:
    """Split rows by slice.

    Parameters
    ----------
    rows
        Any rows.
    codes
        Slice of each row, -1 to leave it out, shape (n_rows,).

    Yields
    ------
    slice_index, rows
        Slices in ascending order; a run of one slice is not copied.
    """
    if len(codes) and codes[0] >= 0 and np.all(codes == codes[0]):
        yield int(codes[0]), rows
        return
    for code in np.unique(codes[codes >= 0]):
        chosen = np.flatnonzero(codes == code)
        yield int(code), Csr(*take_rows(rows.indptr, rows.indices, rows.data, chosen), rows.n_cols)


def subtiles(part: Part, tile_rows: int = TILE_ROWS) -> list[tuple[int, int]]:
    """Cut a part into near-equal runs of at most ``tile_rows`` rows."""
    n_tiles = -(-part.n_rows // tile_rows)
    edges = [part.start + part.n_rows * i // n_tiles for i in range(n_tiles + 1)]
    return list(pairwise(edges))
