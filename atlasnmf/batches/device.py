"""Rows on a device: held there, or sent ahead of the step that needs them; the same values as on the host."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.batches.sources import CsrRows, DenseRows, SpotSource, hold
from atlasnmf.schema import Csr, SliceBatch

if TYPE_CHECKING:
    import torch

__all__ = ["Sender", "on_device", "sent"]

#: Rows sent to the device at a time.
_COPY_ROWS = 4096


def on_device(source: SpotSource, device: str | torch.device) -> SpotSource:
    """Copy all rows to a device.

    Parameters
    ----------
    source
        The rows; the graph and the row numbers stay on the host, where halos are planned.
    device
        As torch writes it.

    Returns
    -------
    SpotSource
        Its batches hold tensors of the device in place of arrays (``counts``, ``totals``, ``scores``,
        ``smoothed``) with the same values; 16 unsigned bits come as int32, 32 as int64.
    """
    import torch

    return SpotSource(
        source.offsets,
        _DeviceCsr(source.counts, device),
        torch.as_tensor(source.totals).to(device),  # type: ignore[arg-type]
        None if source.scores is None else _DeviceDense(source.scores, device),
        tuple(_DeviceCsr(hop, device) for hop in source.smoothed),
        None if source.graph is None else hold(source.graph),
        source.degrees,
    )


class Sender:
    """Sends batches to a device while the step before computes.

    Numbers travel as narrow as they are stored, from page-locked memory and on a stream of their own, and are
    widened on the device. The loader's thread does this for the units it keeps ready, so two are on their way
    or waiting while one is used.

    Parameters
    ----------
    device
        As torch writes it; the CPU needs no stream and gets the same tensors.
    """

    def __init__(self, device: str | torch.device) -> None:
        import torch

        self._device = torch.device(device)
        self._stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None
        self._last: dict[int, tuple[SliceBatch, SliceBatch]] = {}

    def send(self, unit: list[SliceBatch]) -> list[SliceBatch]:
        """Return the batches with tensors in place of arrays; ``rows`` and ``graph`` stay on the host."""
        import torch

        if self._stream is None:
            return [self._batch(batch) for batch in unit]
        with torch.cuda.stream(self._stream):
            sent = [self._batch(batch) for batch in unit]
        self._stream.synchronize()
        return sent

    def _batch(self, batch: SliceBatch) -> SliceBatch:
        given, there = self._last.get(batch.slice_index, (None, batch))
        if given is not batch:  # a slice that comes whole in every step is sent once
            there = self._sent(batch)
            self._last[batch.slice_index] = batch, there
        return there

    def _sent(self, batch: SliceBatch) -> SliceBatch:
        return replace(
            batch,
            counts=self._csr(batch.counts),
            totals=self._tensor(batch.totals),
            scores=None if batch.scores is None else self._tensor(batch.scores),
            smoothed=tuple(self._csr(hop) for hop in batch.smoothed),
        )

    def _csr(self, rows: Csr) -> Csr:
        indptr, indices, data = map(self._tensor, (rows.indptr, rows.indices, rows.data))
        return Csr(indptr, indices, data, rows.n_cols)

    def _tensor(self, array: np.ndarray) -> Any:
        import torch

        if self._stream is None:
            return sent(array, self._device)
        there = sent(array, self._device, page_locked=True)
        # freed there only when the stream that computes is done with it
        there.record_stream(torch.cuda.default_stream(self._device))
        return there


def sent(array: np.ndarray, device: torch.device, *, page_locked: bool = False) -> Any:
    """Return an array as a tensor of a device; it travels as narrow as it is and is widened there.

    Parameters
    ----------
    array
        16 unsigned bits come as int32, 32 as int64, other types as they are.
    device
        Where to.
    page_locked
        Copy from page-locked memory and do not wait for it: for a stream that is waited for later.
    """
    import torch

    stored, unsigned = _as_stored(np.dtype(array.dtype))
    host = torch.empty(array.shape, dtype=_torch_type(stored), pin_memory=page_locked)
    host.numpy()[...] = np.asarray(array).view(stored)
    return _widened(host.to(device, non_blocking=page_locked), unsigned)


class _DeviceCsr:
    def __init__(self, matrix: CsrRows, device: Any) -> None:
        import torch

        self.n_rows, self.n_cols, self.nnz, self.dtype = (
            matrix.n_rows,
            matrix.n_cols,
            matrix.nnz,
            np.dtype(matrix.dtype),
        )
        kinds = matrix.read(0, 0)
        # also here: how many values rows have must be known without waiting for the device
        self._starts = np.zeros(matrix.n_rows + 1, dtype=np.int64)
        self._columns = _Packed(matrix.nnz, kinds.indices.dtype, device)
        self._values = _Packed(matrix.nnz, self.dtype, device)
        at = 0
        for start in range(0, matrix.n_rows, _COPY_ROWS):
            stop = min(start + _COPY_ROWS, matrix.n_rows)
            run = matrix.read(start, stop)
            self._starts[start + 1 : stop + 1] = run.indptr[1:] + at
            self._columns.put(at, run.indices)
            self._values.put(at, run.data)
            at += run.nnz
        self._indptr = torch.from_numpy(self._starts).to(device, copy=True)

    def read(self, start: int, stop: int) -> Csr:
        lo, hi = int(self._starts[start]), int(self._starts[stop])
        indptr: Any = self._indptr[start : stop + 1] - lo
        return Csr(indptr, self._columns.get(slice(lo, hi)), self._values.get(slice(lo, hi)), self.n_cols)

    def read_rows(self, rows: np.ndarray) -> Csr:
        import torch

        device = self._indptr.device
        wanted = torch.as_tensor(rows, dtype=torch.int64, device=device)
        starts = self._indptr[wanted]
        lengths = self._indptr[wanted + 1] - starts
        indptr: Any = torch.zeros(len(wanted) + 1, dtype=torch.int64, device=device)
        torch.cumsum(lengths, 0, out=indptr[1:])
        nnz = int((self._starts[rows + 1] - self._starts[rows]).sum())
        at = torch.repeat_interleave(starts - indptr[:-1], lengths, output_size=nnz)
        at += torch.arange(nnz, device=device)
        return Csr(indptr, self._columns.get(at), self._values.get(at), self.n_cols)


class _DeviceDense:
    def __init__(self, matrix: DenseRows, device: Any) -> None:
        import torch

        self.n_rows, self.row_shape = matrix.n_rows, tuple(matrix.row_shape)
        self.dtype = np.dtype(matrix.dtype)
        shape = (self.n_rows, *self.row_shape)
        self._rows = torch.empty(shape, dtype=_torch_type(self.dtype), device=device)
        for start in range(0, self.n_rows, _COPY_ROWS):
            stop = min(start + _COPY_ROWS, self.n_rows)
            self._rows[start:stop] = torch.as_tensor(matrix.read(start, stop), device=device)

    def read(self, start: int, stop: int) -> Any:
        return self._rows[start:stop]

    def read_rows(self, rows: np.ndarray) -> Any:
        import torch

        return self._rows[torch.as_tensor(rows, dtype=torch.int64, device=self._rows.device)]


class _Packed:
    """Numbers as narrow as they are stored; torch moves unsigned bits but hardly computes with them."""

    def __init__(self, size: int, dtype: np.dtype, device: Any) -> None:
        import torch

        self._stored, self._unsigned = _as_stored(np.dtype(dtype))
        self._numbers = torch.empty(size, dtype=_torch_type(self._stored), device=device)

    def put(self, at: int, numbers: np.ndarray) -> None:
        import torch

        run = torch.as_tensor(np.ascontiguousarray(numbers).view(self._stored).copy())
        self._numbers[at : at + len(numbers)] = run.to(self._numbers.device)

    def get(self, where: Any) -> Any:
        return _widened(self._numbers[where], self._unsigned)


def _as_stored(kind: np.dtype) -> tuple[np.dtype, bool]:
    """Return the type that torch moves in place of one, and whether its sign bit is a part of the number."""
    unsigned = kind.kind == "u" and kind.itemsize in (2, 4)
    return np.dtype(f"i{kind.itemsize}") if unsigned else kind, unsigned


def _widened(numbers: Any, unsigned: bool) -> Any:
    import torch

    if not unsigned:
        return numbers
    if numbers.element_size() == 2:
        return numbers.to(torch.int32).bitwise_and_(0xFFFF)
    return numbers.to(torch.int64).bitwise_and_(0xFFFFFFFF)


def _torch_type(dtype: np.dtype) -> torch.dtype:
    import torch

    return torch.from_numpy(np.empty(0, dtype=dtype)).dtype
