"""A trained model and what it says of every spot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.events import SILENT, Events
from atlasnmf.pipeline.inference import TILE_SPOTS, inferred, tiles_at_once
from atlasnmf.pipeline.limits import Limits
from atlasnmf.pipeline.prepared import Prepared
from atlasnmf.pipeline.request import FitRequest
from atlasnmf.threads import operation_threads

if TYPE_CHECKING:
    from dask.distributed import Client

    from atlasnmf.batches.loader import Loader
    from atlasnmf.batches.sources import SpotSource
    from atlasnmf.pipeline.inference import InferTile
    from atlasnmf.store.atlas import Atlas
    from atlasnmf.tiles.plan import Tile

__all__ = ["Trained"]


@dataclass(repr=False)
class Trained:
    """A trained model and the atlas it was trained on: what ``fit`` returns, but for the writing."""

    request: FitRequest
    prepared: Prepared
    model: Any
    state: Any
    history: Mapping[str, np.ndarray]
    seconds: float
    wait_share: float
    events: Events = SILENT
    quality: dict[str, Any] = field(default_factory=dict)
    _loader: Loader | None = None
    _shared: tuple[Client, InferTile] | None = None

    def __repr__(self) -> str:
        """Say what was fitted to what, in a line."""
        n_steps = len(next(iter(self.history.values()), ()))
        return f"Fit({self.request.model} on {self.atlas.name}: {n_steps:,} steps in {self.seconds:,.0f} s)"

    @property
    def atlas(self) -> Atlas:
        """The atlas that was fitted."""
        return self.prepared.atlas

    @property
    def source(self) -> SpotSource:
        """The rows that were fitted, in working order."""
        assert self._loader is not None
        return self._loader.source

    def embed(self) -> Iterator[tuple[Tile, dict[str, np.ndarray]]]:
        """Yield what the model says of the spots of each tile, in working order."""
        from atlasnmf.tiles.plan import plan_tiles

        assert self._loader is not None
        limits = Limits.of(self.request.run)
        tiles = plan_tiles(self._loader.stored.offsets, TILE_SPOTS)
        at_once = tiles_at_once(self.request.params, self.prepared.facts.n_spots, limits)
        said = inferred(self.model, self.state, self._loader, tiles, at_once=at_once, shared=self._shared)
        with (
            operation_threads(limits.n_threads),
            self.events.stage("embed", self._loader.stored.n_spots) as advance,
        ):
            for tile, values in zip(tiles, said, strict=True):
                yield tile, values
                advance(tile.n_spots)
