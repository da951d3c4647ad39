"""Counts stored by columns, turned to rows out of core."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from atlasnmf.schema import Csr
from atlasnmf.store.counts import CountSource, CscCounts
from atlasnmf.store.landing import Part
from atlasnmf.store.spill import Spill

if TYPE_CHECKING:
    from atlasnmf.store.parts import PartedCsr
    from atlasnmf.store.tables import TableHandle
    from atlasnmf.store.working import WorkingCopy

__all__ = ["readable_counts", "row_blocks_of_columns"]

#: Bytes of a stored value on its way: row, column, value, and a copy of each.
_BYTES_A_VALUE = 40


def row_blocks_of_columns(
    read_columns: Callable[[int, int], Csr],
    indptr: np.ndarray,
    n_rows: int,
    scratch: Path,
    budget_bytes: int,
) -> Iterator[Csr]:
    """Yield the rows of a matrix stored by columns, block by block in order.

    Parameters
    ----------
    read_columns
        Reads columns ``start`` to ``stop`` as the rows of the transposed matrix.
    indptr
        Column starts, shape (n_cols + 1,).
    n_rows
        Number of rows.
    scratch
        Directory for the records that do not fit into memory (12 bytes a stored value).
    budget_bytes
        Memory to use.
    """
    import scipy.sparse

    n_cols, nnz = len(indptr) - 1, int(indptr[-1])
    n_blocks = max(-(-nnz * _BYTES_A_VALUE * 2 // budget_bytes), 1)
    block_rows = max(-(-n_rows // n_blocks), 1)
    n_blocks = max(-(-n_rows // block_rows), 1)
    with Spill(scratch, n_blocks, budget_bytes // 4) as spill:
        for start, stop in _column_runs(indptr, max(budget_bytes // (4 * _BYTES_A_VALUE), 1)):
            columns = read_columns(start, stop)
            rows = columns.indices.astype(np.int64)
            column = np.repeat(np.arange(start, stop, dtype=np.int32), np.diff(columns.indptr))
            block = rows // block_rows
            order = np.argsort(block, kind="stable")
            edges = np.searchsorted(block[order], np.arange(n_blocks + 1))
            for i in np.flatnonzero(np.diff(edges)).tolist():
                chosen = order[edges[i] : edges[i + 1]]
                local = (rows[chosen] - i * block_rows).astype(np.int32)
                spill.add(i, local, column[chosen], columns.data[chosen])
        for i in range(n_blocks):
            height = min(block_rows, n_rows - i * block_rows)
            records = spill.take(i) or (np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float32))
            local, column, values = records
            # scipy places values row by row in the order given, so the columns of a row ascend
            matrix = scipy.sparse.coo_matrix((values, (local, column)), shape=(height, n_cols)).tocsr()
            yield Csr(matrix.indptr.astype(np.int64), matrix.indices, matrix.data, n_cols)


def _column_runs(indptr: np.ndarray, most_values: int) -> Iterator[tuple[int, int]]:
    start, n_cols = 0, len(indptr) - 1
    while start < n_cols:
        stop = int(np.searchsorted(indptr, indptr[start] + most_values, side="right")) - 1
        stop = min(max(stop, start + 1), n_cols)
        yield start, stop
        start = stop


def readable_counts(
    table: TableHandle, working: WorkingCopy, *, budget_bytes: int = 256 * 10**6
) -> CountSource:
    """Return the counts of a table in a form that reads by rows, in the user's order.

    CSR and dense counts are returned as they are. CSC counts are turned to rows once, into ``rows-<table>``
    of the working copy; that takes one pass, and about the disk the counts take themselves.
    """
    counts = table.counts
    if not isinstance(counts, CscCounts):
        return counts
    columns = counts.by_column
    name = f"rows-{table.name}"
    step = max(-(-columns.nnz * _BYTES_A_VALUE * 2 // budget_bytes), 1)
    block_rows = max(-(-counts.n_rows // step), 1)
    starts = range(0, counts.n_rows, block_rows)
    parts = [Part(i, 0, at, min(at + block_rows, counts.n_rows)) for i, at in enumerate(starts)]
    if working.has(name):
        done = working.csr(name)
        if done.complete and done.n_rows == counts.n_rows:
            return _RowsOfColumns(done, counts)
    working.remove(name)
    working.require_disk(16 * columns.nnz, f"turning {counts.where} from columns to rows")
    rows = working.create_csr(name, parts, n_cols=counts.n_cols, dtype=counts.dtype)
    blocks = row_blocks_of_columns(columns.read, columns.indptr, counts.n_rows, working.path, budget_bytes)
    for part, block in zip(parts, blocks, strict=True):
        rows.write_part(part.index, block)
    return _RowsOfColumns(rows, counts)


class _RowsOfColumns(CountSource):
    """Rows made from a matrix stored by columns."""

    def __init__(self, rows: PartedCsr, counts: CscCounts) -> None:
        shape = counts.n_rows, counts.n_cols
        super().__init__(counts.where, shape, counts.dtype, counts.nnz, counts.nbytes)
        self._rows = rows

    def read(self, start: int, stop: int) -> Csr:
        """Return rows ``start`` to ``stop``."""
        return self._rows.read(start, stop)
