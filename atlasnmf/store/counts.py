"""Counts as the user stored them, read by runs of rows: CSR, CSC or dense, on disk or in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

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


class CountSource(Protocol):
    """A matrix of spots by genes in the user's row order.

    Parameters
    ----------
    where
        How messages name it, such as ``X of table 'slice_1'``.
    layout
        ``csr``, ``csc`` or ``dense``.
    dtype
        Type of the stored values.
    """

    where: str
    layout: str
    dtype: np.dtype
    n_rows: int
    n_cols: int

    @property
    def nnz(self) -> int:
        """Stored values; all cells of a dense matrix."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes the matrix takes decoded."""
        ...

    @property
    def is_integer_dtype(self) -> bool:
        """Whether the values are whole by their type; floats may still hold whole numbers."""
        ...

    def read(self, start: int, stop: int) -> Csr:
        """Return rows ``start`` to ``stop`` in the user's order, columns ascending."""
        ...


class _Counts:
    layout = ""

    def __init__(self, where: str, shape: tuple[int, int], dtype: np.dtype) -> None:
        self.where = where
        self.n_rows, self.n_cols = int(shape[0]), int(shape[1])
        self.dtype = np.dtype(dtype)

    @property
    def is_integer_dtype(self) -> bool:
        """Whether the values are whole by their type."""
        return self.dtype.kind in "iub"


class CsrCounts(_Counts):
    """Compressed sparse rows in a zarr group; row starts are loaded at the first read (8 bytes a row)."""

    layout = "csr"

    def __init__(self, path: Path, where: str) -> None:
        group = open_group(path)
        super().__init__(where, tuple(group.attrs["shape"]), group["data"].dtype)
        self.path = path
        self._nnz = int(group["data"].shape[0])
        self._item = self.dtype.itemsize + group["indices"].dtype.itemsize
        self._indices = SequentialArray(path / "indices")
        self._data = SequentialArray(path / "data")
        self._indptr: np.ndarray | None = None

    @property
    def nnz(self) -> int:
        """Stored values."""
        return self._nnz

    @property
    def nbytes(self) -> int:
        """Bytes the matrix takes decoded."""
        return self._nnz * self._item + 8 * (self.n_rows + 1)

    @property
    def indptr(self) -> np.ndarray:
        """Row starts, int64, shape (n_rows + 1,)."""
        if self._indptr is None:
            starts = SequentialArray(self.path / "indptr").array[:].astype(np.int64)
            if len(starts) != self.n_rows + 1 or starts[0] != 0 or starts[-1] != self._nnz:
                raise BadInput(f"{self.where} is damaged: its indptr does not match its shape and values")
            self._indptr = starts
        return self._indptr

    def read(self, start: int, stop: int) -> Csr:
        """Return rows ``start`` to ``stop``."""
        lo, hi = int(self.indptr[start]), int(self.indptr[stop])
        indptr = self.indptr[start : stop + 1] - lo
        return in_order(
            Csr(indptr, self._indices.read(lo, hi), self._data.read(lo, hi), self.n_cols), self.where
        )


class DenseCounts(_Counts):
    """A dense zarr array; rows are turned sparse as they are read."""

    layout = "dense"

    def __init__(self, path: Path, where: str) -> None:
        self._array = SequentialArray(path)
        array = self._array.array
        super().__init__(where, array.shape, array.dtype)
        self.path = path

    @property
    def nnz(self) -> int:
        """All cells: how many are zero is known only after reading."""
        return self.n_rows * self.n_cols

    @property
    def nbytes(self) -> int:
        """Bytes the matrix takes decoded."""
        return self.nnz * self.dtype.itemsize

    def read(self, start: int, stop: int) -> Csr:
        """Return rows ``start`` to ``stop``."""
        return dense_rows(self._array.read(start, stop))


class CscCounts(_Counts):
    """Compressed sparse columns in a zarr group; readable by columns only."""

    layout = "csc"

    def __init__(self, path: Path, where: str) -> None:
        self.by_column = CsrCounts(path, where)
        # the same three arrays: for a CSC group the shape is (rows, columns) and indptr runs over columns
        super().__init__(where, (self.by_column.n_rows, self.by_column.n_cols), self.by_column.dtype)
        self.by_column.n_rows, self.by_column.n_cols = self.n_cols, self.n_rows
        self.path = path

    @property
    def nnz(self) -> int:
        """Stored values."""
        return self.by_column.nnz

    @property
    def nbytes(self) -> int:
        """Bytes the matrix takes decoded."""
        return self.by_column.nbytes

    def read(self, start: int, stop: int) -> Csr:
        """Refuse: a row touches every chunk."""
        raise BadInput(
            f"{self.where} is stored by columns (CSC) and cannot be read by rows; "
            "rewrite it as CSR (adata.X = adata.X.tocsr()) or make a working copy with atlasnmf prepare"
        )


class MemoryCounts(_Counts):
    """A matrix of an AnnData in memory (sparse, dense, Dask) or backed by a file."""

    layout = "csr"

    def __init__(self, matrix: Any, where: str) -> None:
        super().__init__(where, matrix.shape, matrix.dtype)
        self._matrix = matrix
        self._by_row = getattr(matrix, "format", "csr") != "csc"

    @property
    def nnz(self) -> int:
        """Stored values; all cells of a dense matrix."""
        stored = getattr(self._matrix, "nnz", None)
        return int(stored) if stored is not None else self.n_rows * self.n_cols

    @property
    def nbytes(self) -> int:
        """Bytes the matrix takes."""
        return self.nnz * (self.dtype.itemsize + 4)

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
