"""Sizes of a fit that can be told from metadata alone: rows, genes, the memory of a step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf import models
from atlasnmf.budget import INTERPRETER_BYTES, Budget, format_bytes
from atlasnmf.errors import BadOption
from atlasnmf.pipeline.choices import Settled, needs_of, settle
from atlasnmf.pipeline.limits import Limits
from atlasnmf.pipeline.request import FitRequest

if TYPE_CHECKING:
    from atlasnmf.store.atlas import Atlas

__all__ = ["VECTOR_BYTES", "Sizes", "settled_to", "tile_spots"]

#: Bytes held of every spot: position, order, totals, degree, flags.
VECTOR_BYTES = 80
#: Neighbours of a spot, itself included, before there is a graph; the default radius aims at this.
_MEAN_DEGREE = 8.0
#: Neighbourhood sums are about this much denser than counts.
_SMOOTHED_FILL = 4.0
#: Units in use or kept ready by the loader.
_UNITS_READY = 4
#: Fewest spots of a slice a step can use.
_LEAST_BATCH = 8
#: A pass decompresses whole chunks beside its tiles.
_READING_BYTES = 64 * 10**6
#: Spots of a tile of a pass: enough for wide products, and several tiles for any atlas worth two cores.
_LEAST_TILE, _LARGEST_TILE, _TILES = 256, 4096, 4


def tile_spots(n_spots: int) -> int:
    """Return the spots of a tile of a pass; a function of the atlas alone, for the sake of the same bits.

    Examples
    --------
    >>> tile_spots(3639), tile_spots(10**6)
    (768, 4096)
    """
    return min(max(n_spots // _TILES // _LEAST_TILE * _LEAST_TILE, _LEAST_TILE), _LARGEST_TILE)


def settled_to(atlas: Atlas, request: FitRequest, limits: Limits) -> tuple[FitRequest, str | None]:
    """Let the model choose the form that fits the memory budget.

    Returns
    -------
    request
        With every choice of the model made, so that a resume makes none anew.
    reason
        One line for people; None when there was no choice.
    """
    sizes = Sizes.of(atlas, request)
    array_bytes = limits.budget.array_bytes - sizes.n_spots * VECTOR_BYTES
    reading = 0 if sizes.batch_spots else 2 * sizes.loading_bytes(0)
    if array_bytes < 4 * reading:
        # of more memory than this an eighth is enough to read by, whatever the form
        array_bytes -= reading
    params, reason = models.settle(
        request.model,
        request.params,
        n_spots=sizes.n_spots,
        n_genes=sizes.n_genes,
        nnz=sizes.nnz,
        array_bytes=max(array_bytes, 0),
    )
    return replace(request, params=params), reason


@dataclass(frozen=True)
class _Rows:
    """Rows that are planned: see :class:`atlasnmf.batches.residency.Rows`."""

    n_spots: int
    row_bytes: float
    graph_row_bytes: float
    degree: float
    hops: int

    @property
    def smoothed(self) -> range:
        """As many as there are neighbourhood sums."""
        return range(self.hops)


@dataclass(frozen=True)
class Sizes:
    """What a fit will hold, told before anything is read.

    Parameters
    ----------
    settled
        The options, with every choice made.
    n_spots, n_genes
        Spots of the atlas; genes the model will see at most.
    slice_spots
        Spots of each slice.
    nnz
        Mean number of non-zero model genes of a spot, an upper estimate.
    smoothed_nnz
        The same of the neighbourhood sums, over all hops.
    batch_spots
        Spots of a slice in a step.
    row_bytes
        What a loaded row takes in memory.
    mean_degree
        Neighbours of a spot, itself included.
    request
        The fit.
    """

    settled: Settled
    n_spots: int
    n_genes: int
    slice_spots: tuple[int, ...]
    nnz: float
    smoothed_nnz: float
    batch_spots: int
    row_bytes: float
    mean_degree: float
    request: FitRequest

    @classmethod
    def of(cls, atlas: Atlas, request: FitRequest) -> Sizes:
        """Tell the sizes of a fit from the metadata of an atlas."""
        params: Any = request.params
        n_spots = atlas.n_spots
        needs = needs_of(request, n_spots)
        shared = set.intersection(*(set(table.var_names()) for table in atlas.tables))
        settled = settle(request.prepare, needs, len(shared))
        most = len(atlas.genes) if settled.genes == "union" else len(shared)
        if needs.frame is not None:
            # slices may measure different things: the widest decides
            most = max(table.n_genes for table in atlas.tables)
        n_genes = min(settled.n_hvgs or most, most)
        nnz = sum(table.counts.nnz for table in atlas.tables) / max(n_spots, 1)
        # Variable genes are the better expressed ones: more of the non-zeros are theirs.
        nnz *= min(1.0, 1.5 * n_genes / max(len(atlas.genes), 1))
        smoothed_nnz = min(_SMOOTHED_FILL * nnz, n_genes) * settled.hops
        n_scores = settled.n_components * (settled.component_hops + 1)
        neighbors = request.prepare.n_neighbors
        # made symmetric, nearest neighbours become about half as many again
        degree = _MEAN_DEGREE if neighbors is None else 1 + 1.5 * neighbors
        return cls(
            settled,
            n_spots,
            n_genes,
            tuple(info.n_spots for info in atlas.slices),
            nnz,
            smoothed_nnz,
            getattr(params, "batch_spots", 0),
            row_bytes=4 * nnz + 6 * smoothed_nnz + 4 * n_scores,
            mean_degree=degree,
            request=request,
        )

    def rows_of(self, batch_spots: int) -> int:
        """Return the core spots of a step, over all slices."""
        return sum(min(spots, batch_spots) for spots in self.slice_spots)

    def step_bytes(self, batch_spots: int, n_ranks: int = 1) -> int:
        """Return the memory of a step, or of a rank: what it computes, and the units that are ready."""
        n_rows = -(-self.rows_of(batch_spots) // n_ranks) if batch_spots else tile_spots(self.n_spots)
        computed = models.step_bytes(
            self.request.model,
            self.request.params,
            n_rows=n_rows,
            n_spots=self.n_spots,
            n_genes=self.n_genes,
            nnz=self.nnz,
            mean_degree=self.mean_degree,
        )
        reading = 0 if batch_spots else _READING_BYTES
        return int(computed + reading + _UNITS_READY * n_rows * self.row_bytes)

    def loading_bytes(self, batch_spots: int) -> int:
        """Return the least that reading units holds: all rows in memory, or some of them on their way."""
        from atlasnmf.batches.residency import planned_bytes
        from atlasnmf.batches.samplers import BlockSampler, TileSampler
        from atlasnmf.tiles.plan import plan_tiles

        offsets = np.cumsum([0, *self.slice_spots], dtype=np.int64)
        hops = needs_of(self.request, self.n_spots).halo
        sampler: BlockSampler | TileSampler
        if hops or not batch_spots:
            sampler = TileSampler(plan_tiles(offsets, batch_spots or tile_spots(self.n_spots)), seed=0)
        else:
            sampler = BlockSampler(offsets, batch_spots, seed=0)
        degree = self.mean_degree if hops else 1.0
        rows = _Rows(self.n_spots, self.row_bytes, 8 * degree if hops else 0.0, degree, self.settled.hops)
        planned = planned_bytes(rows, sampler, hops=hops)
        place = self.request.run.residency
        if place == "device":
            return 0  # rows go there run by run
        return planned[place] if place in ("host", "disk") else min(planned["host"], planned["disk"])

    def rank_bytes(self, n_ranks: int) -> int:
        """Return the memory of each of the workers that share a step, its interpreter included."""
        step = self.step_bytes(self.batch_spots, n_ranks)
        return INTERPRETER_BYTES + self.n_spots * VECTOR_BYTES + step

    def require(self, budget: Budget) -> None:
        """Refuse a budget that cannot hold a step; raises BadOption naming the mend."""
        if not self.batch_spots:
            what = f"{self.request.model} of {self.n_spots:,} spots"
            budget.require(self.needed_bytes(0), what, models.mend(self.request.model) or "use fewer spots")
            return
        fits = self.batch_spots
        while fits > _LEAST_BATCH and self.needed_bytes(fits) > budget.array_bytes:
            fits = max(fits * 7 // 8 // 8 * 8, _LEAST_BATCH)
        works = self.needed_bytes(fits) <= budget.array_bytes
        step = f"a step of {self.rows_of(self.batch_spots):,} spots ({self.batch_spots} a slice)"
        if 2 * self.loading_bytes(self.batch_spots) == self.needed_bytes(self.batch_spots):
            step = f"reading batches for {step}"
        mend = f"try --batch-spots {fits}" if works else "use fewer spots"
        budget.require(self.needed_bytes(self.batch_spots), step, mend)

    def needed_bytes(self, batch_spots: int) -> int:
        """Return the memory of a step, and of reading: half of all, or of what passes leave, or an eighth."""
        held, step = self.n_spots * VECTOR_BYTES, self.step_bytes(batch_spots)
        reading = self.loading_bytes(batch_spots)
        if batch_spots:
            return max(held + step, 2 * reading)
        return max(held + step, min(held + step - _READING_BYTES + 2 * reading, 8 * reading))

    def require_of_ranks(self, n_ranks: int, total_bytes: int, *, together: bool) -> None:
        """Refuse workers too small for their share of a step; raises BadOption naming the mend.

        Parameters
        ----------
        n_ranks
            Workers that share a step.
        total_bytes
            Memory of one of them, its interpreter included.
        together
            They divide the budget among themselves.
        """
        needed = self.rank_bytes(n_ranks)
        if needed > total_bytes:
            # rounded up, so that the size named is one that works
            smallest = -(-needed * (n_ranks if together else 1) // 10**8) * 10**8
            raise BadOption(
                f"each of {n_ranks} workers needs {format_bytes(needed)} for its share of a step and has "
                f"{format_bytes(total_bytes)}; use {'fewer --workers' if together else 'larger workers'} or "
                f"--memory-budget {format_bytes(smallest).replace(' ', '')}"
            )
