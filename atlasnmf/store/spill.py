"""Sorting more than memory holds: arrays go to buckets, buckets go to files when memory is short."""

from __future__ import annotations

import shutil
import threading
import uuid
from pathlib import Path
from types import TracebackType

import numpy as np

from atlasnmf.budget import give_back
from atlasnmf.store.disk import full_disk_is_said

__all__ = ["Spill"]

_DTYPE_BYTES = 8


class Spill:
    """Buckets of records, a record being a row of several equally long or unrelated arrays.

    What is added to a bucket comes back in the order of adding, one array a field.

    Parameters
    ----------
    directory
        Where files go when memory is short; a fresh directory inside it is made then, and removed at the end.
    n_buckets
        Number of buckets.
    budget_bytes
        Memory for records waiting; beyond it all buckets are written out.

    Notes
    -----
    Adding is safe from many threads, but then the order within a bucket is that of arrival.
    """

    def __init__(self, directory: Path, n_buckets: int, budget_bytes: int) -> None:
        self.directory = directory / f".spill-{uuid.uuid4().hex[:8]}"
        self.budget_bytes = budget_bytes
        self._waiting: list[list[tuple[np.ndarray, ...]]] = [[] for _ in range(n_buckets)]
        self._bytes = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Spill:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting = []
        shutil.rmtree(self.directory, ignore_errors=True)
        give_back()

    def add(self, bucket: int, *fields: np.ndarray) -> None:
        """Add records to a bucket; the arrays must not change afterwards."""
        with self._lock:
            self._waiting[bucket].append(fields)
            self._bytes += sum(field.nbytes for field in fields)
            if self._bytes > self.budget_bytes:
                with full_disk_is_said(self.directory.parent):
                    self._write_out()

    def take(self, bucket: int) -> tuple[np.ndarray, ...]:
        """Return and forget the records of a bucket, an empty tuple when there are none."""
        with self._lock:
            waiting, self._waiting[bucket] = self._waiting[bucket], []
            self._bytes -= sum(field.nbytes for fields in waiting for field in fields)
        path = self.directory / str(bucket)
        frames = _read_frames(path) if path.exists() else []
        path.unlink(missing_ok=True)
        frames += waiting
        return tuple(np.concatenate(field) for field in zip(*frames, strict=True))

    def _write_out(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        for bucket, waiting in enumerate(self._waiting):
            if not waiting:
                continue
            with open(self.directory / str(bucket), "ab") as file:
                for fields in zip(*waiting, strict=True):
                    whole = np.concatenate(fields)
                    shape = np.array([whole.ndim, *whole.shape, 0, 0], dtype="<i8")[:4]
                    file.write(whole.dtype.str.encode().ljust(_DTYPE_BYTES))
                    file.write(shape.tobytes())
                    file.write(np.ascontiguousarray(whole).data)
                file.write(b"end".ljust(_DTYPE_BYTES))
            self._waiting[bucket] = []
        self._bytes = 0
        give_back()


def _read_frames(path: Path) -> list[tuple[np.ndarray, ...]]:
    raw = np.fromfile(path, dtype=np.uint8)
    frames: list[tuple[np.ndarray, ...]] = []
    fields: list[np.ndarray] = []
    at = 0
    while at < len(raw):
        kind = raw[at : at + _DTYPE_BYTES].tobytes().strip().decode()
        at += _DTYPE_BYTES
        if kind == "end":
            frames.append(tuple(fields))
            fields = []
            continue
        n_axes, *sizes = raw[at : at + 32].view("<i8").tolist()
        at += 32
        dtype = np.dtype(kind)
        n_bytes = int(np.prod(sizes[:n_axes])) * dtype.itemsize
        # frombuffer, not view: a frame may start anywhere
        fields.append(np.frombuffer(raw[at : at + n_bytes].data, dtype=dtype).reshape(sizes[:n_axes]))
        at += n_bytes
    return frames
