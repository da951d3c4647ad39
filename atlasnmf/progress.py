"""Listeners for people: a rich bar on a terminal, plain lines with a time otherwise."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import IO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from atlasnmf.events import Advance, Events

__all__ = ["Bars", "Lines", "for_stream", "spelled"]

_SECONDS_BETWEEN_LINES = 10.0


def spelled(seconds: float) -> str:
    """Return a time as people say it.

    Examples
    --------
    >>> spelled(0.31), spelled(95.0), spelled(5400.0), spelled(200_000.0)
    ('0.3 s', '95 s', '90 min', '56 h')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def _rate(per_second: float) -> str:
    """Return a rate, of slow things by the minute."""
    return f"{per_second:,.0f}/s" if per_second >= 1 else f"{60 * per_second:.1f}/min"


class _Rate(ProgressColumn):
    """How many units a second a bar gets on by."""

    def render(self, task: Task) -> Text:
        """Return the rate of the last seconds, nothing before it is known."""
        return Text(_rate(task.speed) if task.speed else "", style="progress.data.speed")


class Lines:
    """One line per stage and one every ten seconds, each with the time of day."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def _write(self, text: str) -> None:
        self._stream.write(f"{datetime.now():%H:%M:%S} {text}\n")
        self._stream.flush()

    @contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "spots") -> Iterator[Advance]:
        """Write when the stage starts, how it gets on, and how long it took."""
        start = last = time.monotonic()
        done = 0

        def advance(n: int) -> None:
            nonlocal done, last
            done += n
            now = time.monotonic()
            if now - last >= _SECONDS_BETWEEN_LINES:
                last = now
                rate = done / (now - start)
                left = f", {spelled((total - done) / rate)} left" if total and rate > 0 else ""
                of = f" of {total:,}" if total else ""
                self._write(f"{name}: {done:,}{of} {unit}, {_rate(rate)}{left}")

        self._write(f"{name} ...")
        try:
            yield advance
        except BaseException:
            of = f" of {total:,}" if total else ""
            self._write(
                f"{name}: stopped after {spelled(time.monotonic() - start)}, {done:,}{of} {unit} done"
            )
            raise
        elapsed_s = max(time.monotonic() - start, 1e-9)
        rate = f", {done / elapsed_s:,.0f} {unit}/s" if done else ""
        self._write(f"{name}: done in {spelled(elapsed_s)}{rate}")

    def note(self, message: str) -> None:
        """Write the message."""
        self._write(message)

    def warn(self, message: str) -> None:
        """Write the warning."""
        self._write(f"warning: {message}")

    def metrics(self, record: dict[str, float | int | str]) -> None:
        """Leave figures to the metrics file."""


class Bars:
    """A rich bar per stage, with rate and remaining time."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "spots") -> Iterator[Advance]:
        """Show a bar while the stage lasts."""
        columns = (
            TextColumn("{task.description:<28}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            _Rate(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task(name, total=total)
            yield lambda n: progress.advance(task, n)

    def note(self, message: str) -> None:
        """Print the message."""
        self._console.print(message, highlight=False, markup=False)

    def warn(self, message: str) -> None:
        """Print the warning in yellow."""
        self._console.print(Text("warning: ", style="yellow").append(message, style="default"))

    def metrics(self, record: dict[str, float | int | str]) -> None:
        """Leave figures to the metrics file."""


def for_stream(stream: IO[str]) -> Events:
    """Choose the listener that suits a stream."""
    return Bars(Console(file=stream)) if stream.isatty() else Lines(stream)
