"""Counts as the user stored them, read by runs of rows: CSR, CSC or dense, on disk or in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from atlasnmf.errors import BadInput
from atlasnmf.schema import Csr
from atlasnmf.store.arrays import SequentialArray, open_group

__all__ = [
    "CountSource",
    "CscCounts",
    "CsrCounts",
    "DenseCounts",
    "MemoryCounts",
    "dense_rows",
    "stored_counts",
]


class CountSource(ABC):
    """A matrix of spots by genes in the user's row order.

    Parameters
    ----------
    where
        How messages name it, such as ``X of table 'slice_1'``.
    shape
        Rows and columns.
    dtype
        Type of the stored values.
    nnz
        Stored values; all cells of a dense matrix, of which only reading tells how many are zero.
    nbytes
        Bytes the matrix takes decoded.
    """

    #: ``csr``, ``csc`` or ``dense``.
    layout = "csr"

    def __init__(self, where: str, shape: tuple[int, int], dtype: Any, nnz: int, nbytes: int) -> None:
        self.where = where
        self.n_rows, self.n_cols = int(shape[0]), int(shape[1])
        self.dtype = np.dtype(dtype)
        self.nnz, self.nbytes = nnz, nbytes

    @abstractmethod
    def read(self, start: int, stop: int) -> Csr:
        """Return rows ``start`` to ``stop`` in the user's order, columns ascending."""


class CsrCounts(CountSource):
    """Compressed sparse rows in a zarr group; row starts are loaded at the first read (8 bytes a row).

    Compressed sparse columns are the same three arrays, of the ``transposed`` matrix.
    """

    def __init__(self, path: Path, where: str, *, transposed: bool = False) -> None:
        group = open_group(path)
        shape = tuple(group.attrs["shape"])[:: -1 if transposed else 1]
        dtype, nnz = group["data"].dtype, int(group["data"].shape[0])
        nbytes = nnz * (dtype.itemsize + group["indices"].dtype.itemsize) + 8 * (int(shape[0]) + 1)
        super().__init__(where, shape, dtype, nnz, nbytes)
        self.path = path
        self._indices = SequentialArray(path / "indices")
        self._data = SequentialArray(path / "data")

    @cached_property
    def indptr(self) -> np.ndarray:
        """Row starts, int64, shape (n_rows + 1,)."""
        starts = SequentialArray(self.path / "indptr").array[:].astype(np.int64)
        if len(starts) != self.n_rows + 1 or starts[0] != 0 or starts[-1] != self.nnz:
            raise BadInput(f"{self.where} is damaged: its indptr does not match its shape and values")
        return starts

    def read(self, start: int, stop: int) -> Csr:
        """Return rows ``start`` to ``stop``."""
        lo, hi = int(self.indptr[start]), int(self.indptr[stop])
        indptr = self.indptr[start : stop + 1] - lo
        return in_order(
            Csr(indptr, self._indices.read(lo, hi), self._data.read(lo, hi), self.n_cols), self.where
        )


class DenseCounts(CountSource):
    """A dense zarr array; rows are turned sparse as they are read."""

    layout = "dense"

    def __init__(self, path: Path, where: str) -> None:
        self._array = SequentialArray(path)
        array = self._array.array
        n_cells = int(array.shape[0]) * int(array.shape[1])
        super().__init__(where, array.shape, array.dtype, n_cells, n_cells * array.dtype.itemsize)
        self.path = path

    def read(self, start: int, stop: int) -> Csr:
        """Return rows ``start`` to ``stop``."""
        return dense_rows(self._array.read(start, stop))


class CscCounts(CountSource):
    """Compressed sparse columns in a zarr group; readable by columns only."""

    layout = "csc"

    def __init__(self, path: Path, where: str) -> None:
        columns = self.by_column = CsrCounts(path, where, transposed=True)
        super().__init__(where, (columns.n_cols, columns.n_rows), columns.dtype, columns.nnz, columns.nbytes)
        self.path = path

    def read(self, start: int, stop: int) -> Csr:
        """Refuse: a row touches every chunk."""
        raise BadInput(
            f"{self.where} is stored by columns (CSC) and cannot be read by rows; "
            "rewrite it as CSR (adata.X = adata.X.tocsr()) or make a working copy with atlasnmf prepare"
        )


class MemoryCounts(CountSource):
    """A matrix of an AnnData in memory (sparse, dense, Dask) or backed by a file."""

    def __init__(self, matrix: Any, where: str) -> None:
        stored = getattr(matrix, "nnz", None)
        nnz = int(stored) if stored is not None else int(matrix.shape[0]) * int(matrix.shape[1])
        super().__init__(where, matrix.shape, matrix.dtype, nnz, nnz * (np.dtype(matrix.dtype).itemsize + 4))
        self._matrix = matrix
        self._by_row = getattr(matrix, "format", "csr") != "csc"

    def read(self, start: int, stop: int) -> Csr:
        """Return rows ``start`` to ``stop``."""
        if not self._by_row:
            self._matrix = self._matrix.tocsr() if hasattr(self._matrix, "tocsr") else self._matrix
            self._by_row = True
        block = self._matrix[start:stop]
        if hasattr(block, "compute"):
            block = block.compute()
        if hasattr(block, "tocsr"):
            rows = block.tocsr()
            plain = Csr(rows.indptr.astype(np.int64), rows.indices, rows.data, self.n_cols)
            return in_order(plain, self.where)
        return dense_rows(np.asarray(block))


def dense_rows(block: np.ndarray) -> Csr:
    """Turn a block of dense rows sparse.

    Parameters
    ----------
    block
        Shape (n_rows, n_cols).
    """
    filled = block != 0
    indptr = np.zeros(len(block) + 1, dtype=np.int64)
    np.cumsum(np.count_nonzero(filled, axis=1), out=indptr[1:])
    columns = np.nonzero(filled)[1].astype(np.int32)
    return Csr(indptr, columns, _computable(block[filled]), block.shape[1])


def _computable(values: np.ndarray) -> np.ndarray:
    """Return values in a type that kernels know: halves and long doubles, and other machines' byte order."""
    dtype = values.dtype
    if dtype.kind == "f" and dtype.itemsize not in (4, 8):
        return values.astype(np.float32 if dtype.itemsize < 4 else np.float64)
    return values.astype(dtype.newbyteorder("=")) if not dtype.isnative else values


def in_order(rows: Csr, where: str) -> Csr:
    """Return rows with ascending columns, each once; sorted copies where they are not.

    Raises
    ------
    BadInput
        A column number is outside the matrix.
    """
    from atlasnmf.kernels.cpu.rows import check_rows

    rows = replace(rows, data=_computable(rows.data), indices=_computable(rows.indices))
    n_outside, n_disordered = check_rows(rows.indptr, rows.indices, rows.n_cols)
    if n_outside:
        raise BadInput(
            f"{where} is damaged: {n_outside} column numbers are outside 0..{rows.n_cols - 1}; write it anew"
        )
    return Csr.from_scipy(rows.to_scipy()) if n_disordered else rows


def stored_counts(path: Path, where: str) -> CountSource:
    """Open a matrix of a stored table by its layout; nothing of it is read.

    Raises
    ------
    BadInput
        It is neither CSR, CSC nor dense.
    """
    import zarr

    node = zarr.open(path, mode="r")
    encoding = node.attrs.get("encoding-type", "array")
    if encoding == "csr_matrix":
        return CsrCounts(path, where)
    if encoding == "csc_matrix":
        return CscCounts(path, where)
    if isinstance(node, zarr.Array) and node.ndim == 2:
        return DenseCounts(path, where)
    raise BadInput(f"{where} is stored as {encoding!r}; counts must be a CSR, CSC or dense matrix")
