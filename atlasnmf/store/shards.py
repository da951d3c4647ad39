"""One array in one zarr v3 shard, written and read without zarr's event loop.

The files are ordinary zarr v3 (sharding_indexed; inner codecs bytes, Blosc-lz4 + shuffle, crc32c) and any
zarr reader opens them. Going through zarr-python costs 1-5 ms for each read whatever its size; training
reads runs of 64-256 rows, where this module is 5 times faster than the zarrs pipeline and 20 times faster
than zarr's own, holds no lock and starts no threads.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numcodecs import blosc

from atlasnmf.errors import BadInput

__all__ = ["ShardReader", "ShardedWriter", "array_metadata", "write_group", "write_shard"]

_LZ4_LEVEL = 5
#: What the index of a shard says of a chunk that is not there.
_MISSING = 2**64 - 1


def array_metadata(
    shape: tuple[int, ...],
    dtype: np.dtype,
    chunk_rows: int,
    chunks_a_shard: int | None = None,
    attributes: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the ``zarr.json`` of a sharded array chunked along its first axis; one shard by default."""
    n_chunks = chunks_a_shard or max(-(-shape[0] // chunk_rows), 1)
    tail = [max(size, 1) for size in shape[1:]]  # zarr refuses empty chunks
    kind = np.dtype(dtype)
    blosc_codec = {
        "name": "blosc",
        "configuration": {
            "typesize": kind.itemsize,
            "cname": "lz4",
            "clevel": _LZ4_LEVEL,
            "shuffle": "shuffle",
            "blocksize": 0,
        },
    }
    little = (
        {"name": "bytes", "configuration": {"endian": "little"}} if kind.itemsize > 1 else {"name": "bytes"}
    )
    fill: Any = False if kind == np.bool_ else 0.0 if kind.kind == "f" else 0
    return {
        "shape": list(shape),
        "data_type": kind.name,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [n_chunks * chunk_rows, *tail]},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill,
        "codecs": [
            {
                "name": "sharding_indexed",
                "configuration": {
                    "chunk_shape": [chunk_rows, *tail],
                    "codecs": [little, blosc_codec, {"name": "crc32c"}],
                    "index_codecs": [
                        {"name": "bytes", "configuration": {"endian": "little"}},
                        {"name": "crc32c"},
                    ],
                    "index_location": "end",
                },
            }
        ],
        "attributes": attributes or {},
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }


def write_group(directory: Path, attributes: dict[str, Any] | None = None) -> None:
    """Make a directory a zarr v3 group."""
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"attributes": attributes or {}, "zarr_format": 3, "node_type": "group"})
    (directory / "zarr.json").write_text(text)


def write_shard(directory: Path, array: np.ndarray, chunk_rows: int) -> None:
    """Write an array as a zarr v3 array of one shard.

    Parameters
    ----------
    directory
        Place of the array; made when missing.
    array
        Any shape with at least one axis; numbers or booleans.
    chunk_rows
        Rows (elements of the first axis) a compressed chunk.
    """
    directory.mkdir(parents=True, exist_ok=True)
    metadata = array_metadata(array.shape, array.dtype, chunk_rows)
    if array.size:
        _write_chunks(_shard_path(directory, 0, array.ndim), array, chunk_rows, -(-len(array) // chunk_rows))
    (directory / "zarr.json").write_text(json.dumps(metadata))


def _shard_path(directory: Path, number: int, n_axes: int) -> Path:
    return directory.joinpath("c", str(number), *["0"] * (n_axes - 1))


def _write_chunks(path: Path, array: np.ndarray, chunk_rows: int, n_chunks: int) -> None:
    values = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    index = np.full((n_chunks, 2), _MISSING, dtype="<u8")
    offset = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        for i in range(-(-len(values) // chunk_rows)):
            chunk = values[i * chunk_rows : (i + 1) * chunk_rows]
            if len(chunk) < chunk_rows:  # zarr pads the last chunk
                padded = np.zeros((chunk_rows, *values.shape[1:]), dtype=values.dtype)
                padded[: len(chunk)] = chunk
                chunk = padded
            packed = blosc.compress(chunk.reshape(-1), b"lz4", _LZ4_LEVEL, blosc.SHUFFLE)
            file.write(packed)
            file.write(_checksum(packed))
            index[i] = offset, len(packed) + 4
            offset += len(packed) + 4
        raw = index.tobytes()
        file.write(raw)
        file.write(_checksum(raw))


class ShardedWriter:
    """Appends rows to a zarr v3 array of many shards; nothing is written twice.

    Parameters
    ----------
    directory
        Place of the array.
    row_shape
        Shape of a row, ``()`` for a vector.
    dtype
        Type of the values.
    chunk_rows
        Rows a compressed chunk.
    chunks_a_shard
        Chunks a file.
    """

    def __init__(
        self, directory: Path, row_shape: tuple[int, ...], dtype: Any, chunk_rows: int, chunks_a_shard: int
    ) -> None:
        self.directory = directory
        self.row_shape = row_shape
        self.dtype = np.dtype(dtype)
        self.chunk_rows = chunk_rows
        self.chunks_a_shard = chunks_a_shard
        self.n_rows = 0
        self._waiting: list[np.ndarray] = []
        self._n_waiting = 0
        self._n_shards = 0

    def append(self, rows: np.ndarray) -> None:
        """Add rows; a whole shard is written as soon as it is full."""
        self._waiting.append(rows.astype(self.dtype, copy=False))
        self._n_waiting += len(rows)
        self.n_rows += len(rows)
        size = self.chunk_rows * self.chunks_a_shard
        if self._n_waiting < size:
            return
        waiting = np.concatenate(self._waiting)
        whole = len(waiting) // size * size
        for start in range(0, whole, size):
            self._write(waiting[start : start + size])
        self._waiting = [waiting[whole:].copy()]
        self._n_waiting = len(waiting) - whole

    def close(self, attributes: dict[str, Any] | None = None) -> None:
        """Write what is left and the metadata."""
        if self._n_waiting and 0 not in self.row_shape:
            self._write(np.concatenate(self._waiting))
        shape = (self.n_rows, *self.row_shape)
        metadata = array_metadata(shape, self.dtype, self.chunk_rows, self.chunks_a_shard, attributes)
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "zarr.json").write_text(json.dumps(metadata))

    def _write(self, rows: np.ndarray) -> None:
        path = _shard_path(self.directory, self._n_shards, rows.ndim)
        _write_chunks(path, rows, self.chunk_rows, self.chunks_a_shard)
        self._n_shards += 1


def _checksum(raw: bytes) -> bytes:
    return int(google_crc32c.value(raw)).to_bytes(4, "little")


class ShardReader:
    """Reads runs of the first axis of an array written by :func:`write_shard`.

    Parameters
    ----------
    directory
        Place of the array.

    Raises
    ------
    BadInput
        On a missing, torn or damaged file.
    """

    def __init__(self, directory: Path) -> None:
        try:
            metadata = json.loads((directory / "zarr.json").read_text())
        except (OSError, ValueError) as error:
            raise _damaged(directory, error) from None
        self.directory = directory
        self.shape: tuple[int, ...] = tuple(metadata["shape"])
        self.dtype = np.dtype(metadata["data_type"]).newbyteorder("<")
        self.chunk_rows = int(metadata["codecs"][0]["configuration"]["chunk_shape"][0])
        self._file = directory.joinpath("c", *["0"] * len(self.shape))
        self._index: np.ndarray | None = None

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return elements ``start`` to ``stop`` of the first axis, a new array."""
        tail = self.shape[1:]
        if stop <= start or 0 in self.shape:
            return np.empty((max(stop - start, 0), *tail), dtype=self.dtype)
        first, last = start // self.chunk_rows, -(-stop // self.chunk_rows)
        try:
            with open(self._file, "rb", buffering=0) as file:
                descriptor = file.fileno()
                index = self._load_index(descriptor)[first:last]
                begin, end = int(index[0, 0]), int(index[-1].sum())
                raw = os.pread(descriptor, end - begin, begin)
            if len(raw) != end - begin:
                raise ValueError("the file is too short")
            out = np.empty(((last - first) * self.chunk_rows, *tail), dtype=self.dtype)
            flat = out.reshape(-1)
            step = self.chunk_rows * int(np.prod(tail, dtype=np.int64))
            for i in range(last - first):
                at = int(index[i, 0]) - begin
                size = int(index[i, 1]) - 4
                packed = raw[at : at + size]
                if _checksum(packed) != raw[at + size : at + size + 4]:
                    raise ValueError(f"chunk {first + i} has the wrong checksum")
                blosc.decompress(packed, flat[i * step : (i + 1) * step])
        except (OSError, ValueError, RuntimeError) as error:
            raise _damaged(self.directory, error) from None
        return out[start - first * self.chunk_rows : stop - first * self.chunk_rows]

    def _load_index(self, descriptor: int) -> np.ndarray:
        if self._index is None:
            n_chunks = -(-self.shape[0] // self.chunk_rows)
            size = os.fstat(descriptor).st_size
            raw = os.pread(descriptor, 16 * n_chunks + 4, max(size - 16 * n_chunks - 4, 0))
            if len(raw) != 16 * n_chunks + 4 or _checksum(raw[:-4]) != raw[-4:]:
                raise ValueError("the index has the wrong checksum")
            self._index = np.frombuffer(raw[:-4], dtype="<u8").astype(np.int64).reshape(-1, 2)
        return self._index

    def nbytes_stored(self) -> int:
        """Return the size of the shard on disk in bytes."""
        return self._file.stat().st_size if self._file.exists() else 0


def _damaged(directory: Path, error: Exception) -> BadInput:
    return BadInput(
        f"{directory} is damaged ({error}); delete the working copy it belongs to and run again, "
        "it is made anew from the store"
    )
