"""The one training loop: restore, step, tell, save."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TypeVar

from atlasnmf.errors import Interrupted
from atlasnmf.train.checkpoint import Checkpoint, Saves
from atlasnmf.train.interrupts import deferred_interrupts
from atlasnmf.train.method import Callback, Method, Units

__all__ = ["run"]

S = TypeVar("S")
U = TypeVar("U")


def run(
    method: Method[S, U],
    units: Units[U],
    *,
    sample: Callable[[], U],
    checkpoint: Saves | None = None,
    callbacks: Sequence[Callback] = (),
) -> S:
    """Train until the method is done, a callback asks to stop, or the units end.

    Parameters
    ----------
    method
        What a step does.
    units
        Gives the unit of every position, so a resumed run sees the units it would have seen.
    sample
        Draws the unit that :meth:`Method.init` looks at; called only when nothing can be restored.
    checkpoint
        Where the state is kept; None keeps nothing.
    callbacks
        Told of every step, in order. Steps are counted from 1: after step n the checkpoint says n.

    Returns
    -------
    S
        The last state; it has also been saved.

    Raises
    ------
    Interrupted
        Ctrl-C or SIGTERM: the step under way was finished and the state saved. The caller adds the resume
        command. A second Ctrl-C stops at once, and a resume starts from the last save.
    """
    saves = Checkpoint.none() if checkpoint is None else checkpoint
    restored = saves.restore(method)
    state, step = restored if restored is not None else (method.init(sample()), 0)

    def save() -> None:
        for callback in callbacks:
            callback.commit()
        saves.save(method, state, step)

    with deferred_interrupts() as interrupt, contextlib.ExitStack() as closing:
        for callback in callbacks:
            closing.callback(callback.close)
            callback.start(step)
        stream = units.starting_at(step)
        if hasattr(stream, "close"):
            closing.callback(stream.close)
        whole = True  # the state is that of `step`; never save the inside of a step
        try:
            while not (method.done(state) or any(callback.stop() for callback in callbacks)):
                unit = next(stream, None)
                interrupt.check()
                if unit is None:
                    break
                whole = False
                state, metrics = method.step(state, unit)
                step += 1
                for callback in callbacks:
                    callback.on_step(step, metrics)
                whole = True
                if saves.due(step):
                    save()
        except KeyboardInterrupt:
            if whole:
                save()
            raise Interrupted(f"{method.name} was interrupted after step {step}", "") from None
        save()
    return state
