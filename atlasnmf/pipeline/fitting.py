"""Fit a model to an atlas: prepare what is missing, train, infer by tile, write into the store."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf import models
from atlasnmf.errors import AtlasError, BadInput, Interrupted
from atlasnmf.events import SILENT, Events
from atlasnmf.pipeline.checks import check
from atlasnmf.pipeline.choices import needs_of
from atlasnmf.pipeline.frames import FramePreparation
from atlasnmf.pipeline.limits import Limits
from atlasnmf.pipeline.loading import loader_for
from atlasnmf.pipeline.pairs import PairPreparation
from atlasnmf.pipeline.placing import (
    FitJob,
    device_of,
    most_on_a_machine,
    passes_on_workers,
    sample_spots,
    settled_ranks,
    train_on_workers,
    watchers,
    worker_bytes,
)
from atlasnmf.pipeline.preparation import Preparation
from atlasnmf.pipeline.prepared import Prepared
from atlasnmf.pipeline.request import FitRequest, resume_command
from atlasnmf.pipeline.results import write_results
from atlasnmf.pipeline.sizes import settled_to, tile_spots
from atlasnmf.pipeline.trained import Trained
from atlasnmf.pipeline.transform import transform
from atlasnmf.schema import Needs
from atlasnmf.threads import operation_threads

if TYPE_CHECKING:
    from dask.distributed import Client

    from atlasnmf.batches.loader import Loader
    from atlasnmf.batches.passes import Passes
    from atlasnmf.store.atlas import Atlas
    from atlasnmf.store.working import WorkingCopy
    from atlasnmf.train.method import Callback

__all__ = ["Fit", "reopen", "train"]


class Fit(Trained):
    """A trained model and the atlas it was trained on, whose results can be written; made by ``fit``.

    Parameters
    ----------
    request
        What was asked for.
    prepared
        The atlas and its features.
    model, state
        The model and its trained state.
    history
        Losses and figures by step, arrays of one length.
    seconds
        What training took, prepare apart.
    wait_share
        Share of the training time spent waiting for batches.
    events
        The listener.
    quality
        Agreement with labels beside the smoothed PCA, once results are written and labels were named.
    """

    def write(self) -> dict[str, list[str]]:
        """Write the results into the store, in the user's row order, all of them or none.

        Returns
        -------
        The result keys by table.

        Raises
        ------
        BadOption
            Results of that name exist and ``overwrite`` was not given.
        """
        start = time.perf_counter()
        self._refresh()
        ledger = self.prepared.working.ledger
        stage, request = f"fit {self.request.model}", self.request.to_json()
        key = _key(self.prepared, self.request)
        ledger.start(stage, key, request)
        written = write_results(self)
        ledger.finish(stage, key, seconds=time.perf_counter() - start, facts={"request": request})
        noted = ledger.interrupted_fit()
        if noted is not None and noted["options"] == request:
            ledger.end_fit()
        return written

    def _refresh(self) -> None:
        """Bring the features back when a later ``prepare`` or fit has put others in their place."""
        working = self.prepared.working
        if all(working.ledger.is_done(stage, key) for stage, key in self.prepared.keys.items()):
            return
        request, needs = self.request, needs_of(self.request, self.atlas.n_spots)
        with working.locked():
            self.prepared = _prepared(self.atlas, working, needs, request, self.events)
            self._loader = loader_for(working, needs, request, Limits.of(request.run), self.events)

    def transform(
        self,
        atlas: Atlas,
        *,
        key_added: str | None = None,
        overwrite: bool = False,
        work_dir: Path | str | None = None,
    ) -> dict[str, list[str]]:
        """Embed the spots of another atlas with the trained model and write the results into its store.

        Parameters
        ----------
        atlas
            New spots or new slices, with the genes the model was trained on.
        key_added
            Prefix of the result keys; the fit's own when not given.
        overwrite
            Replace results of that name.
        work_dir
            Place of the new atlas's working copy, when not beside its store; other slices of the store that
            was fitted need one.

        Returns
        -------
        The result keys by table.
        """
        return transform(self, atlas, key_added=key_added, overwrite=overwrite, work_dir=work_dir)


def train(atlas: Atlas, request: FitRequest, *, client: Client | None = None, events: Events = SILENT) -> Fit:
    """Prepare what is missing and train; a checkpoint of the same fit is taken up where it ended.

    Parameters
    ----------
    atlas
        The opened atlas.
    request
        Model, parameters and options.
    client
        A Dask client: its workers do the tiles of ``prepare`` and of passes, and share the steps of training.
    events
        The listener.

    Raises
    ------
    BadInput, BadOption
        Before any work, when something cannot be used.
    Interrupted
        Ctrl-C; the message says how to go on.
    """
    from atlasnmf.store.working import WorkingCopy

    check(atlas, request)
    limits = Limits.of(request.run)
    request, reason = settled_to(atlas, request, limits)
    if reason is not None:
        events.note(reason)
    needs = needs_of(request, atlas.n_spots)
    request = settled_ranks(request, client, atlas, limits)
    working = WorkingCopy.open(atlas, request.run.work_dir)
    with working.locked():
        earlier = working.ledger.interrupted_fit()
        working.ledger.start_fit(request.model, {}, request.to_json())
        try:
            prepared = _prepared(atlas, working, needs, request, events, client)
            return _train(prepared, needs, request, limits, events, client)
        except AtlasError:
            # a refused fit must not take the place of one that can be resumed
            working.ledger.end_fit()
            if earlier is not None and earlier["options"] != request.to_json():
                working.ledger.start_fit(earlier["model"], earlier["params"], earlier["options"])
            raise
        except (Interrupted, KeyboardInterrupt) as stop:
            message = str(stop) or f"the fit of {request.model} to {atlas.name} was interrupted"
            again = "the same fit(...) in this session"
            if atlas.path is not None:
                again = resume_command(request.store, request.run)
            raise Interrupted(message, again) from None


def reopen(atlas: Atlas, request: FitRequest, *, events: Events = SILENT) -> Fit:
    """Take up a finished fit from its last checkpoint; nothing is trained.

    Raises
    ------
    BadInput
        The checkpoint is gone.
    """
    from atlasnmf.store.working import WorkingCopy

    working = WorkingCopy.open(atlas, request.run.work_dir)
    needs = needs_of(request, atlas.n_spots)
    with working.locked():
        prepared = _prepared(atlas, working, needs, request, events)
        if not _folder(prepared, request).is_dir():
            raise BadInput(
                f"the trained {request.model} of {atlas.name} is no longer in {working.path}; fit it again"
            )
        return _train(prepared, needs, request, Limits.of(request.run), events)


def _prepared(
    atlas: Atlas,
    working: WorkingCopy,
    needs: Needs,
    request: FitRequest,
    events: Events,
    client: Client | None = None,
) -> Prepared:
    """Do the stages that suit the kind of atlas: a pair, slices in one frame, or any slices."""
    kind = Preparation
    if needs.pair is not None:
        kind = PairPreparation
    elif needs.frame is not None:
        kind = FramePreparation
    return kind(atlas, working, needs, request.prepare, request.run, client=client, events=events).run()


def _key(prepared: Prepared, request: FitRequest) -> str:
    """Hash all that decides the bits of a fit."""
    from atlasnmf.train.checkpoint import fit_key

    n_ranks = request.run.train_workers or 1
    return fit_key(
        {
            **({"ranks": n_ranks} if n_ranks > 1 else {}),
            "model": request.model,
            "params": request.params.model_dump(mode="json"),
            "seed": request.run.seed,
            "patience": request.run.patience,
            "features": prepared.keys,
        }
    )


def _folder(prepared: Prepared, request: FitRequest) -> Path:
    return prepared.working.path / "fits" / _key(prepared, request)[:16]


def _train(
    prepared: Prepared,
    needs: Needs,
    request: FitRequest,
    limits: Limits,
    events: Events,
    client: Client | None = None,
) -> Fit:
    from atlasnmf.train.callbacks import Progress, Tell

    device = device_of(needs, request, limits, client)
    model = models.build(request.model, request.params, prepared.facts, device, request.run.seed)
    loader = loader_for(prepared.working, needs, request, limits, events)
    folder = _folder(prepared, request)
    tellers: list[Callback] = [
        Progress(
            events, f"fit {request.model}", getattr(model, "n_steps", getattr(request.params, "steps", None))
        )
    ]
    if hasattr(model, "line"):
        tellers.append(Tell(events, model.line))
    start, shared = time.perf_counter(), None
    if client is not None and request.run.train_workers:
        from atlasnmf.pipeline.inference import InferTile

        job = FitJob(
            prepared.working.path.absolute(),
            folder.absolute(),
            _key(prepared, request),
            prepared.facts,
            needs,
            request,
            worker_bytes(request, limits),
            most_on_a_machine(client),
        )
        outcome, figures = train_on_workers(client, job, tellers, events)
        state = model.method.unpack(outcome.tensors, outcome.scalars)
        shared = client, InferTile(job)
    else:
        on_workers = needs.passes and passes_on_workers(client, device, limits.n_workers)
        if needs.passes and client is not None:
            events.note(_where(limits.n_workers, on_workers))
        helpers = client if on_workers else None
        state, figures = _train_here(
            prepared, needs, request, limits, events, model, loader, tellers, helpers
        )
    return Fit(
        request=request,
        prepared=prepared,
        model=model,
        state=state,
        history=figures,
        seconds=time.perf_counter() - start,
        wait_share=loader.wait_share,
        events=events,
        _loader=loader,
        _shared=shared,
    )


def _where(n_threads: int, on_workers: bool) -> str:
    if on_workers:
        return "passes over all spots on the workers; values that are kept, in this process"
    threads = "1 thread" if n_threads == 1 else f"{n_threads} threads"
    return f"passes in {threads} of this process; the workers' are too few to be worth the sending"


def _train_here(
    prepared: Prepared,
    needs: Needs,
    request: FitRequest,
    limits: Limits,
    events: Events,
    model: Any,
    loader: Loader,
    tellers: list[Callback],
    client: Client | None,
) -> tuple[Any, Mapping[str, np.ndarray]]:
    from atlasnmf.train import loop
    from atlasnmf.train.checkpoint import Checkpoint
    from atlasnmf.train.history import History

    folder, key = _folder(prepared, request), _key(prepared, request)
    history = History(folder / "metrics.jsonl", events=events)
    spots = sample_spots(prepared.facts.n_slices)
    with operation_threads(limits.n_threads):
        state = loop.run(
            model.method,
            _passes(loader, limits, client) if needs.passes else loader,
            sample=lambda: loader.sample(spots, request.run.seed),
            checkpoint=Checkpoint(folder, key, every_steps=request.run.checkpoint_every, events=events),
            callbacks=[*watchers(history, request, events), *tellers],
        )
    return state, history.arrays()


def _passes(loader: Loader, limits: Limits, client: Client | None) -> Passes:
    """Return the units of a model that goes over all spots: each one pass over the loader's rows."""
    from atlasnmf.batches.passes import Passes
    from atlasnmf.tiles.plan import plan_tiles

    held, n_threads = loader.source, limits.n_workers
    tiles = plan_tiles(held.offsets, tile_spots(held.n_spots))
    if client is None:
        return Passes(held, tiles, n_workers=n_threads)
    # workers open the working copy themselves; rows held here would have to be sent to them
    return Passes(loader.stored, tiles, client=client, n_workers=n_threads, held=held)
