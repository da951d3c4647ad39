"""Where rows come from: the matrices of a working copy, or the same rows held in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from atlasnmf.kernels.cpu.rows import take_rows
from atlasnmf.schema import Csr, SliceBatch

__all__ = ["CsrRows", "DenseRows", "HeldCsr", "HeldDense", "SpotSource", "Spots", "hold"]

#: Rows copied at a time when a matrix is brought into memory.
_COPY_ROWS = 4096


class CsrRows(Protocol):
    """Sparse rows that can be read: :class:`atlasnmf.store.parts.PartedCsr`, or :class:`HeldCsr`."""

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        ...

    @property
    def n_cols(self) -> int:
        """Number of columns."""
        ...

    @property
    def nnz(self) -> int:
        """Stored values."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """Type of the values."""
        ...

    def read(self, start: int, stop: int) -> Csr:
        """Return a run of rows."""
        ...

    def read_rows(self, rows: np.ndarray) -> Csr:
        """Return any rows in any order."""
        ...


class DenseRows(Protocol):
    """Dense rows that can be read: :class:`atlasnmf.store.parts.PartedDense`, or :class:`HeldDense`."""

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        ...

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """Type of the values."""
        ...

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return a run of rows."""
        ...

    def read_rows(self, rows: np.ndarray) -> np.ndarray:
        """Return any rows in any order."""
        ...


@dataclass(frozen=True)
class HeldCsr:
    """Sparse rows in memory."""

    rows: Csr

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.rows.n_rows

    @property
    def n_cols(self) -> int:
        """Number of columns."""
        return self.rows.n_cols

    @property
    def nnz(self) -> int:
        """Stored values."""
        return self.rows.nnz

    @property
    def dtype(self) -> np.dtype:
        """Type of the values."""
        return self.rows.data.dtype

    def read(self, start: int, stop: int) -> Csr:
        """Return a run of rows; ``indices`` and ``data`` are views."""
        return self.rows.rows(start, stop)

    def read_rows(self, rows: np.ndarray) -> Csr:
        """Return copies of any rows in any order."""
        return _take(self.rows, rows)


@dataclass(frozen=True)
class HeldDense:
    """Dense rows in memory."""

    rows: np.ndarray

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.rows)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return self.rows.shape[1:]

    @property
    def dtype(self) -> np.dtype:
        """Type of the values."""
        return self.rows.dtype

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return a run of rows, a view."""
        return self.rows[start:stop]

    def read_rows(self, rows: np.ndarray) -> np.ndarray:
        """Return copies of any rows in any order."""
        return self.rows[rows]


@dataclass(frozen=True)
class Spots:
    """What is known of some spots, before they become a batch.

    Parameters
    ----------
    rows
        Working rows, int64, shape (n,).
    counts, scores, smoothed
        As in :class:`atlasnmf.schema.SliceBatch`.
    """

    rows: np.ndarray
    counts: Csr
    scores: np.ndarray | None
    smoothed: tuple[Csr, ...]

    def cut(self, start: int, stop: int) -> Spots:
        """Copy a run of the spots, so that the rest may be forgotten."""
        return Spots(
            self.rows[start:stop].copy(),
            _cut(self.counts, start, stop),
            None if self.scores is None else self.scores[start:stop].copy(),
            tuple(_cut(hop, start, stop) for hop in self.smoothed),
        )

    @staticmethod
    def stack(pieces: Sequence[Spots]) -> Spots:
        """Put pieces one below the other."""
        if len(pieces) == 1:
            return pieces[0]
        scores = [piece.scores for piece in pieces if piece.scores is not None]
        return Spots(
            np.concatenate([piece.rows for piece in pieces]),
            Csr.stack([piece.counts for piece in pieces]),
            np.concatenate(scores) if scores else None,
            tuple(Csr.stack(hop) for hop in zip(*(piece.smoothed for piece in pieces), strict=True)),
        )


@dataclass(frozen=True)
class SpotSource:
    """The rows a loader may read, in working order.

    Parameters
    ----------
    offsets
        First row of every slice and the total, int64, shape (S + 1,).
    counts
        Model-gene counts, n rows, G columns.
    totals
        Counts per spot over all kept genes, float32, shape (n,).
    scores
        Rows of shape (hops + 1, P), float32; or None.
    smoothed
        A~^h X for h = 1, 2, .. in gene space, n rows, G columns each.
    graph
        Neighbours of every spot as working rows, ascending, the spot itself included; or None.
    degrees
        Neighbours of every spot, itself included, shape (n,); needed with ``graph``.
    """

    offsets: np.ndarray
    counts: CsrRows
    totals: np.ndarray
    scores: DenseRows | None = None
    smoothed: tuple[CsrRows, ...] = ()
    graph: CsrRows | None = None
    degrees: np.ndarray | None = None

    @property
    def n_spots(self) -> int:
        """Spots of all slices."""
        return int(self.offsets[-1])

    def read(self, start: int, stop: int) -> Spots:
        """Read a run of spots."""
        return Spots(
            np.arange(start, stop),
            self.counts.read(start, stop),
            None if self.scores is None else self.scores.read(start, stop),
            tuple(hop.read(start, stop) for hop in self.smoothed),
        )

    def read_rows(self, rows: np.ndarray) -> Spots:
        """Read any spots in any order."""
        return Spots(
            rows,
            self.counts.read_rows(rows),
            None if self.scores is None else self.scores.read_rows(rows),
            tuple(hop.read_rows(rows) for hop in self.smoothed),
        )

    def batch(
        self, slice_index: int, spots: Spots, rings: tuple[int, ...] | None = None, graph: Csr | None = None
    ) -> SliceBatch:
        """Make a batch of spots that were read."""
        return SliceBatch(
            slice_index=slice_index,
            rows=spots.rows,
            rings=(len(spots.rows),) if rings is None else rings,
            counts=spots.counts,
            totals=self.totals[spots.rows],
            scores=spots.scores,
            smoothed=spots.smoothed,
            graph=graph,
        )

    def held(self) -> SpotSource:
        """Bring every row into memory; a matrix that is there already is kept as it is."""
        return SpotSource(
            self.offsets,
            hold(self.counts),
            self.totals,
            None if self.scores is None else _hold_dense(self.scores),
            tuple(hold(hop) for hop in self.smoothed),
            None if self.graph is None else hold(self.graph),
            self.degrees,
        )

    @property
    def row_bytes(self) -> float:
        """Mean bytes of one spot in a batch or in memory, its neighbours apart."""
        n_bytes = sum(_row_bytes(matrix) for matrix in (self.counts, *self.smoothed)) + 8 + 4
        if self.scores is not None:
            n_bytes += int(np.prod(self.scores.row_shape)) * self.scores.dtype.itemsize
        return n_bytes

    @property
    def degree(self) -> float:
        """Mean neighbours of a spot; 1 without a graph."""
        return 1.0 if self.graph is None else self.graph.nnz / max(self.n_spots, 1)

    @property
    def graph_row_bytes(self) -> float:
        """Mean bytes of the neighbours of one spot."""
        return 0.0 if self.graph is None else _row_bytes(self.graph)


def hold(matrix: CsrRows) -> HeldCsr:
    """Bring sparse rows into memory, once over and never twice at the same time.

    Parameters
    ----------
    matrix
        Anything with ``read``.

    Returns
    -------
    HeldCsr
        The same rows; values and columns of the types they are stored in.
    """
    if isinstance(matrix, HeldCsr):
        return matrix
    kinds = matrix.read(0, 0)
    nnz = matrix.nnz
    indptr = np.zeros(matrix.n_rows + 1, dtype=np.int64)
    indices, data = np.empty(nnz, dtype=kinds.indices.dtype), np.empty(nnz, dtype=matrix.dtype)
    at = 0
    for start in range(0, matrix.n_rows, _COPY_ROWS):
        stop = min(start + _COPY_ROWS, matrix.n_rows)
        run = matrix.read(start, stop)
        indptr[start + 1 : stop + 1] = run.indptr[1:] + at
        indices[at : at + run.nnz], data[at : at + run.nnz] = run.indices, run.data
        at += run.nnz
    return HeldCsr(Csr(indptr, indices, data, matrix.n_cols))


def _hold_dense(matrix: DenseRows) -> HeldDense:
    if isinstance(matrix, HeldDense):
        return matrix
    rows = np.empty((matrix.n_rows, *matrix.row_shape), dtype=matrix.dtype)
    for start in range(0, matrix.n_rows, _COPY_ROWS):
        stop = min(start + _COPY_ROWS, matrix.n_rows)
        rows[start:stop] = matrix.read(start, stop)
    return HeldDense(rows)


def _cut(rows: Csr, start: int, stop: int) -> Csr:
    run = rows.rows(start, stop)
    return Csr(run.indptr, run.indices.copy(), run.data.copy(), run.n_cols)


def _take(rows: Csr, positions: np.ndarray) -> Csr:
    return Csr(*take_rows(rows.indptr, rows.indices, rows.data, positions), rows.n_cols)


def _row_bytes(matrix: CsrRows) -> float:
    column_bytes = 2 if matrix.n_cols <= 2**16 else 4
    return matrix.nnz / max(matrix.n_rows, 1) * (matrix.dtype.itemsize + column_bytes) + 8
