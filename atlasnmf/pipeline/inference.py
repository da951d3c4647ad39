"""What a trained model says of the spots of a tile, on a worker that took part in the training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from atlasnmf.budget import Budget
from atlasnmf.errors import BadInput
from atlasnmf.pipeline.limits import Limits
from atlasnmf.pipeline.placing import FitJob
from atlasnmf.threads import operation_threads
from atlasnmf.tiles.plan import Tile

__all__ = ["InferTile"]

#: The last model a worker was asked about, by its checkpoint's folder.
_TRAINED: dict[Path, tuple[Any, Any, Any]] = {}
_READING = Lock()


@dataclass(frozen=True)
class InferTile:
    """A task a tile: what the model makes of its spots, from rows on disk and the last checkpoint.

    Parameters
    ----------
    job
        The training that is over.
    """

    job: FitJob

    def __call__(self, tile: Tile) -> dict[str, np.ndarray]:
        """Return arrays of one row a spot of the tile, by the names of the results."""
        from atlasnmf.batches.halos import halo_batch

        model, state, loader = self._trained()
        batch = halo_batch(loader.stored, tile.slice_index, tile.start, tile.stop, loader.hops)
        with operation_threads(self.job.request.run.threads):
            return dict(model.infer(state, batch))

    def _trained(self) -> tuple[Any, Any, Any]:
        with _READING:
            if self.job.folder not in _TRAINED:
                run = self.job.request.run
                model, loader = self.job.opened(Limits(Budget.of(None), 1, run.threads, run.device).device)
                restored = self.job.checkpoint().restore(model.method)
                if restored is None:
                    raise BadInput(f"there is no checkpoint in {self.job.folder}; fit again")
                _TRAINED.clear()
                _TRAINED[self.job.folder] = model, restored[0], loader
            return _TRAINED[self.job.folder]
