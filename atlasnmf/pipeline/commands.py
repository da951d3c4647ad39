"""What the command line and the Python interface call: one function a command."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf import models
from atlasnmf.budget import format_bytes, peak_bytes
from atlasnmf.errors import AtlasError, BadInput, Interrupted
from atlasnmf.events import SILENT, Events
from atlasnmf.options import AtlasOptions, PrepareOptions, RunOptions
from atlasnmf.pipeline.checks import check as check_fit
from atlasnmf.pipeline.estimates import Estimate, estimate_fit
from atlasnmf.pipeline.fitting import Fit, reopen, train
from atlasnmf.pipeline.preparation import Preparation
from atlasnmf.pipeline.prepared import Prepared
from atlasnmf.pipeline.request import FitRequest, resume_command
from atlasnmf.reduce.cluster import connected
from atlasnmf.schema import Needs
from atlasnmf.store.atlas import opened

if TYPE_CHECKING:
    from dask.distributed import Client

    from atlasnmf.store.atlas import Atlas, AtlasLike
    from atlasnmf.store.describe import Description
    from atlasnmf.store.working import WorkingCopy

__all__ = [
    "FitOutcome",
    "check",
    "estimate",
    "fit",
    "info",
    "load_fit",
    "prepare",
    "prepare_store",
    "prepared_for",
    "resume",
]

#: How an interrupted ``prepare`` is named in the ledger, where fits have their model's name.
_PREPARE = "prepare"


@dataclass(frozen=True)
class FitOutcome:
    """How a fit went, for scripts and for people."""

    fit: Fit
    written: dict[str, list[str]]
    seconds: float

    def record(self) -> dict[str, Any]:
        """Return the outcome for scripts."""
        losses = self.fit.history.get("loss")
        return {
            "model": self.fit.request.model,
            "store": self.fit.request.store,
            "table results": self.written,
            "seconds": round(self.seconds, 2),
            "stages": {**self.fit.prepared.seconds, "fit": self.fit.seconds},
            "peak_bytes": peak_bytes(),
            "wait_share": round(self.fit.wait_share, 4),
            "loss": _last(losses),
            "quality": self.fit.quality,
            "warnings": list(self.fit.prepared.warnings),
        }

    def lines(self) -> list[str]:
        """Return the outcome for people."""
        waited = f", {self.fit.wait_share:.0%} of the training time spent waiting for batches"
        lines = [
            f"{self.fit.request.model}: {self.seconds:.0f} s, peak {format_bytes(peak_bytes())}"
            + (waited if self.fit.wait_share else ""),
            f"results in {self.fit.request.store}:",
        ]
        lines += [f"  {table}: {', '.join(keys)}" for table, keys in self.written.items()]
        quality = self.fit.quality
        for name, row in (self.fit.request.model, quality), ("smoothed PCA", quality.get("baseline")):
            if row and "asw" in row:
                lines.append(f"  {name}: ARI {row['ari']:.3f}, NMI {row['nmi']:.3f}, ASW {row['asw']:.3f}")
        lines += [f"  {line}" for line in models.quality_lines(self.fit.request.model, quality)]
        store = shlex.quote(self.fit.request.store)
        lines.append(f"look at them: atlasnmf report {store} -o report.html")
        return lines


def _last(losses: np.ndarray | None) -> float | None:
    """Return the last loss there is: not every step has one."""
    known = [] if losses is None else losses[np.isfinite(losses)]
    return float(known[-1]) if len(known) else None


def _open(store: str, options: AtlasOptions) -> Atlas:
    from atlasnmf.store.atlas import open_atlas

    return open_atlas(store, **options.model_dump())


def fit(request: FitRequest, *, client: Client | None = None, events: Events = SILENT) -> FitOutcome:
    """Fit a model to a store and write the results into it.

    Parameters
    ----------
    request
        What to fit, to what, how.
    client
        A Dask client in place of ``--scheduler`` and ``--workers``.
    events
        The listener.

    Raises
    ------
    BadInput, BadOption
        Something cannot be used; the store is as it was.
    Interrupted
        Stopped by the user; the message says how to go on.
    """
    start = time.perf_counter()
    atlas = _open(request.store, request.atlas)
    with connected(request.run.scheduler, client, workers=request.run.workers, events=events) as cluster:
        fitted = train(atlas, request, client=cluster, events=events)
        try:
            written = fitted.write()
        except (Interrupted, KeyboardInterrupt) as stop:
            message = str(stop) or f"the results of {request.model} were not written"
            raise Interrupted(message, resume_command(request.store, request.run)) from None
    return FitOutcome(fitted, written, time.perf_counter() - start)


def prepared_for(
    atlas: Atlas,
    options: PrepareOptions,
    run: RunOptions,
    needs: Needs,
    *,
    client: Client | None = None,
    events: Events = SILENT,
) -> Prepared:
    """Do the stages a model needs, under the store's lock, resumable."""
    from atlasnmf.store.working import WorkingCopy

    atlas.check()
    working = WorkingCopy.open(atlas, run.work_dir)
    record = {
        "store": atlas.name,
        "prepare": options.model_dump(mode="json"),
        "run": run.model_dump(mode="json"),
    }
    with working.locked():
        if working.ledger.interrupted_fit() is None:
            working.ledger.start_fit(_PREPARE, {}, {**record, "atlas": atlas.source_options()})
        try:
            prepared = Preparation(atlas, working, needs, options, run, client=client, events=events).run()
        except (Interrupted, KeyboardInterrupt) as stop:
            again = "the same call in this session" if atlas.path is None else resume_command(atlas.name, run)
            raise Interrupted(str(stop) or f"prepare of {atlas.name} was interrupted", again) from None
        except AtlasError:
            _end(working)
            raise
        _end(working)
    return prepared


def _end(working: WorkingCopy) -> None:
    """Forget an interrupted prepare, but never an interrupted fit."""
    noted = working.ledger.interrupted_fit()
    if noted is not None and noted["model"] == _PREPARE:
        working.ledger.end_fit()


def _default_needs(n_spots: int) -> Needs:
    """Return what the default form of the first model asks for: what most fits will use.

    How many slices and genes suffice depends on parameters that nobody has given yet.
    """
    model = models.available()[0]
    needs = models.needs(model, models.params_with_preset(model, "default", {}), n_spots)
    return replace(needs, min_slices=1, min_genes=1)


def prepare(
    atlas: AtlasLike,
    *,
    client: Client | None = None,
    random_state: int = 0,
    memory_budget: str | None = None,
    workers: int | None = None,
    work_dir: Path | str | None = None,
    events: Events = SILENT,
    **options: Any,
) -> Prepared:
    """Bring an atlas into its working copy; what is done is skipped, what was cut off goes on.

    Parameters
    ----------
    atlas
        An open atlas, the path of a store, or data in memory.
    client
        A Dask client for the tiles; threads of this process when not given.
    random_state
        Seed.
    memory_budget, workers, work_dir
        See :class:`atlasnmf.options.RunOptions`.
    events
        Listener for progress.
    **options
        See :class:`atlasnmf.options.PrepareOptions`, for example ``n_hvgs=6000, radius=1.6``.

    Raises
    ------
    BadInput, BadOption
        The atlas or an option cannot be used.

    Examples
    --------
    >>> import atlasnmf as an
    >>> prepared = an.prepare("embryo.zarr", n_neighbors=8, memory_budget="2GB")
    >>> prepared.settled.n_neighbors, prepared.facts.n_spots.tolist()
    (8, [200, 400])
    """
    run = RunOptions(seed=random_state, memory_budget=memory_budget, workers=workers, work_dir=work_dir)
    found = opened(atlas)
    needs = _default_needs(found.n_spots)
    return prepared_for(found, PrepareOptions(**options), run, needs, client=client, events=events)


def prepare_store(
    store: str,
    options: PrepareOptions,
    atlas: AtlasOptions,
    run: RunOptions,
    *,
    events: Events = SILENT,
) -> Prepared:
    """Prepare a store with the options of the command line."""
    found = _open(store, atlas)
    with connected(run.scheduler, workers=run.workers, events=events) as client:
        return prepared_for(found, options, run, _default_needs(found.n_spots), client=client, events=events)


def resume(
    store: str,
    *,
    work_dir: Path | None = None,
    scheduler: str | None = None,
    elastic: bool = False,
    events: Events = SILENT,
) -> FitOutcome | Prepared:
    """Go on with whatever was interrupted on a store.

    Parameters
    ----------
    store
        The store.
    work_dir
        Where its working copy is, when not beside it.
    scheduler
        Another Dask scheduler than the one it was begun with.
    elastic
        Go on with fewer workers than it was begun with, if there are no more.
    events
        The listener.

    Raises
    ------
    BadInput
        There is nothing to resume.
    """
    from atlasnmf.store.working import WorkingCopy

    ledgers = [working.ledger for working in WorkingCopy.find_all(store, work_dir)]
    interrupted = [(noted, ledger) for ledger in ledgers if (noted := ledger.interrupted_fit()) is not None]
    if not interrupted:
        raise BadInput(f"there is nothing to resume on {store}; start with atlasnmf fit")
    noted, ledger = max(interrupted, key=lambda found: found[0]["when"])
    written = ledger.stages().get(f"fit {noted['model']}", {}).get("params") == noted["options"]
    options = noted["options"]
    if work_dir is not None:
        options["run"]["work_dir"] = str(work_dir)
    if scheduler is not None:
        options["run"]["scheduler"] = scheduler
        if options["run"].get("train_workers") is None:
            options["run"]["train_workers"] = 0  # it was begun in one process, and has its bits
    if elastic:
        options["run"]["elastic"] = True
    if noted["model"] == _PREPARE:
        return prepare_store(
            store,
            PrepareOptions(**options["prepare"]),
            AtlasOptions(**options["atlas"]),
            RunOptions(**options["run"]),
            events=events,
        )
    if written:
        # The fit was cut off while or after it wrote: what lies there under its name is its own.
        options["run"]["overwrite"] = True
    return fit(FitRequest.from_json({**options, "store": store}), events=events)


def estimate(request: FitRequest) -> Estimate:
    """Say what a fit will need; reads metadata only."""
    return estimate_fit(_open(request.store, request.atlas), request)


def check(request: FitRequest) -> None:
    """Refuse what ``fit`` would refuse without reading counts."""
    check_fit(_open(request.store, request.atlas), request)


def load_fit(
    store: Path | str,
    model: str = "inspire",
    *,
    work_dir: Path | str | None = None,
    events: Events = SILENT,
) -> Fit:
    """Open the last finished fit of a model again, from the working copy of its store.

    Parameters
    ----------
    store
        The store that was fitted.
    model
        Name of the model.
    work_dir
        Where the working copy is, when not beside the store.
    events
        The listener.

    Raises
    ------
    BadInput
        There is no such fit in the working copy.

    Examples
    --------
    >>> import atlasnmf as an
    >>> fit = an.load_fit("embryo.zarr", "inspire")
    >>> fit.request.params.n_factors, len(fit.history["loss"])
    (4, 20)
    """
    from atlasnmf.store.working import WorkingCopy

    models.summary(model)  # refuses a name that is no model's
    stages = [working.ledger.stages() for working in WorkingCopy.find_all(store, work_dir)]
    fits = [found[f"fit {model}"] for found in stages if f"fit {model}" in found]
    done = [record for record in fits if record["status"] == "done"]
    if not done:
        raise BadInput(
            f"{store} has no finished fit of {model} in its working copy; "
            f"run atlasnmf fit {model} {shlex.quote(str(store))}"
        )
    noted = max(done, key=lambda record: record["when"])["facts"]
    request = FitRequest.from_json({**noted["request"], "store": str(store)})
    return reopen(_open(request.store, request.atlas), request, events=events)


def info(store: str, *, work_dir: Path | None = None) -> Description:
    """Describe a store: slices, spots, genes, stages done, results, sizes; reads no counts.

    A store that was prepared is opened as it was then: the same tables, layer and slice key.
    """
    from atlasnmf.store.atlas import open_atlas
    from atlasnmf.store.describe import describe
    from atlasnmf.store.working import WorkingCopy

    working = WorkingCopy.find(store, work_dir)
    try:
        atlas = open_atlas(store, **(working.facts()["source"] if working else {}))
    except AtlasError:  # the store has changed since
        atlas = open_atlas(store)
    return describe(atlas, work_dir)
