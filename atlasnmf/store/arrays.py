"""Numeric zarr arrays of the user's store, read front to back: each chunk is decoded once."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["SequentialArray", "fast_codecs", "open_array", "open_group"]

_CONFIG_LOCK = threading.Lock()


@contextmanager
def fast_codecs() -> Iterator[None]:
    """Open arrays with the Rust codecs of ``zarrs`` inside, where installed; an array keeps its codecs."""
    import zarr

    if find_spec("zarrs") is None:
        yield
        return
    import zarrs  # noqa: F401 - registers the pipeline

    with _CONFIG_LOCK, zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        yield


def open_array(path: Path) -> Any:
    """Open a numeric zarr array for reading, through zarrs when it knows the array's codecs."""
    import zarr

    try:
        with fast_codecs(), warnings.catch_warnings():
            warnings.simplefilter("error")
            return zarr.open_array(path, mode="r")
    except Exception:  # zarrs says in many ways that it lacks a codec; zarr's own opens or tells why not
        return zarr.open_array(path, mode="r")


def open_group(path: Path) -> Any:
    """Open a zarr group for reading by what lies on disk, not by consolidated metadata."""
    import zarr

    return zarr.open_group(path, mode="r", use_consolidated=False)


class SequentialArray:
    """A zarr array read in runs of its first axis, keeping the last chunks decoded.

    Parameters
    ----------
    path
        Place of the array. It is opened at the first read.

    Notes
    -----
    Holds one run and the chunks it touches. Reads take turns; decoding uses the threads of zarrs.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._array: Any = None
        self._kept: tuple[int, np.ndarray] | None = None
        self._turn = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]

    @property
    def array(self) -> Any:
        """The zarr array."""
        if self._array is None:
            self._array = open_array(self.path)
        return self._array

    @property
    def chunk_rows(self) -> int:
        """Rows a chunk holds."""
        return max(int(self.array.chunks[0]), 1)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return elements ``start`` to ``stop`` of the first axis; treat it as read-only."""
        if stop <= start:
            return self.array[0:0]
        with self._turn:
            step, total = self.chunk_rows, self.array.shape[0]
            first = start // step * step
            last = min(-(-stop // step) * step, total)
            block, begin = self._with_kept(first, last)
            # the last chunk may be needed again by the next run
            tail = (last - 1) // step * step
            self._kept = tail, block[tail - begin :].copy() if tail > begin else block
            return block[start - begin : stop - begin]

    def _with_kept(self, first: int, last: int) -> tuple[np.ndarray, int]:
        if self._kept is not None:
            begin, kept = self._kept
            if begin <= first and last <= begin + len(kept):
                return kept, begin
            if begin == first and last > begin + len(kept):
                return np.concatenate([kept, self.array[begin + len(kept) : last]]), begin
        return self.array[first:last], first
