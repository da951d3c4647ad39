"""Matrices of the working copy: sparse and dense rows in parts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from atlasnmf.errors import BadInput
from atlasnmf.kernels.cpu.rows import take_rows
from atlasnmf.schema import Csr
from atlasnmf.store.landing import CHUNK_ROWS, PART_ROWS, Part, Parted, plan_parts
from atlasnmf.store.shards import ShardReader, write_group, write_shard

__all__ = ["CHUNK_ROWS", "PART_ROWS", "Part", "PartedCsr", "PartedDense", "plan_parts", "smallest_counts"]


def smallest_counts(values: np.ndarray) -> np.ndarray:
    """Cast whole, non-negative values to the narrowest unsigned type from uint16 on; leave others as float32.

    Examples
    --------
    >>> smallest_counts(np.array([1.0, 3.0])).dtype, smallest_counts(np.array([70000.0])).dtype
    (dtype('uint16'), dtype('uint32'))
    >>> smallest_counts(np.array([0.5])).dtype
    dtype('float32')
    """
    for kind in (np.uint16, np.uint32):
        if values.dtype == kind or not values.size:
            return values.astype(kind, copy=False)
        with np.errstate(invalid="ignore"):  # NaN and infinity fail the comparison below
            narrow = values.astype(kind)
        if np.array_equal(narrow, values):
            return narrow
    return values.astype(np.float32)


class PartedCsr(Parted):
    """Sparse rows in parts (see :meth:`create` and :meth:`open`).

    Reading is safe from many threads; the row starts of the parts read stay in memory (4 bytes a row).
    """

    kind = "csr"

    def __init__(self, path: Path, spec: dict[str, Any]) -> None:
        super().__init__(path, spec)
        self.n_cols = int(spec["n_cols"])
        self._dtype: np.dtype | None = np.dtype(spec["dtype"]) if spec["dtype"] else None
        self._open_parts: dict[int, tuple[np.ndarray, ShardReader, ShardReader]] = {}
        self._meta: dict[int, tuple[int, np.dtype]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "spec": self.spec}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"], state["spec"])  # type: ignore[misc]

    @classmethod
    def create(
        cls,
        path: Path | str,
        parts: Sequence[Part],
        *,
        n_cols: int,
        dtype: Any = None,
        key: str = "",
    ) -> PartedCsr:
        """Make an empty matrix, or go on with an unfinished one of the same shape, parts and key.

        Parameters
        ----------
        path
            Directory of the zarr group; one of another make is replaced.
        parts
            Runs of rows covering the matrix, from :func:`plan_parts`.
        n_cols
            Number of columns.
        dtype
            Type of the values; ``None`` keeps counts in the narrowest type that holds them.
        key
            Fingerprint of what the values depend on.
        """
        facts = {"n_cols": int(n_cols), "dtype": None if dtype is None else np.dtype(dtype).name}
        return cls._create(Path(path), parts, key, **facts)

    def write_part(self, index: int, rows: Csr) -> None:
        """Land a part; columns ascend within a row and lie in [0, n_cols)."""
        part = self.parts[index]
        if rows.n_rows != part.n_rows or rows.n_cols != self.n_cols:
            raise ValueError(
                f"part {index} of {self.path.name} is {part.n_rows} x {self.n_cols}, "
                f"got {rows.n_rows} x {rows.n_cols}"
            )
        values = rows.data.astype(self._dtype, copy=False) if self._dtype else smallest_counts(rows.data)
        columns = rows.indices.astype(np.uint16 if self.n_cols <= 2**16 else np.uint32, copy=False)
        chunk = max(rows.nnz * CHUNK_ROWS // max(rows.n_rows, 1), 1024)

        def write(fresh: Path) -> None:
            write_group(fresh)
            write_shard(fresh / "indptr", rows.indptr.astype(np.int64, copy=False), PART_ROWS)
            write_shard(fresh / "indices", columns, chunk)
            write_shard(fresh / "data", values, chunk)

        self._land(index, write)

    @property
    def dtype(self) -> np.dtype:
        """Type of the values read: the widest of all landed parts."""
        if self._dtype is None:
            kinds = {self._part_meta(part.index)[1] for part in self.parts if self.has_part(part.index)}
            widest = np.result_type(*kinds) if kinds else np.dtype(np.uint16)
            if not self.complete:
                return widest
            self._dtype = widest if widest.kind != "f" else np.dtype(np.float32)
        return self._dtype

    @property
    def nnz(self) -> int:
        """Stored values in all landed parts."""
        return sum(self._part_meta(part.index)[0] for part in self.parts if self.has_part(part.index))

    def read(self, start: int, stop: int) -> Csr:
        """Return rows ``start`` to ``stop``.

        Returns
        -------
        rows
            int64 indptr from 0, uint16 or uint32 indices, data of :attr:`dtype`; new arrays.
        """
        pieces = [self._read_part(*overlap) for overlap in self._overlaps(start, stop)]
        if pieces:
            return Csr.stack(pieces)
        column_kind = np.uint16 if self.n_cols <= 2**16 else np.uint32
        none = np.empty(0, dtype=column_kind), np.empty(0, dtype=self.dtype)
        return Csr(np.zeros(1, dtype=np.int64), *none, self.n_cols)

    def read_rows(self, rows: np.ndarray) -> Csr:
        """Return any rows in any order; neighbouring rows are read in one piece."""
        runs, place = self._runs(rows)
        pieces = [self.read(start, stop) for start, stop in runs]
        if not pieces:
            return self.read(0, 0)
        found = Csr.stack(pieces)
        return Csr(*take_rows(found.indptr, found.indices, found.data, place), self.n_cols)

    def row_nnz(self, start: int, stop: int) -> np.ndarray:
        """Return the stored values of each row, int64, without reading them."""
        lengths = [
            np.diff(self._open_part(index)[0][lo : hi + 1]).astype(np.int64)
            for index, lo, hi in self._overlaps(start, stop)
        ]
        return np.concatenate(lengths) if lengths else np.empty(0, dtype=np.int64)

    def _read_part(self, index: int, lo: int, hi: int) -> Csr:
        starts, indices, data = self._open_part(index)
        indptr = starts[lo : hi + 1].astype(np.int64)
        begin, end = int(indptr[0]), int(indptr[-1])
        indptr -= begin
        values = data.read(begin, end).astype(self.dtype, copy=False)
        return Csr(indptr, indices.read(begin, end), values, self.n_cols)

    def _open_part(self, index: int) -> tuple[np.ndarray, ShardReader, ShardReader]:
        opened = self._open_parts.get(index)
        if opened is None:
            path = self.part_path(index)
            if not path.exists():
                raise BadInput(f"{self.path.name} is not finished in {self.path.parent}; run the stage again")
            reader = ShardReader(path / "indptr")
            starts = reader.read(0, reader.shape[0])
            narrow = np.uint32 if int(starts[-1]) < 2**32 else np.int64
            opened = starts.astype(narrow), ShardReader(path / "indices"), ShardReader(path / "data")
            self._open_parts[index] = opened
        return opened

    def _part_meta(self, index: int) -> tuple[int, np.dtype]:
        if index not in self._meta:
            reader = ShardReader(self.part_path(index) / "data")
            self._meta[index] = reader.shape[0], reader.dtype
        return self._meta[index]


class PartedDense(Parted):
    """Dense rows of any fixed shape in parts; safe to read from many threads."""

    kind = "dense"

    def __init__(self, path: Path, spec: dict[str, Any]) -> None:
        super().__init__(path, spec)
        self.row_shape: tuple[int, ...] = tuple(spec["row_shape"])
        self.dtype = np.dtype(spec["dtype"])
        self._open_parts: dict[int, ShardReader] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "spec": self.spec}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"], state["spec"])  # type: ignore[misc]

    @classmethod
    def create(
        cls,
        path: Path | str,
        parts: Sequence[Part],
        *,
        row_shape: int | tuple[int, ...],
        dtype: Any = np.float32,
        key: str = "",
    ) -> PartedDense:
        """Make an empty matrix, or go on with an unfinished one of the same shape, parts and key.

        Parameters
        ----------
        path, parts, key
            As in :meth:`PartedCsr.create`.
        row_shape
            Shape of one row: a number of columns, or several axes, or ``()``.
        dtype
            Type of the values.
        """
        shape = [row_shape] if isinstance(row_shape, int) else [int(size) for size in row_shape]
        return cls._create(Path(path), parts, key, row_shape=shape, dtype=np.dtype(dtype).name)

    def write_part(self, index: int, rows: np.ndarray) -> None:
        """Land a part, shape (part rows, *row_shape)."""
        expected = (self.parts[index].n_rows, *self.row_shape)
        if rows.shape != expected:
            raise ValueError(f"part {index} of {self.path.name} has shape {expected}, got {rows.shape}")
        values = rows.astype(self.dtype, copy=False)
        self._land(index, lambda fresh: write_shard(fresh, values, CHUNK_ROWS))

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows ``start`` to ``stop``, a new array."""
        pieces = [self._open_part(index).read(lo, hi) for index, lo, hi in self._overlaps(start, stop)]
        if len(pieces) == 1:
            return pieces[0]
        empty = np.empty((0, *self.row_shape), dtype=self.dtype)
        return np.concatenate(pieces) if pieces else empty

    def read_rows(self, rows: np.ndarray) -> np.ndarray:
        """Return any rows in any order; neighbouring rows are read in one piece."""
        runs, place = self._runs(rows)
        if not runs:
            return self.read(0, 0)
        return np.concatenate([self.read(start, stop) for start, stop in runs])[place]

    def _open_part(self, index: int) -> ShardReader:
        if index not in self._open_parts:
            if not self.has_part(index):
                raise BadInput(f"{self.path.name} is not finished in {self.path.parent}; run the stage again")
            self._open_parts[index] = ShardReader(self.part_path(index))
        return self._open_parts[index]
