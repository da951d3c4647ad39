"""What has been done: one line per stage, with what it depended on."""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atlasnmf.errors import BadInput

__all__ = ["Ledger", "key_of", "write_json"]


def key_of(*depends_on: Any) -> str:
    """Hash parameters and upstream keys to a stage key.

    Examples
    --------
    >>> key_of({"radius": 1.5}, "upstream") == key_of({"radius": 1.5}, "upstream")
    True
    >>> key_of({"radius": 1.5}) == key_of({"radius": 1.6})
    False
    """
    text = json.dumps(depends_on, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file in one step: readers see the old text or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with open(fresh, "w") as file:
            json.dump(value, file, indent=1, default=_plain)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)


class Ledger:
    """Stages done and running, in a JSON file replaced at every change.

    Parameters
    ----------
    path
        The file; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def stages(self) -> dict[str, dict[str, Any]]:
        """Return every stage: its key, status (running or done), params, seconds, when, facts."""
        return self._read()["stages"]

    def is_done(self, stage: str, key: str) -> bool:
        """Whether a stage has been finished with this key."""
        record = self.stages().get(stage, {})
        return record.get("status") == "done" and record.get("key") == key

    def facts(self, stage: str) -> dict[str, Any]:
        """Return what a finished stage left as facts, empty when it is not done."""
        record = self.stages().get(stage, {})
        return record.get("facts", {}) if record.get("status") == "done" else {}

    def start(self, stage: str, key: str, params: Mapping[str, Any] | None = None) -> None:
        """Note that a stage is running; it is no longer done, whatever it was."""
        record = {"key": key, "status": "running", "params": dict(params or {}), "when": _now()}
        self._change(lambda book: book["stages"].update({stage: record}))

    def finish(self, stage: str, key: str, *, seconds: float, facts: Mapping[str, Any] | None = None) -> None:
        """Note that a stage is done."""

        def change(book: dict[str, Any]) -> None:
            record = book["stages"].get(stage, {})
            record |= {"key": key, "status": "done", "seconds": round(seconds, 3), "when": _now()}
            record |= {"facts": dict(facts or {})}
            book["stages"][stage] = record

        self._change(change)

    def forget(self, stage: str) -> None:
        """Drop a stage."""
        self._change(lambda book: book["stages"].pop(stage, None))

    def interrupted_fit(self) -> dict[str, Any] | None:
        """Return what :meth:`start_fit` noted of a fit that has not ended, or None."""
        return self._read()["fit"]

    def start_fit(self, model: str, params: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        """Note a fit before its first step: all ``resume`` needs to go on with it."""
        fit = {"model": model, "params": dict(params), "options": dict(options), "when": _now()}
        self._change(lambda book: book.update(fit=fit))

    def end_fit(self) -> None:
        """Note that the fit has ended."""
        self._change(lambda book: book.update(fit=None))

    def _read(self) -> dict[str, Any]:
        try:
            book = json.loads(self.path.read_text())
        except FileNotFoundError:
            book = {}
        except ValueError:
            raise BadInput(
                f"{self.path} cannot be read as JSON; delete {self.path.parent} and run again, "
                "it is made anew from the store"
            ) from None
        return {"stages": {}, "fit": None} | book

    def _change(self, change: Any) -> None:
        book = self._read()
        change(book)
        write_json(self.path, book)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
