"""The client's side: choose workers, seat the ranks, listen, and begin again when a worker is lost."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from atlasnmf.errors import AtlasError, BadInput, Interrupted
from atlasnmf.events import SILENT, Events
from atlasnmf.reduce.workers import TRAINING, addresses, greet, settled_device
from atlasnmf.train.interrupts import Interrupt, deferred_interrupts
from atlasnmf.train.method import Callback
from atlasnmf.train.ranks.seat import (
    Job,
    Outcome,
    RankLost,
    Seat,
    ask_to_stop,
    open_meeting,
    take_seat,
    topic_of,
)

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["Terms", "train_on_workers"]

#: One training at a time on a cluster: two would each seat half of their ranks and wait for ever.
_LOCK = "atlasnmf-ranks"
#: How long other ranks may take to hear that one is gone.
_GRACE_S = 10.0
#: How often the scheduler is asked who is there.
_LOOK_S = 1.0
#: Generations in a row that may end without a step being saved.
_MOST_FRUITLESS = 5
#: Ranks go before tiles.
_PRIORITY = 10


@dataclass(frozen=True)
class Terms:
    """How a training is shared.

    Parameters
    ----------
    n_ranks
        Workers that train together; part of what decides the bits.
    device
        ``auto``, ``cpu`` or ``cuda``.
    elastic
        Go on with fewer workers when lost ones do not come back: results then differ in the last bits.
    timeout_s
        A worker silent for this long in a step is lost.
    patience_s
        How long to wait for another worker in the place of a lost one.
    """

    n_ranks: int
    device: str = "auto"
    elastic: bool = False
    timeout_s: float = 60.0
    patience_s: float = 60.0


@dataclass(frozen=True)
class _Ended:
    """How a generation ended: an outcome, or who is to blame for there being none."""

    outcome: Outcome | None = None
    reason: str = ""
    silent: tuple[str, ...] = ()


def train_on_workers(
    client: Client,
    job: Job,
    terms: Terms,
    *,
    listeners: Sequence[Callback] = (),
    events: Events = SILENT,
) -> Outcome:
    """Train on the workers of a cluster, one rank each.

    Parameters
    ----------
    client
        Of any cluster; its workers see the files of the job under the same paths.
    job
        What every rank opens for itself.
    terms
        How many ranks, and what to do when one is lost.
    listeners
        Told here of every step, with the figures of all ranks.
    events
        The listener.

    Returns
    -------
    Outcome
        The last state, packed.

    Raises
    ------
    BadOption
        A worker cannot take part: it says so before anything is trained.
    Interrupted
        Ctrl-C, or the cluster lost what it needs; the last checkpoint is whole.

    Notes
    -----
    A lost worker ends a generation: the others hear of it in the middle of a sum and stop. The next
    generation begins at the last checkpoint, on workers that are there, with the same number of ranks, and so
    ends with the bits of an undisturbed run.
    """
    run = _Run(client, job, terms, list(listeners), events)
    with ExitStack() as closing:
        interrupt = closing.enter_context(deferred_interrupts())
        closing.enter_context(_alone(client, events, interrupt))
        closing.enter_context(run.listening())
        return run.to_the_end(interrupt)


@contextmanager
def _alone(client: Client, events: Events, interrupt: Interrupt) -> Iterator[None]:
    from distributed import Lock

    lock = Lock(_LOCK, scheduler_rpc=client.scheduler, loop=client.loop)
    if not lock.acquire(timeout="200ms"):
        events.note("another training uses the workers of this cluster; waiting for it to end")
        while not lock.acquire(timeout="1s"):
            interrupt.check()
    try:
        yield
    finally:
        if client.status == "running":
            lock.release()


@dataclass
class _Run:
    client: Client
    job: Job
    terms: Terms
    listeners: list[Callback]
    events: Events
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    _told: SimpleQueue[dict[str, Any]] = field(default_factory=SimpleQueue)
    _step: int = -1
    _silent: set[str] = field(default_factory=set)
    _device: str = ""
    _moving: bool = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        topic = topic_of(self.run_id)
        self.client.subscribe_topic(topic, lambda event: self._told.put(event[1]))
        try:
            yield
        finally:
            for listener in self.listeners:
                listener.close()
            if self.client.status == "running":
                self.client.unsubscribe_topic(topic)

    def to_the_end(self, interrupt: Interrupt) -> Outcome:
        """Run generations until one reaches the end."""
        fruitless, before = 0, -1
        generation = 0
        while True:
            workers = self._met(interrupt)
            ended = self._generation(generation, workers, interrupt)
            if ended.outcome is not None:
                if ended.outcome.asked:
                    raise Interrupted(f"the training was interrupted after step {ended.outcome.step}", "")
                return ended.outcome
            fruitless = 0 if self._step > before else fruitless + 1
            before = max(before, self._step)
            if fruitless >= _MOST_FRUITLESS:
                raise Interrupted(f"no step was done in {fruitless} attempts ({ended.reason})", "")
            self.events.warn(f"{ended.reason}; going on from the last checkpoint")
            self._revive(ended.silent)
            generation += 1

    def _workers(self, *, first: bool, interrupt: Interrupt) -> list[str]:
        """Return the workers of the next generation, waiting for lost ones to come back."""
        wanted, deadline = self.terms.n_ranks, time.monotonic() + self.terms.patience_s
        while True:
            interrupt_check(interrupt, self._step)
            there = [address for address in self._there() if address not in self._silent]
            if len(there) >= wanted:
                break
            waited = time.monotonic() > deadline
            if there and self.terms.elastic and (first or waited):
                self.events.warn(
                    f"going on with {len(there)} of {wanted} workers: results differ in the last bits from "
                    f"those of {wanted}"
                )
                break
            if waited:
                raise Interrupted(
                    f"the training needs {wanted} workers and the cluster has {len(there)}; add workers, or "
                    "go on with fewer (--elastic)",
                    "",
                )
            time.sleep(0.2)
        return there[:wanted]

    def _met(self, interrupt: Interrupt) -> list[str]:
        """Return workers that have said who they are, and settle the device once and for all."""
        for _ in range(_MOST_FRUITLESS):
            workers = self._workers(first=not self._device, interrupt=interrupt)
            try:
                greet(self.client, workers, self.job.refusal, programs=TRAINING)
                self._device = self._device or settled_device(self.client, workers, self.terms.device)
                return workers
            except OSError as problem:  # one of them has gone in the meantime
                self.events.note(f"a worker went away ({problem})")
                time.sleep(0.5)
        raise Interrupted("workers go away as soon as they are there", "")

    def _there(self) -> list[str]:
        if self.client.status == "running":
            return addresses(self.client)
        raise Interrupted("the Dask scheduler is gone", "")

    def _generation(self, generation: int, workers: list[str], interrupt: Interrupt) -> _Ended:
        self._moving = False
        meeting = self.client.submit(
            open_meeting,
            self.run_id,
            generation,
            len(workers),
            self.terms.timeout_s,
            workers=workers[:1],
            pure=False,
            priority=_PRIORITY,
        )
        place = self._result(meeting, self.terms.patience_s)
        if place is None:
            return _Ended(None, f"worker {workers[0]} did not answer", (workers[0],))
        futures = {}
        for rank, worker in enumerate(workers):
            seat = Seat(
                self.run_id, generation, rank, len(workers), place, self._device, self.terms.timeout_s
            )
            # an own key a seat: a task that is run again elsewhere would sit in a generation that is over
            futures[worker] = self.client.submit(
                take_seat,
                self.job,
                seat,
                workers=[worker],
                pure=False,
                retries=0,
                priority=_PRIORITY,
            )
        try:
            return self._watch(generation, futures, interrupt)
        finally:
            self._hear(generation)
            if self.client.status == "running":
                self.client.cancel(list(futures.values()), force=True)

    def _watch(self, generation: int, futures: dict[str, Future], interrupt: Interrupt) -> _Ended:
        looked = time.monotonic()
        told_to_stop = False
        while True:
            self._hear(generation, wait_s=0.05)
            if interrupt.requested and not told_to_stop:
                told_to_stop = True
                self.client.run(ask_to_stop, self.run_id, workers=list(futures), on_error="ignore")
            if any(future.status in ("error", "cancelled", "lost") for future in futures.values()):
                return self._blame(futures)
            if all(future.status == "finished" for future in futures.values()):
                outcomes = [self._result(future, self.terms.patience_s) for future in futures.values()]
                if any(outcome is None for outcome in outcomes):
                    return self._blame(futures)
                self._hear(generation)
                return _Ended(outcomes[0])
            if self.client.status != "running":
                raise Interrupted("the Dask scheduler is gone", "")
            if time.monotonic() - looked > _LOOK_S:
                looked = time.monotonic()
                lost = [address for address in futures if address not in set(self._there())]
                if lost and any(futures[address].status == "pending" for address in lost):
                    return self._blame(futures)

    def _blame(self, futures: dict[str, Future]) -> _Ended:
        """Wait until every rank has heard, and find what began it: an error of its own, a loss, silence."""
        # before the first step ranks read and compile, and hear of nothing until they add
        grace_s = _GRACE_S if self._moving else max(_GRACE_S, self.terms.timeout_s)
        deadline = time.monotonic() + grace_s
        while time.monotonic() < deadline:
            there = set(self._there())
            pending = [address for address, future in futures.items() if future.status == "pending"]
            if not [address for address in pending if address in there]:
                break
            time.sleep(0.1)
        there = set(self._there())
        for address, future in futures.items():
            problem = future.exception(timeout=1) if future.status == "error" else None
            if problem is not None and not _is_loss(problem):
                raise _own_fault(problem, address)
        lost = [address for address in futures if address not in there]
        silent = [a for a, future in futures.items() if future.status == "pending" and a in there]
        if silent:
            return _Ended(None, f"worker {', '.join(silent)} does not answer", tuple(silent))
        if lost:
            return _Ended(None, f"worker {', '.join(lost)} was lost")
        return _Ended(None, "a worker was lost")

    def _revive(self, silent: Sequence[str]) -> None:
        """Have the nannies of workers that hang start them anew; those without one are left out."""
        if not silent:
            return
        self._silent |= set(silent)
        try:
            done = self.client.restart_workers(
                list(silent), timeout=self.terms.patience_s, raise_for_error=False
            )
        except (OSError, ValueError, RuntimeError) as problem:
            self.events.note(f"{', '.join(silent)} could not be restarted ({problem}); leaving it out")
            return
        # it may come back under the address it had
        self._silent -= {address for address, how in done.items() if how == "OK"}

    def _result(self, future: Future, timeout_s: float) -> Any:
        """Return a result, or None when it was lost on the way."""
        from distributed.client import FutureCancelledError
        from distributed.scheduler import KilledWorker

        try:
            return future.result(timeout=timeout_s)
        except (TimeoutError, FutureCancelledError, KilledWorker, RankLost):
            return None

    def _hear(self, generation: int, wait_s: float = 0.0) -> None:
        """Pass on what rank 0 has told since."""
        while True:
            try:
                record = self._told.get(timeout=wait_s) if wait_s else self._told.get_nowait()
            except Empty:
                return
            wait_s = 0.0
            if record.get("generation") != generation:
                continue
            if "note" in record:
                self.events.note(record["note"])
            if "warn" in record:
                self.events.warn(record["warn"])
            if "start" in record:
                self._begin(int(record["start"]))
            for step, metrics in record.get("steps", ()):
                self._step, self._moving = max(self._step, step), True
                for listener in self.listeners:
                    listener.on_step(step, metrics)

    def _begin(self, step: int) -> None:
        for listener in self.listeners:
            listener.close()
            listener.start(step)


def interrupt_check(interrupt: Interrupt, step: int) -> None:
    """Stop between generations when the user asked to."""
    if interrupt.requested:
        raise Interrupted(f"the training was interrupted after step {max(step, 0)}", "")


def _is_loss(problem: BaseException) -> bool:
    from distributed.client import FutureCancelledError
    from distributed.scheduler import KilledWorker

    return isinstance(problem, RankLost | KilledWorker | FutureCancelledError)


def _own_fault(problem: BaseException, address: str) -> BaseException:
    """Return what to raise for an error that a rank made itself."""
    if isinstance(problem, BadInput):  # a full disk, a file that is gone: mend it and go on
        return Interrupted(f"worker {address}: {problem}", "")
    if isinstance(problem, AtlasError):
        return problem
    if isinstance(problem, OSError | MemoryError):
        return Interrupted(f"worker {address}: {type(problem).__name__}: {problem}", "")
    return problem
