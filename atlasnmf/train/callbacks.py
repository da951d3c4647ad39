"""Some listeners of the loop: progress, what a method says, early stopping, refusing a diverged fit."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from atlasnmf.errors import BadOption
from atlasnmf.events import SILENT, Advance, Events
from atlasnmf.train.history import History
from atlasnmf.train.method import Callback

__all__ = ["EarlyStop", "Progress", "RefuseDivergence", "Tell"]


@dataclass
class Progress(Callback):
    """Pass steps and figures on to the events of the job.

    Parameters
    ----------
    events
        The listener.
    name
        What the stage is called.
    total
        The number of steps, where it is known.
    unit
        What a step is called.
    """

    events: Events
    name: str
    total: int | None = None
    unit: str = "steps"

    def __post_init__(self) -> None:
        self._stage = contextlib.ExitStack()
        self._advance: Advance = lambda n: None

    def start(self, step: int) -> None:
        """Open the stage, as far advanced as the run is."""
        self._advance = self._stage.enter_context(self.events.stage(self.name, self.total, self.unit))
        if step:
            self._advance(step)

    def on_step(self, step: int, metrics: dict[str, float]) -> None:
        """Advance by one and pass the figures on."""
        self._advance(1)
        self.events.metrics({"step": step, **metrics})

    def close(self) -> None:
        """Close the stage."""
        self._stage.close()


@dataclass(frozen=True)
class Tell(Callback):
    """Tells the listener what a method has to say of a step.

    Parameters
    ----------
    events
        The listener.
    line
        ``line(metrics) -> text``, or None when there is nothing to say.
    """

    events: Events
    line: Callable[[Mapping[str, float]], str | None]

    def on_step(self, step: int, metrics: dict[str, float]) -> None:
        """Say it."""
        said = self.line(metrics)
        if said is not None:
            self.events.note(said)


@dataclass(frozen=True)
class RefuseDivergence(Callback):
    """End a fit whose loss is no longer a number, before that state is saved.

    Parameters
    ----------
    key
        The figure to watch.
    mend
        What the user can do about it.
    """

    key: str = "loss"
    mend: str = "lower the learning rate or check the counts for extreme values"

    def on_step(self, step: int, metrics: dict[str, float]) -> None:
        """Look at the loss.

        Raises
        ------
        BadOption
            It is infinite or not a number.
        """
        value = metrics.get(self.key)
        if value is not None and not math.isfinite(value):
            raise BadOption(f"the {self.key} became {value} at step {step}; {self.mend}")


@dataclass(frozen=True)
class EarlyStop(Callback):
    """Stop when the mean loss of a window is hardly better than the best window before it.

    Steps that gave no loss count neither way. Everything is computed from the history, so a resumed fit
    stops at the same step.

    Parameters
    ----------
    history
        The history of the same run; list it before this callback.
    key
        The figure to watch; smaller is better.
    window
        Steps a window.
    tolerance
        The least improvement that counts, relative to the size of the best window mean.
    patience
        Stop after this many windows in a row without one.
    events
        Told that the run stops.
    """

    history: History
    key: str = "loss"
    window: int = 50
    tolerance: float = 1e-3
    patience: int = 2
    events: Events = SILENT
    _seen: dict[str, float] = field(default_factory=dict, init=False, repr=False)

    def stop(self) -> bool:
        """Judge the windows that are complete."""
        n_windows = self.history.n_steps // self.window
        if self._seen.get("windows") != n_windows:
            self._seen["windows"] = n_windows
            self._seen["stop"] = self._plateau(n_windows)
            if self._seen["stop"]:
                self.events.note(
                    f"stopped after step {self.history.n_steps}: no lower {self.key} in "
                    f"{self.patience} windows of {self.window} steps"
                )
        return bool(self._seen["stop"])

    def _plateau(self, n_windows: int) -> bool:
        if n_windows <= self.patience:
            return False
        losses = self.history.column(self.key)[: n_windows * self.window]
        best, stale = np.inf, 0
        for window in losses.reshape(n_windows, self.window):
            known = window[np.isfinite(window)]
            if not known.size:
                continue
            mean = float(known.mean())
            improved = not np.isfinite(best) or mean < best - self.tolerance * abs(best)
            stale = 0 if improved else stale + 1
            best = min(best, mean)
            if stale >= self.patience:
                return True
        return False
