"""What a trained model says of the spots of each tile: here, or on the workers that shared the training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.budget import Budget, give_back
from atlasnmf.errors import BadInput
from atlasnmf.pipeline.limits import Limits
from atlasnmf.pipeline.placing import FitJob
from atlasnmf.reduce import stream_tiles
from atlasnmf.threads import operation_threads
from atlasnmf.tiles.plan import Tile

if TYPE_CHECKING:
    from dask.distributed import Client

    from atlasnmf.batches.loader import Loader
    from atlasnmf.batches.sources import SpotSource

__all__ = ["TILE_SPOTS", "InferTile", "inferred", "tiles_at_once"]

#: Spots of an inference tile: what attention holds of its edges is small beside any budget (8192 spots took
#: 320 MB), and still large enough to keep a core busy. The same whoever works, and so are the bits.
TILE_SPOTS = 2048

#: The model a worker is asked about, by its checkpoint's folder, from its first tile to the last of all.
_TRAINED: dict[Path, tuple[Any, Any, Any]] = {}
_READING = Lock()


def inferred(
    model: Any,
    state: Any,
    loader: Loader,
    tiles: Sequence[Tile],
    *,
    at_once: int = 1,
    shared: tuple[Client, InferTile] | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Yield what a model says of each tile, in their order.

    Parameters
    ----------
    model, state
        The trained model. One that computes what it says from a spot's rows has ``reads_rows``; others look
        it up in their state, which is done here.
    loader
        The rows.
    tiles
        From :func:`atlasnmf.tiles.plan.plan_tiles`.
    at_once
        Tiles that threads of this process work on.
    shared
        The cluster that shared the training, and the task it is given as long as it is there.
    """
    client, task = shared or (None, None)
    if not getattr(model, "reads_rows", False):
        for batch in loader.tiles(tiles):
            yield model.infer(state, batch)
    elif client is not None and client.status == "running" and task is not None:
        try:
            yield from stream_tiles(task, tiles, client=client)
        finally:
            # workers outlive a fit, and the next one needs the room
            if client.status == "running":
                client.run(task.forget, on_error="ignore")
    else:
        said_of = partial(_said_of, model, state, loader.source, loader.hops)
        yield from stream_tiles(said_of, tiles, n_workers=at_once)


def tiles_at_once(params: Any, n_spots: np.ndarray, limits: Limits) -> int:
    """Return how many tiles hold no more spots than a step of the training, whose memory was granted."""
    if limits.device != "cpu":
        return 1
    step_spots = np.minimum(n_spots, getattr(params, "batch_spots", 0)).sum()
    return int(np.clip(step_spots // TILE_SPOTS, 1, limits.n_workers))


def _said_of(model: Any, state: Any, source: SpotSource, hops: int, tile: Tile) -> dict[str, np.ndarray]:
    from atlasnmf.batches.halos import halo_batch

    return dict(model.infer(state, halo_batch(source, tile.slice_index, tile.start, tile.stop, hops)))


@dataclass(frozen=True)
class InferTile:
    """A task for a worker: what the model makes of a tile, from rows on disk and the last checkpoint.

    Parameters
    ----------
    job
        The training that is over.
    """

    job: FitJob

    def __call__(self, tile: Tile) -> dict[str, np.ndarray]:
        """Return arrays of one row a spot of the tile, by the names of the results."""
        model, state, rows = self._trained()
        with operation_threads(self.job.request.run.threads):
            return _said_of(model, state, rows, self.job.needs.halo, tile)

    def forget(self) -> None:
        """Have this process give back what it keeps for the next tile."""
        with _READING:
            if _TRAINED.pop(self.job.folder, None) is not None:
                give_back()

    def _trained(self) -> tuple[Any, Any, Any]:
        with _READING:
            if self.job.folder not in _TRAINED:
                run = self.job.request.run
                model = self.job.model(Limits(Budget.of(None), 1, run.threads, run.device).device)
                restored = self.job.checkpoint().restore(model.method)
                if restored is None:
                    raise BadInput(f"there is no checkpoint in {self.job.folder}; fit again")
                _TRAINED.clear()
                _TRAINED[self.job.folder] = model, restored[0], self.job.rows()
            return _TRAINED[self.job.folder]
