"""What a long job tells the world while it works; who listens is decided at the top."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

__all__ = ["SILENT", "Advance", "Events", "Silent"]

Advance = Callable[[int], None]


class Events(Protocol):
    """The listener every long job is given.

    Examples
    --------
    >>> class Warnings(Silent):
    ...     def warn(self, message):
    ...         print("look:", message)
    >>> Warnings().warn("12 spots share their coordinates with another")
    look: 12 spots share their coordinates with another
    """

    def stage(
        self, name: str, total: int | None = None, unit: str = "spots"
    ) -> AbstractContextManager[Advance]:
        """Open a stage of ``total`` units; the returned function advances it."""
        ...

    def note(self, message: str) -> None:
        """Say something worth knowing."""
        ...

    def warn(self, message: str) -> None:
        """Say something the user should look at."""
        ...

    def metrics(self, record: dict[str, float | int | str]) -> None:
        """Pass on the figures of one training step or pass."""
        ...


class Silent:
    """Listens to nothing: the default of the Python interface."""

    def __repr__(self) -> str:
        """Say what signatures show."""
        return "SILENT"

    @contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "spots") -> Iterator[Advance]:
        """Ignore the stage."""
        yield lambda n: None

    def note(self, message: str) -> None:
        """Ignore the message."""

    def warn(self, message: str) -> None:
        """Ignore the warning."""

    def metrics(self, record: dict[str, float | int | str]) -> None:
        """Ignore the figures."""


SILENT = Silent()
