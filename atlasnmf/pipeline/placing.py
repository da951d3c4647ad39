"""Where training runs: in this process, or shared by the workers of a cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from atlasnmf import models
from atlasnmf.budget import Budget
from atlasnmf.errors import BadOption
from atlasnmf.events import SILENT, Events
from atlasnmf.kernels import dispatch
from atlasnmf.pipeline.limits import WORTH_SENDING, Limits
from atlasnmf.pipeline.loading import loader_for, stored_rows
from atlasnmf.pipeline.request import FitRequest
from atlasnmf.pipeline.sizes import Sizes
from atlasnmf.reduce.workers import threads_of
from atlasnmf.schema import AtlasFacts, Needs
from atlasnmf.train.callbacks import EarlyStop, RefuseDivergence
from atlasnmf.train.checkpoint import Checkpoint
from atlasnmf.train.history import History
from atlasnmf.train.method import Callback
from atlasnmf.train.ranks.seat import Share

if TYPE_CHECKING:
    from dask.distributed import Client

    from atlasnmf.batches.loader import Loader
    from atlasnmf.batches.sources import SpotSource
    from atlasnmf.store.atlas import Atlas
    from atlasnmf.train.ranks.seat import Outcome

__all__ = [
    "FitJob",
    "device_of",
    "most_on_a_machine",
    "passes_on_workers",
    "sample_spots",
    "settled_ranks",
    "train_on_workers",
    "watchers",
    "worker_bytes",
]

#: Spots that a model looks at before its first step, over all slices and of one slice at most.
_SAMPLE_SPOTS, _SLICE_SAMPLE_SPOTS = 16_384, 4096
#: A worker that is started anew imports for some seconds, on a busy machine for many.
_LEAST_PATIENCE_S = 60.0


def sample_spots(n_slices: int) -> int:
    """Return how many spots of a slice a model looks at before its first step."""
    return min(_SLICE_SAMPLE_SPOTS, max(_SAMPLE_SPOTS // n_slices, 256))


def watchers(history: History, request: FitRequest, events: Events) -> list[Callback]:
    """Return what listens to a training wherever it runs: the history, and what may end it."""
    listeners: list[Callback] = [history, RefuseDivergence()]
    if request.run.patience is not None:
        listeners.append(EarlyStop(history, patience=request.run.patience, events=events))
    return listeners


def settled_ranks(request: FitRequest, client: Client | None, atlas: Atlas, limits: Limits) -> FitRequest:
    """Settle how many workers train together, so that a resume asks for as many.

    Returns
    -------
    FitRequest
        On a cluster with ``train_workers`` a number: 0 for a model whose steps cannot be shared, such as
        passes, whose tiles go to the workers one by one.

    Raises
    ------
    BadOption
        Workers are asked for and there is no cluster, or the model's steps cannot be shared, with these
        parameters or with any, or a worker's memory is too small for its share.
    """
    wanted, shares = request.run.train_workers, models.shares_steps(request.model)
    if wanted and client is None:
        raise BadOption(
            f"--train-workers {wanted} needs a cluster: give --workers {wanted} or --scheduler tcp://host:8786"
        )
    if wanted and not shares:
        raise BadOption(
            f"--train-workers {wanted}: the steps of {request.model} cannot be shared; leave it out"
        )
    if client is None:
        return request
    if wanted is None:
        wanted = len(client.scheduler_info(n_workers=-1)["workers"]) if shares else 0
    if wanted > 1:
        total_bytes = worker_bytes(request, limits)
        if total_bytes is not None:
            together = request.run.scheduler is None and request.run.workers is not None
            Sizes.of(atlas, request).require_of_ranks(wanted, total_bytes, together=together)
    return replace(request, run=request.run.model_copy(update={"train_workers": wanted}))


@dataclass(frozen=True)
class FitJob:
    """What a worker needs to train as one of several: places and parameters, no rows.

    Parameters
    ----------
    path
        The working copy.
    folder, key
        Of the checkpoint and the history.
    facts, needs, request
        The atlas, what was prepared, what was asked for.
    budget_bytes
        Memory of a worker; None takes half of what is free, divided by the ranks of its machine.
    n_beside
        Ranks of a machine at most.
    """

    path: Path
    folder: Path
    key: str
    facts: AtlasFacts
    needs: Needs
    request: FitRequest
    budget_bytes: int | None
    n_beside: int

    def refusal(self) -> str | None:
        """Say why a worker cannot take part."""
        if (self.path / "format.json").exists():
            return None
        return f"it does not see {self.path}; mount it there under the same path, or name another --work-dir"

    def model(self, device: str) -> Any:
        """Build the model."""
        return models.build(
            self.request.model, self.request.params, self.facts, device, self.request.run.seed
        )

    def rows(self) -> SpotSource:
        """Open all rows where they lie."""
        from atlasnmf.store.working import WorkingCopy

        return stored_rows(WorkingCopy(self.path), self.needs)

    def loader(self, device: str, events: Events, *, rank: int, n_ranks: int) -> Loader:
        """Open a rank's share of the rows as batches, in the memory of a worker."""
        from atlasnmf.store.working import WorkingCopy

        total = self.budget_bytes or Budget.of(None).total_bytes // self.n_beside
        limits = Limits(Budget(total), 1, self.request.run.threads, device)
        return loader_for(
            WorkingCopy(self.path), self.needs, self.request, limits, events, rank=rank, n_ranks=n_ranks
        )

    def checkpoint(self, events: Events = SILENT) -> Checkpoint:
        """Return where the training keeps its state."""
        return Checkpoint(self.folder, self.key, every_steps=self.request.run.checkpoint_every, events=events)

    def share(self, rank: int, n_ranks: int, device: str, events: Events) -> Share:
        """Open what one rank trains with."""
        run = self.request.run
        loader = self.loader(device, events, rank=rank, n_ranks=n_ranks)
        history = History(self.folder / "metrics.jsonl", events=events, writes=rank == 0)
        return Share(
            method=self.model(device).method,
            units=loader,
            sample=lambda: loader.sample(sample_spots(self.facts.n_slices), run.seed),
            checkpoint=self.checkpoint(events),
            callbacks=watchers(history, self.request, events),
            n_threads=run.threads,
        )


def train_on_workers(
    client: Client, job: FitJob, listeners: Sequence[Callback], events: Events
) -> tuple[Outcome, Mapping[str, Any]]:
    """Train on the workers of a cluster; return what rank 0 brought home, and the figures of all steps."""
    from atlasnmf.train import ranks

    run = job.request.run
    patience_s = max(run.worker_timeout, _LEAST_PATIENCE_S)
    terms = ranks.Terms(run.train_workers or 1, run.device, run.elastic, run.worker_timeout, patience_s)
    outcome = ranks.train_on_workers(client, job, terms, listeners=listeners, events=events)
    history = History(job.folder / "metrics.jsonl", events=events, writes=False)
    history.start(outcome.step)
    return outcome, history.arrays()


def device_of(needs: Needs, request: FitRequest, limits: Limits, client: Client | None) -> str:
    """Return where a model computes: torch's device for steps, for passes the one that CuPy can use.

    Tiles of passes go to any worker, so all workers must have a device, or none uses one.

    Raises
    ------
    BadOption
        A CUDA device is asked for, and this process or a worker cannot use one.
    """
    if not needs.passes:
        return limits.device
    if request.run.device == "cpu":
        return "cpu"
    if client is None:
        why = {"this process": dispatch.no_gpu()}
    else:
        why = client.run(dispatch.no_gpu)
    without = sorted(where for where, reason in why.items() if reason)
    if without and request.run.device == "cuda":
        raise BadOption(
            f"--device cuda: {without[0]} has no CUDA device that CuPy can use ({why[without[0]]}); install "
            "atlasnmf[gpu] there or use --device cpu"
        )
    return "cpu" if without else "cuda"


def passes_on_workers(client: Client | None, device: str, n_threads: int) -> bool:
    """Say whether the tiles of passes go to workers, or to threads of this process: the same bits.

    Parameters
    ----------
    client
        Of the cluster, if there is one.
    device
        Where a model computes. A device is that of the workers.
    n_threads
        Threads of this process.
    """
    if client is None or device != "cpu":
        return client is not None
    return threads_of(client) >= WORTH_SENDING * n_threads


def worker_bytes(request: FitRequest, limits: Limits) -> int | None:
    """Return the memory of one worker, where the user limited it.

    Workers that this command starts share its budget; those of a cluster that is there have it each.
    """
    if request.run.memory_budget is None:
        return None
    n_own = request.run.workers if request.run.scheduler is None else None
    return limits.budget.total_bytes // (n_own or 1)


def most_on_a_machine(client: Client) -> int:
    """Return the most workers that share a machine."""
    workers = client.scheduler_info(n_workers=-1)["workers"]
    return max(Counter(urlsplit(address).hostname for address in workers).values(), default=1)
