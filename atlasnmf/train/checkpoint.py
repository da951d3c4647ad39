"""Checkpoints: one safetensors file, replaced whole or not at all, never a pickle."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from atlasnmf.errors import BadInput
from atlasnmf.events import SILENT, Events
from atlasnmf.train.method import Method

__all__ = ["Checkpoint", "Saves", "fit_key"]

#: Raised when the meaning of the file changes; a checkpoint of another format is not resumed.
FORMAT = 1
#: Times as long as a save took that pass before the clock asks for the next.
_SHARE_OF_TIME = 20

S = TypeVar("S")


def fit_key(params: Mapping[str, Any]) -> str:
    """Hash everything that decides the bits of a fit: parameters, seed, input fingerprint, upstream keys.

    Examples
    --------
    >>> fit_key({"seed": 0, "n_factors": 20}) == fit_key({"n_factors": 20, "seed": 0})
    True
    >>> fit_key({"seed": 0}) == fit_key({"seed": 1})
    False
    """
    text = json.dumps(params, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class Saves(Protocol):
    """Where the loop keeps its state."""

    def restore(self, method: Method[S, Any]) -> tuple[S, int] | None:
        """Return the last state and its step, or None to begin."""
        ...

    def due(self, step: int) -> bool:
        """Say whether it is time to save."""
        ...

    def save(self, method: Method[S, Any], state: S, step: int) -> None:
        """Keep the state of ``step``."""
        ...


class _Nowhere:
    def restore(self, method: Method[S, Any]) -> tuple[S, int] | None:
        return None

    def due(self, step: int) -> bool:
        return False

    def save(self, method: Method[S, Any], state: S, step: int) -> None:
        pass


@dataclass
class Checkpoint:
    """The state of one fit, in ``<directory>/<method name>-<key>.safetensors``.

    Tensors, scalars and the step share one file, so one ``os.replace`` commits them together. The file
    carries the method's name, the fit key and a checksum: a checkpoint of other parameters, of another
    format, torn or altered is never resumed; it is named in a warning and the fit begins again.

    Parameters
    ----------
    directory
        Made when first needed.
    key
        :func:`fit_key` of everything that decides the bits of the fit.
    every_steps, every_s
        Save after this many steps or this many seconds, whichever comes first; after more seconds where a
        state is so large that saving would take a twentieth of the time. None of it changes a result.
    events
        Told of what is restored and of what is refused.
    writes
        False on all ranks but the first: they restore the same file and leave writing to it.
    """

    directory: Path
    key: str
    every_steps: int = 500
    every_s: float = 60.0
    events: Events = SILENT
    writes: bool = True

    def __post_init__(self) -> None:
        self.directory = Path(self.directory)
        self._saved_step: int | None = None
        self._saved_at = time.monotonic()
        self._saving_s = 0.0

    @staticmethod
    def none() -> Saves:
        """Return a place that keeps nothing."""
        return _Nowhere()

    def path(self, name: str) -> Path:
        """Return the file of a method."""
        return self.directory / f"{name}-{self.key[:16]}.safetensors"

    def due(self, step: int) -> bool:
        """Say whether it is time to save."""
        waited = time.monotonic() - self._saved_at
        often_enough = max(self.every_s, _SHARE_OF_TIME * self._saving_s)
        return self.writes and (step - (self._saved_step or 0) >= self.every_steps or waited >= often_enough)

    def save(self, method: Method[S, Any], state: S, step: int) -> None:
        """Write the state of ``step``, durable and complete, or leave the file as it was.

        Raises
        ------
        BadInput
            The disk refused it; the last checkpoint is still there.
        TypeError
            A scalar is not JSON.
        """
        if not self.writes or step == self._saved_step:
            return
        began = time.monotonic()
        tensors, scalars = method.pack(state)
        write_checkpoint(self.path(method.name), method.name, self.key, step, tensors, scalars)
        self._saved_step, self._saved_at = step, time.monotonic()
        self._saving_s = self._saved_at - began

    def restore(self, method: Method[S, Any]) -> tuple[S, int] | None:
        """Return the saved state and its step, or None when there is nothing that may be resumed."""
        path = self.path(method.name)
        if not path.exists():
            return None
        try:
            step, tensors, scalars = read_checkpoint(path, method.name, self.key)
        except _Unusable as problem:
            self.events.warn(f"not resuming from {path}: {problem}; starting from the beginning")
            return None
        self._saved_step, self._saved_at = step, time.monotonic()
        self.events.note(f"resuming {method.name} after step {step}")
        return method.unpack(tensors, scalars), step

    def step(self, name: str) -> int | None:
        """Return the step of the stored checkpoint without its tensors; None if none can be resumed."""
        try:
            return int(_read_header(self.path(name), name, self.key)["step"])
        except (_Unusable, FileNotFoundError):
            return None


class _Unusable(Exception):
    """Why a file cannot be resumed."""


def write_checkpoint(
    path: Path,
    name: str,
    key: str,
    step: int,
    tensors: Mapping[str, np.ndarray],
    scalars: Mapping[str, Any],
) -> None:
    """Write one checkpoint under a temporary name, force it to the disk, then rename it into place."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    arrays = {label: np.asarray(tensor, order="C") for label, tensor in tensors.items()}
    header = {
        "format": FORMAT,
        "name": name,
        "key": key,
        "step": step,
        "checksum": _checksum(arrays),
        "scalars": dict(scalars),
    }
    metadata = {"atlasnmf": json.dumps(header)}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(arrays, temporary, metadata=metadata)
        _force_to_disk(temporary)
        os.replace(temporary, path)
        # Some filesystems refuse fsync on a directory; the rename is atomic all the same.
        with contextlib.suppress(OSError):
            _force_to_disk(path.parent)
    except (OSError, SafetensorError) as problem:
        raise BadInput(
            f"cannot write the checkpoint {path}: {problem}; free some space there or move it (--work-dir)"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


def read_checkpoint(path: Path, name: str, key: str) -> tuple[int, dict[str, np.ndarray], dict[str, Any]]:
    """Read one checkpoint back: step, tensors, scalars."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    header = _read_header(path, name, key)
    try:
        arrays = load_file(path)
    except (SafetensorError, OSError) as problem:
        raise _Unusable(f"it is damaged ({problem})") from None
    if _checksum(arrays) != header["checksum"]:
        raise _Unusable("it is damaged (its checksum does not match)")
    return int(header["step"]), arrays, header["scalars"]


def _read_header(path: Path, name: str, key: str) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {})["atlasnmf"])
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError) as problem:
        raise _Unusable(f"it is damaged ({problem})") from None
    except (KeyError, ValueError):
        raise _Unusable("it is not a checkpoint of atlasnmf") from None
    if header.get("format") != FORMAT:
        raise _Unusable(f"it has format {header.get('format')}, this version reads {FORMAT}")
    if header.get("name") != name or header.get("key") != key:
        raise _Unusable("it belongs to a fit with other parameters")
    return header


def _checksum(arrays: Mapping[str, np.ndarray]) -> int:
    total = 0
    for label in sorted(arrays):
        array = arrays[label]
        total = zlib.crc32(f"{label}{array.dtype}{array.shape}".encode(), total)
        total = zlib.crc32(array.reshape(-1).view(np.uint8).data, total)
    return total


def _force_to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
