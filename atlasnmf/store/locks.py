"""One writer at a time: a lock beside the store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from atlasnmf.errors import StoreBusy
from atlasnmf.store.disk import refuse_unwritable

__all__ = ["StoreLock"]


class StoreLock:
    """The lock of one store; who holds it may take it again through the same object.

    Parameters
    ----------
    path
        The lock file. It stays behind; the lock itself ends with the process, whatever ends that.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_lock": None}  # a lock held here is not held there

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Hold the lock.

        Raises
        ------
        StoreBusy
            Another process, or another handle in this one, holds it; at once, without waiting.
        BadInput
            The place of the lock cannot be written.
        """
        import filelock

        mend = "working copies and their locks lie beside a store: copy the store to a place you may write"
        refuse_unwritable(self.path.parent, mend)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self._lock is None:
            self._lock = filelock.FileLock(self.path, thread_local=False)
        try:
            self._lock.acquire(blocking=False)
        except filelock.Timeout:
            raise StoreBusy(
                f"someone else is writing this store (they hold the lock {self.path}); wait for them to end"
            ) from None
        try:
            yield
        finally:
            self._lock.release()
