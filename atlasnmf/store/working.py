"""The working copy beside a store: spatially sorted rows, vectors, the ledger and the lock."""

from __future__ import annotations

import json
import shutil
import uuid
import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.budget import format_bytes
from atlasnmf.errors import BadInput, BadOption
from atlasnmf.store.ledger import Ledger, key_of, write_json
from atlasnmf.store.locks import StoreLock
from atlasnmf.store.parts import Part, PartedCsr, PartedDense
from atlasnmf.store.paths import local_path, working_path
from atlasnmf.store.shards import ShardReader, write_group, write_shard

if TYPE_CHECKING:
    from atlasnmf.store.atlas import Atlas

__all__ = ["FORMAT", "WorkingCopy"]

#: Raised whenever the files of a working copy change their meaning.
FORMAT = 1
_VECTOR_CHUNK = 1 << 16
#: Where the copies of other tables or slices of a store lie, and what they are told apart by.
_OTHERS, _CHOICES = "others", ("tables", "slices", "layer", "coordinate_system")


class WorkingCopy:
    """A directory of named zarr groups, made from one atlas.

    Parameters
    ----------
    path
        The directory.
    lock
        The lock of the store it belongs to: ``with working.lock(): ...``.
    """

    def __init__(self, path: Path, lock: StoreLock | None = None) -> None:
        self.path = path
        self.lock = lock or StoreLock(path / "lock")
        self.ledger = Ledger(path / "ledger.json")

    @classmethod
    def open(cls, atlas: Atlas, work_dir: Path | str | None = None) -> WorkingCopy:
        """Open the working copy of an atlas, or begin one.

        The first tables and slices of a store that are asked for lie in the directory itself, others in
        directories of their own below it.

        Parameters
        ----------
        atlas
            The atlas; one that lives in memory gets a temporary directory unless ``work_dir`` is given.
        work_dir
            Another place than beside the store.

        Raises
        ------
        BadInput
            The directory is of another version or another input, or not a working copy.
        """
        if atlas.path is None and work_dir is None:
            return cls._temporary(atlas)
        path = working_path(atlas.path, work_dir) if atlas.path else Path(work_dir or "")
        working = cls(path, atlas.lock)
        if working._is_of_others(atlas):
            working = cls(path / _OTHERS / key_of(_chosen(atlas.source_options()))[:12], atlas.lock)
        if (working.path / "format.json").exists():
            working._check(atlas)
        else:
            working._begin(atlas)
        return working

    @classmethod
    def _temporary(cls, atlas: Atlas) -> WorkingCopy:
        if not atlas.scratch.exists():
            atlas.scratch.mkdir(parents=True)
            weakref.finalize(atlas, shutil.rmtree, atlas.scratch, ignore_errors=True)
        working = cls(atlas.scratch, atlas.lock)
        if not (working.path / "format.json").exists():
            working._begin(atlas)
        return working

    @classmethod
    def find(cls, store: Path | str, work_dir: Path | str | None = None) -> WorkingCopy | None:
        """Return the working copy of a store as it lies there, unchecked; None when there is none.

        Of several, that of the tables and slices that were asked for first.
        """
        return next(iter(cls.find_all(store, work_dir)), None)

    @classmethod
    def find_all(cls, store: Path | str, work_dir: Path | str | None = None) -> list[WorkingCopy]:
        """Return the working copies of all choices of a store's tables and slices, the first one first."""
        path, lock = working_path(local_path(store), work_dir), working_path(local_path(store)) / "lock"
        places = [path, *sorted((path / _OTHERS).glob("*"))]
        return [cls(place, StoreLock(lock)) for place in places if (place / "format.json").exists()]

    def facts(self) -> dict[str, Any]:
        """Return the format, the fingerprint by part of the input, and the options of ``open_atlas``."""
        try:
            return json.loads((self.path / "format.json").read_text())
        except (OSError, ValueError):
            raise BadInput(f"{self.path} is not a working copy; name another --work-dir") from None

    def _begin(self, atlas: Atlas) -> None:
        entries = self.path.iterdir() if self.path.exists() else iter(())
        if any(entry.name not in ("lock", "journal.json") and entry.name[0] != "." for entry in entries):
            raise BadInput(
                f"{self.path} exists but is not a working copy; move it away or name another --work-dir"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        facts = {"format": FORMAT, "fingerprint": atlas.fingerprint_parts(), "source": atlas.source_options()}
        write_json(self.path / "format.json", facts)
        write_group(self.path)

    def _is_of_others(self, atlas: Atlas) -> bool:
        """Say whether this copy is of other tables or slices of the same store."""
        if not (self.path / "format.json").exists():
            return False
        facts = self.facts()
        return facts.get("format") == FORMAT and _chosen(facts["source"]) != _chosen(atlas.source_options())

    def _check(self, atlas: Atlas) -> None:
        facts = self.facts()
        mend = f"delete it (rm -r {self.path}) or name another --work-dir"
        if facts.get("format") != FORMAT:
            raise BadInput(
                f"the working copy {self.path} is of format {facts.get('format')}, "
                f"this version of atlasnmf reads {FORMAT}; {mend}"
            )
        stored, current = facts["fingerprint"], atlas.fingerprint_parts()
        changed = sorted(
            name for name in stored.keys() | current.keys() if stored.get(name) != current.get(name)
        )
        if changed:
            then = facts.get("source", {}).get("slice_key")
            if "slice_key" in changed and then:
                mend = f"open it with --slice-key {then} as then, {mend}"
            raise BadInput(
                f"the working copy {self.path} was made from another input "
                f"(different: {', '.join(changed)}); {mend}"
            )

    def sweep(self) -> None:
        """Delete files on the way that a dead process left; only the holder of the lock may."""
        for leftover in (*self.path.glob(".spill-*"), *self.path.glob("vectors/.*")):
            if not leftover.name.endswith(".old"):
                shutil.rmtree(leftover, ignore_errors=True)

    def locked(self) -> AbstractContextManager[None]:
        """Hold the store's lock; raises :class:`~atlasnmf.errors.StoreBusy` at once when another has it."""
        return self.lock()

    def csr(self, name: str) -> PartedCsr:
        """Open sparse rows by name."""
        return PartedCsr.open(self.path / name)

    def dense(self, name: str) -> PartedDense:
        """Open dense rows by name."""
        return PartedDense.open(self.path / name)

    def create_csr(
        self, name: str, parts: Sequence[Part], *, n_cols: int, dtype: Any = None, key: str = ""
    ) -> PartedCsr:
        """Begin or go on with sparse rows (see :meth:`~atlasnmf.store.parts.PartedCsr.create`)."""
        return PartedCsr.create(self.path / name, parts, n_cols=n_cols, dtype=dtype, key=key)

    def create_dense(
        self,
        name: str,
        parts: Sequence[Part],
        *,
        row_shape: int | tuple[int, ...],
        dtype: Any = np.float32,
        key: str = "",
    ) -> PartedDense:
        """Begin or go on with dense rows (see :meth:`~atlasnmf.store.parts.PartedDense.create`)."""
        return PartedDense.create(self.path / name, parts, row_shape=row_shape, dtype=dtype, key=key)

    def has(self, name: str) -> bool:
        """Whether rows of this name exist, finished or not."""
        return (self.path / name / "zarr.json").exists()

    def remove(self, name: str) -> None:
        """Delete rows or a vector."""
        for path in (self.path / name, self._vector_path(name)):
            shutil.rmtree(path, ignore_errors=True)
        self._vector_path(name).with_suffix(".json").unlink(missing_ok=True)

    def put_vector(self, name: str, values: Any) -> None:
        """Keep an array of numbers of any shape, or a list of strings, in one step.

        Parameters
        ----------
        name
            Name; an older vector of that name is replaced.
        values
            Numbers or booleans as an array, or a sequence of strings.
        """
        array = np.asarray(values)
        target = self._vector_path(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        if array.dtype.kind in "OUST":
            write_json(target.with_suffix(".json"), [str(value) for value in array])
            return
        shape = array.shape
        fresh = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
        # a chunk is padded to its full size: one of few, long rows must not be cut as if it had many
        rows = array.reshape(1) if not shape else array
        write_shard(fresh, rows, min(_VECTOR_CHUNK, max(len(rows), 1)))
        old = target.with_name(f".{target.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            target.rename(old)
        fresh.rename(target)
        shutil.rmtree(old, ignore_errors=True)

    def vector(self, name: str) -> np.ndarray:
        """Return a kept array (strings as an object array).

        Raises
        ------
        BadInput
            There is none of that name.
        """
        target = self._vector_path(name)
        old = target.with_name(f".{target.name}.old")
        if old.exists() and not target.exists():  # a process died between two renames
            old.rename(target)
        if target.exists():
            reader = ShardReader(target)
            return reader.read(0, reader.shape[0])
        if target.with_suffix(".json").exists():
            return np.array(json.loads(target.with_suffix(".json").read_text()), dtype=object)
        raise BadInput(f"{self.path} has no vector {name!r}; run atlasnmf prepare")

    def _vector_path(self, name: str) -> Path:
        return self.path / "vectors" / name

    def nbytes_stored(self) -> dict[str, int]:
        """Return bytes on disk by name of the entry."""
        return {
            entry.name: sum(file.stat().st_size for file in entry.rglob("*") if file.is_file())
            for entry in sorted(self.path.iterdir())
            if entry.is_dir()
        }

    def require_disk(self, n_bytes: int, what: str) -> None:
        """Refuse before working when the disk is too small.

        Raises
        ------
        BadOption
            Saying what is needed and what is free.
        """
        free = shutil.disk_usage(self.path).free
        if n_bytes > free:
            raise BadOption(
                f"{what} needs {format_bytes(n_bytes)} of disk but {self.path} has {format_bytes(free)}; "
                "free some or name another --work-dir"
            )


def _chosen(source: dict[str, Any]) -> dict[str, Any]:
    """Return what was chosen of a store, out of the options that open it."""
    return {name: source.get(name) for name in _CHOICES}
