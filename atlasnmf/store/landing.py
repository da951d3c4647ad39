"""Rows in parts, each landing whole or not at all: a restart goes on at the first missing one."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from atlasnmf.errors import BadInput
from atlasnmf.store.disk import full_disk_is_said
from atlasnmf.store.shards import write_group
from atlasnmf.tiles.parts import PART_ROWS, Part, plan_parts

__all__ = ["CHUNK_ROWS", "PART_ROWS", "Part", "Parted", "plan_parts"]

#: Rows a compressed chunk holds: about what a training block draws.
CHUNK_ROWS = 256

P = TypeVar("P", bound="Parted")


class Parted:
    """What sparse and dense parted matrices share: the group, its parts, which of them have landed."""

    kind = ""

    def __init__(self, path: Path, spec: dict[str, Any]) -> None:
        self.path = path
        self.spec = spec
        self.n_rows = int(spec["n_rows"])
        bounds = spec["bounds"]
        self.parts = tuple(
            Part(i, slice_index, start, stop)
            for i, (slice_index, start, stop) in enumerate(
                zip(spec["slices"], bounds[:-1], bounds[1:], strict=True)
            )
        )
        self._starts = np.asarray(bounds[:-1], dtype=np.int64)

    @classmethod
    def _create(cls: type[P], path: Path, parts: Sequence[Part], key: str, **facts: Any) -> P:
        bounds = [part.start for part in parts] + [parts[-1].stop if parts else 0]
        spec = {
            "kind": cls.kind,
            "n_rows": bounds[-1],
            "bounds": bounds,
            "slices": [part.slice_index for part in parts],
            "key": key,
            **facts,
        }
        if path.exists() and _read_spec(path) != spec:
            shutil.rmtree(path)
        if not path.exists():
            fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
            write_group(fresh, {"atlasnmf": spec})
            fresh.rename(path)
        for leftover in path.glob(".part-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        return cls(path, spec)

    @classmethod
    def open(cls: type[P], path: Path | str) -> P:
        """Open a matrix that exists.

        Raises
        ------
        BadInput
            There is none, or it is of another kind.
        """
        path = Path(path)
        spec = _read_spec(path)
        if spec is None or spec.get("kind") != cls.kind:
            raise BadInput(f"{path} holds no {cls.kind} rows of a working copy; run atlasnmf prepare")
        return cls(path, spec)

    def part_path(self, index: int) -> Path:
        """Return where a part lies once it has landed."""
        return self.path / f"part-{index:05d}"

    def has_part(self, index: int) -> bool:
        """Whether a part has landed."""
        return self.part_path(index).exists()

    def missing(self) -> list[Part]:
        """Parts that have not landed, in order."""
        return [part for part in self.parts if not self.has_part(part.index)]

    @property
    def complete(self) -> bool:
        """Whether every part has landed."""
        return not self.missing()

    def nbytes_stored(self) -> int:
        """Bytes on disk."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())

    def _land(self, index: int, write: Callable[[Path], None]) -> None:
        fresh = self.path / f".part-{index:05d}.{uuid.uuid4().hex[:8]}"
        try:
            with full_disk_is_said(self.path):
                write(fresh)
                os.rename(fresh, self.part_path(index))
        except OSError:
            # another worker may have landed the same part while a lost task was run again
            if not self.has_part(index):
                raise
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def _overlaps(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """Return (part, first row, end row), rows counted within the part."""
        if not 0 <= start <= stop <= self.n_rows:
            raise IndexError(f"rows {start}:{stop} are outside the {self.n_rows} rows of {self.path.name}")
        overlaps = []
        index = int(np.searchsorted(self._starts, start, side="right")) - 1
        while start < stop:
            part = self.parts[index]
            end = min(stop, part.stop)
            overlaps.append((index, start - part.start, end - part.start))
            start, index = end, index + 1
        return overlaps

    def _runs(self, rows: np.ndarray) -> tuple[list[tuple[int, int]], np.ndarray]:
        """Return runs of rows to read, and where each wanted row lies among the rows read."""
        wanted, inverse = np.unique(np.asarray(rows, dtype=np.int64), return_inverse=True)
        if not wanted.size:
            return [], inverse
        # reading on costs less than seeking while the gap is shorter than half a chunk
        breaks = np.flatnonzero(np.diff(wanted) > CHUNK_ROWS // 2)
        starts = wanted[np.r_[0, breaks + 1]]
        stops = wanted[np.r_[breaks, len(wanted) - 1]] + 1
        base = np.r_[0, np.cumsum(stops - starts)[:-1]]
        run = np.searchsorted(starts, wanted, side="right") - 1
        place = base[run] + wanted - starts[run]
        return [(int(a), int(b)) for a, b in zip(starts, stops, strict=True)], place[inverse]


def _read_spec(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads((path / "zarr.json").read_text())["attributes"]["atlasnmf"]
    except (OSError, ValueError, KeyError):
        return None
