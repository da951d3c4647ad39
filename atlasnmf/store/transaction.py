"""All or nothing: new nodes are made beside the store, then moved in under a journal that can be replayed."""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
import warnings
from pathlib import Path
from typing import Any

from atlasnmf.store.ledger import write_json
from atlasnmf.store.locks import StoreLock
from atlasnmf.store.paths import working_path

__all__ = ["JOURNAL", "Transaction", "finish_interrupted"]

JOURNAL = "journal.json"
_STAGING = ".staging-"
_ZARR_PARTIAL = re.compile(r"\.[0-9a-f]{32}\.partial$")


class Transaction:
    """Changes of a store that all happen or none.

    Nodes are made in :attr:`staging`, on the same file system as the store, where no reader looks. Until
    :meth:`commit` writes its journal nothing has happened; from then on the changes are made, and made again
    by whoever opens the store next if the process dies among them. Call it under the store's lock.

    Parameters
    ----------
    store
        The store.
    """

    def __init__(self, store: Path) -> None:
        self.store = store
        self.directory = working_path(store)
        self.staging = self.directory / f"{_STAGING}{uuid.uuid4().hex[:8]}"
        self._moves: list[list[str]] = []

    def begin(self) -> None:
        """Sweep away what a process that died before its commit left behind, and make room."""
        for leftover in self.directory.glob(f"{_STAGING}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        self.staging.mkdir(parents=True)

    def place(self, target: str) -> Path:
        """Return where to make the node (or file) that will go to ``target`` of the store."""
        name = f"{len(self._moves):04d}"
        self._moves.append([name, target])
        return self.staging / name

    def delete(self, target: str) -> None:
        """Delete a node of the store."""
        self._moves.append(["", target])

    def commit(self) -> None:
        """Make the changes."""
        _sync(self.staging)
        journal = {"store": str(self.store), "staging": self.staging.name, "moves": self._moves}
        write_json(self.directory / JOURNAL, journal)
        _replay(self.store, self.directory, journal)

    def abandon(self) -> None:
        """Forget what was made, unless it has been committed."""
        if not (self.directory / JOURNAL).exists():
            shutil.rmtree(self.staging, ignore_errors=True)


def finish_interrupted(store: Path, lock: StoreLock) -> bool:
    """Finish the changes of a process that died among them; return whether there were any.

    While another process holds the lock nothing is done: the changes are under way.
    """
    from atlasnmf.errors import StoreBusy

    journal = working_path(store) / JOURNAL
    if not journal.exists():
        return False
    try:
        with lock():
            if journal.exists():
                _replay(store, journal.parent, json.loads(journal.read_text()))
    except StoreBusy:
        return False
    return True


def _replay(store: Path, directory: Path, journal: dict[str, Any]) -> None:
    staging = directory / journal["staging"]
    for number, (name, target) in enumerate(journal["moves"]):
        source, destination, old = staging / name, store / target, staging / f"old-{number:04d}"
        if name and not source.exists():
            continue  # moved before the process died
        if name and source.is_file():
            os.replace(source, destination)
            continue
        if destination.exists():
            os.rename(destination, old)
        if name:
            destination.parent.mkdir(parents=True, exist_ok=True)
            os.rename(source, destination)
    for group in _consolidated_groups(store, [target for _, target in journal["moves"]]):
        _consolidate(group)
    (directory / JOURNAL).unlink()
    shutil.rmtree(staging, ignore_errors=True)


def _consolidated_groups(store: Path, targets: list[str]) -> list[Path]:
    """Return groups above the targets that keep a copy of their children's metadata, innermost first."""
    above = {store / parent for target in targets for parent in Path(target).parents}
    return [path for path in sorted(above, key=lambda p: -len(p.parts)) if _is_consolidated(path)]


def _is_consolidated(group: Path) -> bool:
    if (group / ".zmetadata").exists():
        return True
    try:
        return bool(json.loads((group / "zarr.json").read_text()).get("consolidated_metadata"))
    except FileNotFoundError:
        return False


def _consolidate(group: Path) -> None:
    """Gather the metadata anew; zarr replaces the file that holds it in one step."""
    import zarr

    for leftover in group.glob("*.partial"):
        if _ZARR_PARTIAL.search(leftover.name):  # of a process that died while zarr was writing
            leftover.unlink()
    with warnings.catch_warnings():
        # parquet files of shapes and points are no zarr nodes, and zarr says so for each
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(str(group), zarr_format=2 if (group / ".zgroup").exists() else 3)


def _sync(directory: Path) -> None:
    """Bring what was made to the disk before the journal says it is there."""
    for folder, _, names in os.walk(directory):
        for name in names:
            descriptor = os.open(os.path.join(folder, name), os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
