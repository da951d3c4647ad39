"""Read scattered rows through few long reads."""

from __future__ import annotations

from typing import Protocol, TypeVar, cast

import numpy as np

from atlasnmf.kernels.cpu.rows import take_rows
from atlasnmf.schema import Csr

__all__ = ["RowSource", "coalesce", "read_rows"]

Rows = TypeVar("Rows", Csr, np.ndarray, covariant=True)

#: Unwanted rows read rather than beginning another read: a storage chunk.
_GAP = 256


class RowSource(Protocol[Rows]):
    """Anything that reads runs of rows."""

    def read(self, start: int, stop: int) -> Rows:
        """Return rows ``start`` to ``stop``."""
        ...


def coalesce(rows: np.ndarray, gap: int = _GAP) -> list[tuple[int, int]]:
    """Cover ascending rows with runs.

    Parameters
    ----------
    rows
        Ascending integers, repeats allowed, shape (n,).
    gap
        Most unwanted rows between two wanted ones of the same run.

    Returns
    -------
    runs
        Pairs (start, stop), ascending, apart by more than ``gap``.

    Examples
    --------
    >>> coalesce(np.array([1, 2, 5, 100]), gap=2), coalesce(np.array([1, 2, 5, 100]), gap=1)
    ([(1, 6), (100, 101)], [(1, 3), (5, 6), (100, 101)])
    """
    if len(rows) == 0:
        return []
    wanted = np.asarray(rows, dtype=np.int64)
    last = np.append(np.flatnonzero(np.diff(wanted) > gap + 1), len(wanted) - 1)
    first = np.append(0, last[:-1] + 1)
    return list(zip(wanted[first].tolist(), (wanted[last] + 1).tolist(), strict=True))


def read_rows(source: RowSource[Rows], rows: np.ndarray, gap: int = _GAP) -> Rows:
    """Read rows in any order, repeats allowed, through coalesced runs.

    Parameters
    ----------
    source
        Anything with ``read(start, stop)`` returning :class:`~atlasnmf.schema.Csr` or an array.
    rows
        Row numbers, integer, shape (n,): the rows of a tile with its halo, say.
    gap
        See :func:`coalesce`.

    Returns
    -------
    rows
        What the source returns, n rows in the order asked for.

    Notes
    -----
    Holds the wanted rows twice at most, and one run.
    """
    wanted, places = np.unique(np.asarray(rows, dtype=np.int64), return_inverse=True)
    pieces = []
    for start, stop in coalesce(wanted, gap):
        inside = wanted[np.searchsorted(wanted, start) : np.searchsorted(wanted, stop)] - start
        pieces.append(_take(source.read(start, stop), inside))
    if not pieces:
        return _take(source.read(0, 0), wanted)
    return _take(_stack(pieces), places)


def _take(piece: Rows, rows: np.ndarray) -> Rows:
    n_rows = piece.n_rows if isinstance(piece, Csr) else len(piece)
    if len(rows) == n_rows and np.array_equal(rows, np.arange(n_rows)):
        return piece
    if isinstance(piece, Csr):
        return cast(Rows, Csr(*take_rows(piece.indptr, piece.indices, piece.data, rows), piece.n_cols))
    return cast(Rows, piece[rows])


def _stack(pieces: list[Rows]) -> Rows:
    if len(pieces) == 1:
        return pieces[0]
    if isinstance(pieces[0], Csr):
        return cast(Rows, Csr.stack(cast(list[Csr], pieces)))
    return cast(Rows, np.concatenate(cast(list[np.ndarray], pieces)))
