"""From a batch to what the networks read: features on the device, edges, what is known of their ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from atlasnmf.kernels.cpu.rows import take_rows
from atlasnmf.models.spatialfuser.attention import Edges, cosine_shares
from atlasnmf.models.spatialfuser.graph import Graph
from atlasnmf.models.spatialfuser.params import Params
from atlasnmf.models.spatialfuser.state import State
from atlasnmf.schema import AtlasFacts, Csr, SliceBatch
from atlasnmf.tiles.parts import share_of
from atlasnmf.train.method import Ranks
from atlasnmf.train.sparse_rows import sparse_rows
from atlasnmf.train.sums import gathered

__all__ = ["Inputs", "Reader", "among_all"]


@dataclass(frozen=True)
class Inputs:
    """One slice's share of a step, on the device.

    Parameters
    ----------
    slice_index, core
        The slice, and its spots that carry the loss here, as a run of its rows.
    step
        Those that carry the loss on any rank, a run that holds the core.
    rows
        Features of core and halo.
    graph
        Their edges, without priors.
    around
        Rows of the slice of all spots here, halo included, int64.
    """

    slice_index: int
    core: slice
    step: slice
    rows: Tensor
    graph: Graph
    around: np.ndarray


def among_all(given: Sequence[Inputs], rows: Sequence[Tensor], ranks: Ranks | None) -> list[Tensor]:
    """Return rows that each rank has of its cores as those of the whole step, by slice, inside a loss."""
    return gathered(rows, [inputs.graph.n_step for inputs in given], ranks)


class Reader:
    """Turns batches into inputs; a slice that comes whole every time is moved to the device once.

    Parameters
    ----------
    params, facts, device
        As for :func:`atlasnmf.models.spatialfuser.method.build`.
    ranks
        Those that share a step; None for one that has it all.
    """

    def __init__(
        self, params: Params, facts: AtlasFacts, device: torch.device, ranks: Ranks | None = None
    ) -> None:
        self.params, self.facts, self.device, self.ranks = params, facts, device, ranks
        self.offsets = np.concatenate([[0], np.cumsum(facts.n_spots)]).astype(np.int64)
        self.genes = [np.flatnonzero(mask) for mask in facts.gene_mask]
        self.kinds = np.zeros(facts.n_slices, np.int64) if facts.kinds is None else facts.kinds
        self._kept: dict[int, tuple[SliceBatch, Inputs]] = {}

    def n_features(self, slice_index: int) -> int:
        """Return how many features a spot of a slice has."""
        if self.params.features == "scores":
            assert self.facts.component_scale is not None
            known = min(self.params.components, self.facts.component_scale.shape[-1])
            return int(known - known % self.params.heads)  # every head has as many
        return len(self.genes[slice_index])

    def spread(self, slice_index: int) -> Tensor:
        """Return what the components of a slice are divided by: the root of their spread, over all the same.

        Half way between the weight that strong components have and giving all the same.
        """
        assert self.facts.component_scale is not None
        spread = np.atleast_2d(self.facts.component_scale)[int(self.kinds[slice_index]), : self.n_features(0)]
        return torch.from_numpy(np.sqrt(spread * spread.mean()).astype(np.float32)).to(self.device)

    def read(self, batch: SliceBatch) -> Inputs:
        """Move one slice's spots to the device."""
        kept = self._kept.get(batch.slice_index)
        if kept is not None and kept[0] is batch:
            return kept[1]
        assert batch.graph is not None
        offset = int(self.offsets[batch.slice_index])
        around, start = batch.rows - offset, batch.step_start - offset
        first = int(around[0]) if len(around) else start
        edges = Edges(
            torch.from_numpy(np.asarray(batch.graph.indptr, np.int64)).to(self.device),
            torch.from_numpy(batch.graph.indices.astype(np.int64)).to(self.device),
        )
        made = Inputs(
            batch.slice_index,
            slice(first, first + batch.n_core),
            slice(start, start + batch.n_step),
            self._features(batch),
            Graph(batch.rings, edges, n_shared=batch.n_shared, ranks=self.ranks),
            around,
        )
        if batch.n_step == self.facts.n_spots[batch.slice_index]:
            self._kept[batch.slice_index] = (batch, made)
        return made

    def neighbours(self, slice_index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return indptr and indices of the neighbours of all spots of a slice that comes whole.

        Ranks, which have a part each, send theirs to all.
        """
        given = self._kept[slice_index][1]
        local = given.graph.local
        indptr, others = local.indptr.cpu().numpy(), local.neighbour.cpu().numpy()
        n_core = given.core.stop - given.core.start
        degrees, others = np.diff(indptr[: n_core + 1]), given.around[others[: indptr[n_core]]]
        if self.ranks is not None:
            n, n_ranks = given.graph.n_step, self.ranks.n_ranks
            (whole,) = gathered([torch.from_numpy(degrees)[:, None].to(self.device)], [n], self.ranks)
            degrees = whole.cpu().numpy()[:, 0]
            sizes = [int(degrees[share_of(n, rank, n_ranks)].sum()) for rank in range(n_ranks)]
            came = self.ranks.exchange([torch.from_numpy(others).to(self.device)] * n_ranks, sizes)
            others = torch.cat(came).cpu().numpy()
        return np.concatenate([[0], np.cumsum(degrees)]).astype(np.int64), others

    def forget(self) -> None:
        """Give back what is kept."""
        self._kept.clear()

    def graph(self, given: Inputs, state: State) -> Graph:
        """Return the edges with what the last embeddings say of them."""
        s = given.slice_index
        graph = replace(given.graph, place=state.net.place(s))
        if self.params.similarity and state.seen[s].all():
            latents = state.latents[s]
            whole = len(given.around) == len(latents)
            rows = latents if whole else latents[torch.from_numpy(given.around).to(self.device)]
            graph = replace(graph, prior=cosine_shares(graph.local, rows, self.params.heads))
        if state.far:
            indptr, others = state.far[s]
            if len(given.around) < len(indptr) - 1:
                indptr, others, _ = take_rows(indptr, others, others, given.around)
            edges = Edges(*(torch.from_numpy(part).to(self.device) for part in (indptr, others)))
            graph = replace(graph, far=edges)
        return graph

    def _features(self, batch: SliceBatch) -> Tensor:
        if self.params.features == "scores":
            assert batch.scores is not None
            levels = torch.as_tensor(batch.scores).to(self.device)
            return levels[:, -1, : self.n_features(0)] / self.spread(batch.slice_index)
        genes, counts = self.genes[batch.slice_index], batch.counts
        if len(genes) < self.facts.n_genes and isinstance(counts.data, np.ndarray):
            counts = _columns(counts, genes)
        # counts travel as they are stored; logarithms and zeros are made where they are used
        rows = sparse_rows(counts, self.device).log_normalised(batch.totals, self.facts.target_sum).dense()
        if rows.shape[1] == len(genes):
            return rows
        return rows[:, torch.from_numpy(genes).to(self.device)]


def _columns(counts: Csr, genes: np.ndarray) -> Csr:
    return Csr.from_scipy(counts.to_scipy()[:, genes])
