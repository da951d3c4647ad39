"""The figures of every step: in memory, and one JSON line a step on disk."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np

from atlasnmf.errors import BadInput
from atlasnmf.events import SILENT, Events
from atlasnmf.train.method import Callback

__all__ = ["History"]


class History(Callback):
    """The figures of a run by step; with a path, also ``metrics.jsonl``, from which a resume restores them.

    A line is ``{"step": 3, "time": 1718000000.1, "loss": 12.5}``; a figure that is not finite is written as
    a string, so every line is strict JSON. Lines past the step that is resumed are dropped, and so is a line
    torn by a kill.

    Parameters
    ----------
    path
        The JSON lines file; None keeps the figures in memory only.
    events
        Told when lines are missing.
    writes
        False on all ranks but the first: they restore from the same file and leave writing to it.
    """

    def __init__(self, path: Path | None = None, *, events: Events = SILENT, writes: bool = True) -> None:
        self._writes = writes
        self.path = None if path is None else Path(path)
        self._events = events
        self._file: IO[str] | None = None
        self._n_steps = 0
        self._columns: dict[str, list[float]] = {}

    @property
    def n_steps(self) -> int:
        """Number of steps recorded."""
        return self._n_steps

    def column(self, key: str) -> np.ndarray:
        """Return one figure over the steps, float64, shape (n_steps,), NaN where a step did not give it."""
        values = self._columns.get(key, [])
        return np.array(values + [math.nan] * (self._n_steps - len(values)), dtype=np.float64)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all figures by name, ``step`` (int64) first."""
        return {"step": np.arange(1, self._n_steps + 1), **{key: self.column(key) for key in self._columns}}

    def start(self, step: int) -> None:
        """Restore the figures of the first ``step`` steps and drop the rest.

        Raises
        ------
        BadInput
            The file cannot be written.
        """
        self._n_steps, self._columns = 0, {}
        if self.path is None:
            if step:
                self._append(step, {})
                self._events.warn(f"the figures of the first {step} steps were kept in memory and are gone")
            return
        kept = self._restore(step)
        if self._n_steps < step:
            self._events.warn(f"{self.path} has {self._n_steps} of the {step} steps already done")
            self._append(step, {})
        if not self._writes:
            return
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text("".join(kept))
            os.replace(temporary, self.path)
            self._file = self.path.open("a")
        except OSError as problem:
            raise BadInput(f"cannot write {self.path}: {problem}; free some space there") from None

    def on_step(self, step: int, metrics: dict[str, float]) -> None:
        """Record the figures of one step."""
        figures = {key: float(value) for key, value in metrics.items()}
        self._append(step, figures)
        if self._file is not None:
            record: dict[str, float | str] = {"step": step, "time": round(time.time(), 3)}
            record |= {key: value if math.isfinite(value) else str(value) for key, value in figures.items()}
            self._file.write(json.dumps(record) + "\n")

    def commit(self) -> None:
        """Force the lines to the disk, so that a checkpoint never knows more steps than the file."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; the figures stay in memory."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _restore(self, step: int) -> list[str]:
        """Take the whole lines of the steps 1 .. ``step`` in order; return them."""
        kept: list[str] = []
        if step == 0 or self.path is None or not self.path.exists():
            return kept
        with self.path.open(errors="replace") as lines:
            for line in lines:
                try:
                    record = json.loads(line)
                    at = int(record.pop("step"))
                    record.pop("time", None)
                    figures = {str(key): float(value) for key, value in record.items()}
                except (ValueError, TypeError, KeyError, AttributeError):
                    continue
                if not self._n_steps < at <= step or not line.endswith("\n"):
                    continue
                self._append(at, figures)
                kept.append(line)
        return kept

    def _append(self, step: int, figures: Mapping[str, float]) -> None:
        for key, value in figures.items():
            values = self._columns.setdefault(key, [])
            values.extend([math.nan] * (step - 1 - len(values)))
            values.append(value)
        self._n_steps = step
