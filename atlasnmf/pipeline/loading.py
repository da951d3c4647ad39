"""The features of a working copy as batches: which are read, how they are drawn, in how much memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from atlasnmf import models
from atlasnmf.events import Events
from atlasnmf.pipeline.limits import Limits
from atlasnmf.pipeline.request import FitRequest
from atlasnmf.pipeline.sizes import tile_spots
from atlasnmf.schema import Needs
from atlasnmf.tiles.plan import plan_tiles

if TYPE_CHECKING:
    from atlasnmf.batches.loader import Loader
    from atlasnmf.batches.samplers import BlockSampler, TileSampler
    from atlasnmf.batches.sources import SpotSource
    from atlasnmf.store.working import WorkingCopy

__all__ = ["loader_for", "stored_rows"]


def stored_rows(working: WorkingCopy, needs: Needs) -> SpotSource:
    """Open the features of an atlas where they lie; nothing is read."""
    from atlasnmf.batches.sources import SpotSource

    return SpotSource(
        offsets=working.vector("offsets"),
        counts=working.csr("counts"),
        totals=working.vector("totals"),
        scores=working.dense("scores") if needs.n_components else None,
        smoothed=tuple(working.csr(f"smoothed_{hop}") for hop in range(1, needs.hops + 1)),
        graph=working.csr("graph") if needs.halo else None,
        degrees=working.vector("degrees") if needs.halo else None,
    )


def loader_for(
    working: WorkingCopy,
    needs: Needs,
    request: FitRequest,
    limits: Limits,
    events: Events,
    *,
    rank: int = 0,
    n_ranks: int = 1,
) -> Loader:
    """Open the features of an atlas as batches, or a rank's share of them: shuffled blocks, or tiles."""
    from atlasnmf.batches.loader import Loader
    from atlasnmf.batches.samplers import BlockSampler, TileSampler

    params: Any = request.params
    source = stored_rows(working, needs)
    offsets = source.offsets
    sampler: BlockSampler | TileSampler
    if needs.passes:
        sampler = TileSampler(plan_tiles(offsets, tile_spots(int(offsets[-1]))), seed=request.run.seed)
    elif needs.halo:
        tiles = plan_tiles(offsets, params.batch_spots)
        sampler = TileSampler(tiles, seed=request.run.seed, rank=rank, n_ranks=n_ranks)
    else:
        sampler = BlockSampler(offsets, params.batch_spots, seed=request.run.seed, rank=rank, n_ranks=n_ranks)
    return Loader(
        source,
        sampler,
        residency=request.run.residency,
        budget_bytes=_rows_bytes(request, source, limits) if needs.passes else limits.budget.array_bytes // 2,
        device="cpu" if needs.passes else limits.device,
        takes_tensors=models.takes_tensors(request.model),
        hops=needs.halo,
        events=events,
    )


def _rows_bytes(request: FitRequest, source: SpotSource, limits: Limits) -> int:
    """Return what a model that goes over all spots leaves for their rows: half of the rest, or a little."""
    counts = source.counts
    shape = {"n_spots": source.n_spots, "n_genes": counts.n_cols, "nnz": counts.nnz / max(source.n_spots, 1)}
    held = models.step_bytes(request.model, request.params, **shape)
    return int(max((limits.budget.array_bytes - held) / 2, limits.budget.array_bytes / 8))
