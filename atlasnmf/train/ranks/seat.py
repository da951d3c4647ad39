"""What runs on a worker: one rank of one generation, from the first sum to the last."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from atlasnmf.events import Advance, Events
from atlasnmf.threads import operation_threads
from atlasnmf.train import loop
from atlasnmf.train.checkpoint import Checkpoint, Saves
from atlasnmf.train.method import Callback, Method, Ranked, Units
from atlasnmf.train.ranks.group import Group, RankLost, open_store

__all__ = ["Job", "Outcome", "RankLost", "Seat", "Share", "ask_to_stop", "open_meeting", "take_seat"]

#: Records travel to the client in bundles, about this often.
_BUNDLE_S = 0.25
#: Runs that were asked to stop, by name; set by the client on every worker.
_ASKED: set[str] = set()
#: Meeting places that this process keeps open, by run and generation.
_MEETINGS: dict[tuple[str, int], Any] = {}


@dataclass(frozen=True)
class Share:
    """What one rank trains with; see :func:`atlasnmf.train.loop.run`.

    Parameters
    ----------
    method
        Before it is told of the other ranks.
    units
        This rank's part of every unit.
    sample
        Draws what :meth:`Method.init` looks at; asked on rank 0 alone.
    checkpoint
        Where rank 0 restores and saves; other ranks get the state from rank 0.
    callbacks
        Told of every step on this rank, with the figures of all ranks.
    n_threads
        Threads of an operation.
    """

    method: Ranked[Any, Any]
    units: Units[Any]
    sample: Callable[[], Any]
    checkpoint: Checkpoint | None
    callbacks: Sequence[Callback] = ()
    n_threads: int = 1


class Job(Protocol):
    """A training that ranks can share: small, picklable, the same for every rank."""

    def refusal(self) -> str | None:
        """Say, on a worker, why it cannot take part; None when it can."""
        ...

    def share(self, rank: int, n_ranks: int, device: str, events: Events) -> Share:
        """Open, on a worker, what one rank trains with."""
        ...


@dataclass(frozen=True)
class Seat:
    """One rank of one generation.

    Parameters
    ----------
    run_id, generation
        The run, and how often it has begun.
    rank, n_ranks
        Which one, of how many.
    meeting
        Host and port where ranks find each other.
    device
        ``cpu`` or ``cuda``.
    timeout_s
        A sum that takes longer means that a rank hangs.
    """

    run_id: str
    generation: int
    rank: int
    n_ranks: int
    meeting: tuple[str, int]
    device: str
    timeout_s: float


@dataclass(frozen=True)
class Outcome:
    """What a rank brings home; rank 0 the state, the others nothing of it.

    Parameters
    ----------
    step
        Steps done.
    asked
        The training was asked to stop before its end.
    tensors, scalars
        The packed state.
    """

    step: int
    asked: bool
    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    scalars: dict[str, Any] = field(default_factory=dict)


def ask_to_stop(run_id: str) -> None:
    """Have the ranks of this process stop after the step under way."""
    _ASKED.add(run_id)


def open_meeting(run_id: str, generation: int, n_ranks: int, timeout_s: float) -> tuple[str, int]:
    """Open the place where the ranks of a generation meet, on the worker of rank 0; return host and port."""
    host = _own_address()
    store = open_store(host, n_ranks, timeout_s)
    _MEETINGS[run_id, generation] = store
    return host, store.port


def take_seat(job: Job, seat: Seat) -> Outcome:
    """Train as one rank until the job is done, a rank is lost, or somebody asks to stop.

    Raises
    ------
    RankLost
        Another rank is gone; the last checkpoint is whole.
    """
    from distributed import get_worker

    worker = get_worker()
    key = worker.get_current_task()

    def asks() -> bool:
        # a task that was cancelled goes on until it looks: its client is gone, or has given it up
        task = worker.state.tasks.get(key)
        return seat.run_id in _ASKED or task is None or task.state == "cancelled" or not _serves(worker)

    report = _Report(lambda record: worker.log_event(topic_of(seat.run_id), record), seat)
    with contextlib.ExitStack() as closing:
        closing.callback(_MEETINGS.pop, (seat.run_id, seat.generation), None)
        share = job.share(seat.rank, seat.n_ranks, seat.device, report)
        group = Group(
            seat.rank,
            seat.n_ranks,
            store=seat.meeting,
            host=_own_address(),
            device=seat.device,
            timeout_s=seat.timeout_s,
            asks=asks,
        )
        closing.callback(group.close)
        method: Method[Any, Any] = share.method.with_ranks(group)
        saves = _FromFirst(share.checkpoint or Checkpoint.none(), group, share.sample)
        counter = _Counter()
        listeners = [*share.callbacks, counter, _StopWhenAsked(group)]
        if seat.rank == 0:
            listeners.append(report)
        with operation_threads(share.n_threads):
            state = loop.run(method, share.units, sample=share.sample, checkpoint=saves, callbacks=listeners)
        if seat.rank:
            return Outcome(counter.step, group.asked)
        tensors, scalars = method.pack(state)
        return Outcome(counter.step, group.asked and not method.done(state), dict(tensors), dict(scalars))


def topic_of(run_id: str) -> str:
    """Return the name under which a run's figures travel."""
    return f"atlasnmf-{run_id}"


def _own_address() -> str:
    from distributed import get_worker
    from distributed.comm import get_address_host

    address = get_worker().address
    return "127.0.0.1" if address.startswith("inproc") else get_address_host(address)


def _serves(worker: Any) -> bool:
    return worker.status.name in ("running", "paused", "init")


@dataclass
class _FromFirst:
    """Rank 0 restores or begins; everyone starts from its state."""

    checkpoint: Saves
    group: Group
    sample: Callable[[], Any]

    def restore(self, method: Method[Any, Any]) -> tuple[Any, int]:
        if self.group.rank == 0:
            restored = self.checkpoint.restore(method)
            state, step = restored if restored is not None else (method.init(self.sample()), 0)
            tensors, scalars = method.pack(state)
            self.group.share((tensors, {"state": scalars, "step": step}))
            return state, step
        tensors, both = self.group.share(None)
        return method.unpack(tensors, both["state"]), int(both["step"])

    def due(self, step: int) -> bool:
        return self.group.rank == 0 and self.checkpoint.due(step)

    def save(self, method: Method[Any, Any], state: Any, step: int) -> None:
        if self.group.rank == 0:
            self.checkpoint.save(method, state, step)


@dataclass
class _Counter(Callback):
    step: int = 0

    def start(self, step: int) -> None:
        self.step = step

    def on_step(self, step: int, metrics: dict[str, float]) -> None:
        self.step = step


@dataclass
class _StopWhenAsked(Callback):
    group: Group

    def stop(self) -> bool:
        return self.group.asked


class _Report(Callback):
    """Sends steps, figures and messages to the client; also the listener of what the rank does."""

    def __init__(self, send: Callable[[dict[str, Any]], None], seat: Seat) -> None:
        self._send, self._generation, self._rank = send, seat.generation, seat.rank
        self._waiting: list[list[Any]] = []
        self._sent = time.monotonic()

    def start(self, step: int) -> None:
        self._tell({"start": step})

    def on_step(self, step: int, metrics: dict[str, float]) -> None:
        self._waiting.append([step, {key: float(value) for key, value in metrics.items()}])
        if time.monotonic() - self._sent > _BUNDLE_S:
            self._flush()

    def commit(self) -> None:
        self._flush()

    def close(self) -> None:
        self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._tell({"steps": self._waiting})
        self._waiting, self._sent = [], time.monotonic()

    def _tell(self, record: dict[str, Any]) -> None:
        self._send({"generation": self._generation, **record})

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "spots") -> Any:
        advance: Advance = lambda n: None  # noqa: E731
        yield advance

    def note(self, message: str) -> None:
        if self._rank == 0:
            self._tell({"note": message})

    def warn(self, message: str) -> None:
        self._tell({"warn": message if self._rank == 0 else f"rank {self._rank}: {message}"})

    def metrics(self, record: dict[str, float | int | str]) -> None:
        pass
