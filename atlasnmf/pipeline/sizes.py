"""Sizes of a fit that can be told from metadata alone: rows, genes, the memory of a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from atlasnmf import models
from atlasnmf.budget import Budget
from atlasnmf.pipeline.choices import Settled, needs_of, settle
from atlasnmf.pipeline.request import FitRequest

if TYPE_CHECKING:
    from atlasnmf.store.atlas import Atlas

__all__ = ["VECTOR_BYTES", "Sizes"]

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

    def step_bytes(self, batch_spots: int) -> int:
        """Return the memory of a step: what it computes, and the units that are ready."""
        n_rows = self.rows_of(batch_spots)
        computed = models.step_bytes(
            self.request.model,
            self.request.params,
            n_rows=n_rows,
            n_spots=self.n_spots,
            n_genes=self.n_genes,
            nnz=self.nnz,
            mean_degree=self.mean_degree,
        )
        return int(computed + _UNITS_READY * n_rows * self.row_bytes)

    def require(self, budget: Budget) -> None:
        """Refuse a budget that cannot hold a step; raises BadOption naming the mend."""
        held = self.n_spots * VECTOR_BYTES
        fits = self.batch_spots
        while fits > _LEAST_BATCH and held + self.step_bytes(fits) > budget.array_bytes:
            fits = max(fits * 7 // 8 // 8 * 8, _LEAST_BATCH)
        works = held + self.step_bytes(fits) <= budget.array_bytes
        budget.require(
            held + self.step_bytes(self.batch_spots),
            f"a step of {self.rows_of(self.batch_spots):,} spots ({self.batch_spots} a slice)",
            f"try --batch-spots {fits}" if works else "use fewer slices",
        )
