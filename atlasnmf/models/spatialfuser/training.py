"""SpatialFuser as a method: embed, match and fuse, measure the statistics, embed for good.

A fit goes through phases, each a run of steps, so that a resume takes up any of them where it ended:

1. *pretrain*: each slice's autoencoder learns to reconstruct its features;
2. *fuse* (two slices or more): spots are matched anew every few steps, and pairs pull the slices together;
3. *measure*: mean and variance behind every normalisation, one after the other, over all spots;
4. *embed*: every spot under those, and the final matching.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atlasnmf.errors import BadOption
from atlasnmf.kernels.cpu.dense import fill_dense
from atlasnmf.kernels.cpu.lognorm import log_normalise
from atlasnmf.models.spatialfuser import losses
from atlasnmf.models.spatialfuser.attention import Edges, cosine_shares
from atlasnmf.models.spatialfuser.far import far_neighbours
from atlasnmf.models.spatialfuser.networks import Fuser, Graph, Mcgate
from atlasnmf.models.spatialfuser.pairs import Links, Pairs
from atlasnmf.models.spatialfuser.params import Params, wanted_genes
from atlasnmf.schema import AtlasFacts, Csr, SliceBatch
from atlasnmf.seeds import rng_for, seed_for
from atlasnmf.train.torch_state import pack_torch, unpack_torch

__all__ = ["FuserMethod", "State"]

#: Steps after which spots alike far away are looked for anew (published).
_FAR_EVERY = 100
#: Draws of a random spot before one that is far enough is given up on.
_DRAWS = 4
#: Rows projected at a time.
_ROWS = 65_536


@dataclass
class State:
    """All there is to save.

    Parameters
    ----------
    net, optimizer
        Networks and their optimiser.
    latents
        Last embedding of every spot before the common projection, by slice, float32, shape (n_s, d).
    seen
        Spots of each slice that have one, bool, shape (n_s,).
    own
        Features of every spot itself, by slice, float32, shape (n_s, P); empty where spots are matched by
        their embeddings alone.
    step
        Steps done.
    pairs
        The last matching, a :class:`Pairs` a link.
    far
        Spots alike far away by slice, CSR parts; empty without ``alpha``.
    n_measured
        Normalisations whose statistics are final.
    sums
        Of the one that is being measured: count, sums and sums of squares by slice, float64.
    counted
        Spots of each slice that have been counted in it, or embedded, bool, shape (n_s,).
    embedding
        Final embedding of every spot, by slice; empty until then.
    finished
        Whether all is done.
    """

    net: Fuser
    optimizer: torch.optim.Optimizer
    latents: list[Tensor]
    seen: list[np.ndarray]
    own: list[np.ndarray] = field(default_factory=list)
    step: int = 0
    pairs: list[Pairs] = field(default_factory=list)
    far: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    n_measured: int = 0
    sums: list[np.ndarray] = field(default_factory=list)
    counted: list[np.ndarray] = field(default_factory=list)
    embedding: list[Tensor] = field(default_factory=list)
    finished: bool = False


@dataclass(frozen=True)
class Inputs:
    """One slice's share of a step, on the device.

    Parameters
    ----------
    slice_index, core
        The slice, and its spots that carry the loss, as a run of its rows.
    rows
        Features of core and halo.
    graph
        Their edges, without priors.
    around
        Rows of the slice of all spots, halo included, int64.
    """

    slice_index: int
    core: slice
    rows: Tensor
    graph: Graph
    around: np.ndarray


class FuserMethod:
    """The phases of a fit, a unit a step.

    Parameters
    ----------
    params, facts, device, seed
        As for :func:`atlasnmf.models.spatialfuser.method.build`.
    """

    name = "spatialfuser"

    def __init__(self, params: Params, facts: AtlasFacts, device: torch.device, seed: int) -> None:
        self.params, self.facts, self.device, self.seed = params, facts, device, seed
        self.offsets = np.concatenate([[0], np.cumsum(facts.n_spots)]).astype(np.int64)
        self.links = Links.of(params, facts, seed)
        self.genes = [np.flatnonzero(mask) for mask in facts.gene_mask]
        # refused before anything is trained
        wanted_genes(params, facts.genes)
        if params.alpha and isinstance(params.batch_spots, int) and params.batch_spots < facts.n_spots.max():
            raise BadOption(
                f"--alpha averages over whole slices of up to {int(facts.n_spots.max()):,} spots and a step "
                f"has {params.batch_spots:,}; leave --batch-spots out, or --alpha"
            )
        self.fuse_steps = params.fuse_steps if facts.n_slices > 1 else 0
        # spots are not matched before every one of them has been seen
        self.pretrain_steps = (
            max(params.pretrain_steps, self._epoch()) if self.fuse_steps else params.pretrain_steps
        )
        self.kinds = np.zeros(facts.n_slices, np.int64) if facts.kinds is None else facts.kinds
        self._kept: dict[int, tuple[SliceBatch, Inputs]] = {}

    # -- the state ------------------------------------------------------------------------------------------

    def _fresh(self) -> State:
        """Return untrained networks."""
        params, facts = self.params, self.facts
        generator = torch.Generator().manual_seed(seed_for(self.seed, "spatialfuser", "weights"))
        kinds = list(range(facts.n_slices)) if params.encoders == "own" else self.kinds.tolist()
        groups = sorted(set(kinds))
        encoders, places = [], [0] * facts.n_slices
        for group in groups:
            members = [s for s, kind in enumerate(kinds) if kind == group]
            for place, s in enumerate(members):
                places[s] = place
            encoders.append(
                Mcgate(
                    self._n_in(members[0]),
                    self.widths,
                    params.heads,
                    n_slices=len(members),
                    alpha=params.alpha,
                    linear=params.features == "scores",
                    generator=generator,
                )
            )
        encoder_of = [(groups.index(kind), place) for kind, place in zip(kinds, places, strict=True)]
        net = Fuser(encoders, encoder_of, self.widths[-1], start=params.start, generator=generator).to(
            self.device
        )
        optimizer = torch.optim.Adam(
            net.parameters(), lr=params.learning_rate, weight_decay=params.weight_decay, foreach=True
        )
        latents = [torch.zeros(int(n), self.widths[-1], device=self.device) for n in facts.n_spots]
        own: list[np.ndarray] = []
        if params.features == "scores" and params.own_weight and facts.n_slices > 1:
            assert facts.component_scale is not None
            own = [np.zeros((int(n), facts.component_scale.shape[-1]), np.float32) for n in facts.n_spots]
        return State(net, optimizer, latents, [np.zeros(int(n), bool) for n in facts.n_spots], own)

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the layers: those of the components where an encoder begins at them."""
        if self.params.start and self.params.features == "scores":
            return (self._n_in(0),) * self.params.depth
        return self.params.hidden

    def _n_in(self, slice_index: int) -> int:
        if self.params.features == "scores":
            assert self.facts.component_scale is not None
            known = min(self.params.components, self.facts.component_scale.shape[-1])
            return int(known - known % self.params.heads)  # every head has as many
        return len(self.genes[slice_index])

    def init(self, sample: list[SliceBatch]) -> State:
        """Return the first state; the sample tells how far the inputs spread."""
        state = self._fresh()
        if self.params.start and self.params.features == "scores":
            given = [self.inputs(batch) for batch in sample]
            for number, encoder in enumerate(state.net.encoders):
                own = [i.rows for i in given if state.net.encoder_of[i.slice_index][0] == number]
                spread = torch.cat(own).std(0)
                for layer in encoder.layers:
                    layer.begin_at(spread)
        self._kept.clear()
        return state

    # -- inputs ---------------------------------------------------------------------------------------------

    def inputs(self, batch: SliceBatch) -> Inputs:
        """Move one slice's spots to the device; a slice that comes whole every time is moved once."""
        kept = self._kept.get(batch.slice_index)
        if kept is not None and kept[0] is batch:
            return kept[1]
        assert batch.graph is not None
        offset = int(self.offsets[batch.slice_index])
        around = batch.rows - offset
        edges = Edges(
            torch.from_numpy(np.asarray(batch.graph.indptr, np.int64)).to(self.device),
            torch.from_numpy(batch.graph.indices.astype(np.int64)).to(self.device),
        )
        made = Inputs(
            batch.slice_index,
            slice(int(around[0]), int(around[0]) + batch.n_core),
            self._features(batch),
            Graph(batch.rings, edges),
            around,
        )
        if batch.n_core == self.facts.n_spots[batch.slice_index]:
            self._kept[batch.slice_index] = (batch, made)
        return made

    def _features(self, batch: SliceBatch) -> Tensor:
        if self.params.features == "scores":
            assert batch.scores is not None
            levels = torch.as_tensor(batch.scores).to(self.device)
            return levels[:, -1, : self._n_in(0)] / self._spread(batch.slice_index)
        genes = self.genes[batch.slice_index]
        counts = batch.counts if len(genes) == self.facts.n_genes else _columns(batch.counts, genes)
        values = log_normalise(counts.indptr, counts.data, batch.totals, self.facts.target_sum)
        rows = np.empty((counts.n_rows, counts.n_cols), np.float32)
        fill_dense(counts.indptr, counts.indices, values, rows)
        return torch.from_numpy(rows).to(self.device)

    def _spread(self, slice_index: int) -> Tensor:
        """Return what the components of a slice are divided by: the root of their spread, over all the same.

        Half way between the weight that strong components have and giving all the same.
        """
        assert self.facts.component_scale is not None
        spread = np.atleast_2d(self.facts.component_scale)[int(self.kinds[slice_index]), : self._n_in(0)]
        return torch.from_numpy(np.sqrt(spread * spread.mean()).astype(np.float32)).to(self.device)

    def _graph(self, state: State, given: Inputs) -> Graph:
        """Return the edges with what the last embeddings say of them."""
        s = given.slice_index
        graph = replace(given.graph, place=state.net.place(s))
        if self.params.similarity and state.seen[s].all():
            latents = state.latents[s]
            whole = len(given.around) == len(latents)
            rows = latents if whole else latents[torch.from_numpy(given.around).to(self.device)]
            graph = replace(graph, prior=cosine_shares(graph.local, rows, self.params.heads))
        if state.far:
            indptr, indices = (torch.from_numpy(part).to(self.device) for part in state.far[s])
            graph = replace(graph, far=Edges(indptr, indices))
        return graph

    # -- the phases -----------------------------------------------------------------------------------------

    def done(self, state: State) -> bool:
        """Say whether the final matching is there."""
        return state.finished

    @property
    def learning_steps(self) -> int:
        """Steps of the first two phases."""
        return self.pretrain_steps + self.fuse_steps

    def step(self, state: State, unit: list[SliceBatch]) -> tuple[State, dict[str, float]]:
        """Take one step of the phase that it is time for."""
        given = [self.inputs(batch) for batch in unit]
        for batch, inputs in zip(unit, given, strict=True):
            if state.own and not state.seen[batch.slice_index][inputs.core].all():
                assert batch.scores is not None
                state.own[batch.slice_index][inputs.core] = batch.scores[: batch.n_core, 0]
        if state.step < self.learning_steps:
            figures = self._learn(state, given)
        elif state.n_measured < 2 * self.params.depth:
            figures = self._measure(state, given)
        else:
            figures = self._embed(state, given)
        state.step += 1
        return state, figures

    def _learn(self, state: State, given: list[Inputs]) -> dict[str, float]:
        params, fusing = self.params, state.step >= self.pretrain_steps
        self._look_far(state)
        if fusing and self._is_time_to_match(state):
            self._match(state)
        state.net.train()
        latents, errors = [], []
        for inputs in given:
            latent, missed = state.net.of(inputs.slice_index).error(inputs.rows, self._graph(state, inputs))
            latents.append(latent)
            errors.append(missed)
        loss = torch.stack(errors).sum()
        figures = {"reconstruction": float(loss.detach())}
        if fusing:
            loss = params.reconstruction_weight * loss
            for name, term in self._fusion(state, given, latents).items():
                loss = loss + (params.direction_weight if name == "direction" else 1.0) * term
                figures[name] = float(term.detach())
        weights = list(state.net.parameters())
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient
        state.optimizer.step()
        state.optimizer.zero_grad()
        for inputs, latent in zip(given, latents, strict=True):
            state.latents[inputs.slice_index][inputs.core] = latent.detach()
            state.seen[inputs.slice_index][inputs.core] = True
        return {"loss": float(loss.detach()), **figures}

    def _look_far(self, state: State) -> None:
        """Find spots alike far away, once all have an embedding and every hundred steps."""
        if not self.params.alpha or not all(seen.all() for seen in state.seen):
            return
        if state.far and state.step % _FAR_EVERY:
            return
        state.far = []
        for s, latents in enumerate(state.latents):
            inputs = self._kept[s][1]
            local = inputs.graph.local
            found = far_neighbours(
                latents.cpu().numpy(),
                local.indptr.cpu().numpy(),
                local.neighbour.cpu().numpy(),
                self.params.far_neighbors,
            )
            state.far.append(found)

    def _is_time_to_match(self, state: State) -> bool:
        """Match every few steps, but not before every spot has been seen since the last time."""
        return (state.step - self.pretrain_steps) % max(self.params.match_every, self._epoch()) == 0

    def _epoch(self) -> int:
        """Return the steps after which every spot has been in one."""
        assert isinstance(self.params.batch_spots, int)
        return -(-int(self.facts.n_spots.max()) // self.params.batch_spots)

    @torch.no_grad()
    def _projected(self, state: State, latents: list[Tensor]) -> list[np.ndarray]:
        return [
            torch.cat([state.net.project(part) for part in rows.split(_ROWS)]).cpu().numpy()
            for rows in latents
        ]

    def _match(self, state: State) -> None:
        embeddings = self._projected(state, state.latents)
        state.pairs = []
        for link, (a, b) in enumerate(self.links.slices):
            if not self.links.comparable(link):
                state.pairs.append(Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64)))
                continue
            found = self.links.match(link, embeddings, state.own, state.step)
            # a spot that no step has seen yet has no embedding to be matched by
            known = state.seen[a][found.source] & state.seen[b][found.target]
            state.pairs.append(Pairs(found.source[known], found.target[known]))

    def _fusion(self, state: State, given: list[Inputs], latents: list[Tensor]) -> dict[str, Tensor]:
        """Return triplets and common direction, each the mean over links."""
        here = {inputs.slice_index: inputs for inputs in given}
        live = {i.slice_index: state.net.project(latent) for i, latent in zip(given, latents, strict=True)}
        pulls, turns = [], []
        for link, (a, b) in enumerate(self.links.slices):
            by_source = state.pairs[link].of_source(here[a].core)
            by_target = state.pairs[link].of_target(here[b].core)
            # pairs with both ends here are counted once
            elsewhere = (by_target[0] < here[a].core.start) | (by_target[0] >= here[a].core.stop)
            source = np.concatenate([by_source[0], by_target[0][elsewhere]])
            target = np.concatenate([by_source[1], by_target[1][elsewhere]])
            if len(source):
                rng = rng_for(self.seed, "spatialfuser", "negatives", link, state.step)
                rows = [
                    self._rows(state, here[s], live[s], wanted)
                    for s, spots in ((a, source), (b, target))
                    for wanted in (spots, self._elsewhere(spots, here[s], rng))
                ]
                pulls.append(losses.triplets(rows[0], rows[2], rows[1], rows[3], self.params.margin))
            turns.append(losses.direction(latents[a], latents[b]))
        terms = {"direction": torch.stack(turns).mean()}
        if pulls:
            terms["triplets"] = torch.stack(pulls).mean()
        return terms

    def _rows(self, state: State, inputs: Inputs, live: Tensor, spots: np.ndarray) -> Tensor:
        """Return the embedding of spots: of this step where they are in it, else as last seen."""
        inside = (spots >= inputs.core.start) & (spots < inputs.core.stop)
        if inside.all():
            return live[torch.from_numpy(spots - inputs.core.start).to(self.device)]
        places = torch.from_numpy(np.where(inside, spots - inputs.core.start, 0)).to(self.device)
        with torch.no_grad():
            last = state.net.project(
                state.latents[inputs.slice_index][torch.from_numpy(spots).to(self.device)]
            )
        return torch.where(torch.from_numpy(inside).to(self.device)[:, None], live[places], last)

    def _elsewhere(self, spots: np.ndarray, inputs: Inputs, rng: np.random.Generator) -> np.ndarray:
        """Draw for each spot one of the step's own that is farther than the reach of a match."""
        positions, reach = self.links.positions[inputs.slice_index], self.links.reach(inputs.slice_index)
        drawn = rng.integers(inputs.core.start, inputs.core.stop, len(spots))
        for _ in range(_DRAWS):
            near = np.square(positions[drawn] - positions[spots]).sum(1) <= reach**2
            if not near.any():
                break
            drawn[near] = rng.integers(inputs.core.start, inputs.core.stop, int(near.sum()))
        return drawn

    @torch.no_grad()
    def _measure(self, state: State, given: list[Inputs]) -> dict[str, float]:
        """Count this unit's spots into the statistics of one normalisation; finish it when all are in."""
        state.net.eval()
        self._count_anew(state)
        for inputs in given:
            s = inputs.slice_index
            fresh = ~state.counted[s][inputs.core]
            if not fresh.any():
                continue
            rows = state.net.of(s).before_norm(state.n_measured, inputs.rows, self._graph(state, inputs))
            rows = rows.double()[torch.from_numpy(fresh).to(self.device)]
            parts = [rows.new_full((rows.shape[1],), len(rows)), rows.sum(0), rows.square().sum(0)]
            state.sums[s] = state.sums[s] + torch.stack(parts).cpu().numpy()
            state.counted[s][inputs.core] = True
        if all(counted.all() for counted in state.counted):
            for s, (count, total, squares) in enumerate(state.sums):
                mean = total / count
                var = np.maximum(squares / count - mean**2, 0)
                norm = state.net.of(s).norms()[state.n_measured]
                norm.measured(state.net.place(s), *(torch.from_numpy(part).float() for part in (mean, var)))
            state.n_measured += 1
            state.counted, state.sums = [], []
        return {"measured": state.n_measured}

    def _count_anew(self, state: State) -> None:
        if not state.counted:
            state.counted = [np.zeros(int(n), bool) for n in self.facts.n_spots]
            state.sums = [np.zeros((3, 1)) for _ in self.facts.n_spots]

    @torch.no_grad()
    def _embed(self, state: State, given: list[Inputs]) -> dict[str, float]:
        """Embed this unit's spots for good; match when all are embedded."""
        state.net.eval()
        self._count_anew(state)
        if not state.embedding:
            state.embedding = [torch.zeros_like(rows) for rows in state.latents]
        for inputs in given:
            s = inputs.slice_index
            if not state.counted[s][inputs.core].all():
                latent, _ = state.net.of(s).encode(inputs.rows, self._graph(state, inputs))
                state.embedding[s][inputs.core] = latent
                state.counted[s][inputs.core] = True
        if all(counted.all() for counted in state.counted):
            if self.facts.n_slices > 1:
                projected = self._projected(state, state.embedding)
                state.embedding = [torch.from_numpy(rows).to(self.device) for rows in projected]
            state.finished = True
        return {"embedded": float(np.mean([counted.mean() for counted in state.counted]))}

    @torch.no_grad()
    def decoded(self, state: State, batch: SliceBatch) -> Tensor:
        """Return the features of the core spots as the trained autoencoder gives them back."""
        state.net.eval()
        inputs = self.inputs(batch)
        _, found = state.net.of(inputs.slice_index)(inputs.rows, self._graph(state, inputs))
        if self.params.features == "scores":
            found = found * self._spread(inputs.slice_index)
        return found

    # -- saving ---------------------------------------------------------------------------------------------

    def pack(self, state: State) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return networks, moments and what is kept of every spot as arrays and JSON scalars."""
        tensors, scalars = pack_torch({"net": state.net}, {"optimizer": state.optimizer})
        kept: dict[str, list[Any]] = {
            "latents": [rows.cpu().numpy() for rows in state.latents],
            "embedding": [rows.cpu().numpy() for rows in state.embedding],
            "seen": [flags.view(np.uint8) for flags in state.seen],
            "counted": [flags.view(np.uint8) for flags in state.counted],
            "own": state.own,
            "sums": state.sums,
            "pairs": [np.stack([pairs.source, pairs.target]) for pairs in state.pairs],
            "far_indptr": [indptr for indptr, _ in state.far],
            "far_indices": [indices for _, indices in state.far],
        }
        for name, arrays in kept.items():
            tensors |= {f"{name}/{i}": np.array(array) for i, array in enumerate(arrays)}
        scalars |= {name: len(arrays) for name, arrays in kept.items()}
        scalars |= {"step": state.step, "n_measured": state.n_measured, "finished": state.finished}
        return tensors, scalars

    def unpack(self, tensors: Mapping[str, np.ndarray], scalars: Mapping[str, Any]) -> State:
        """Return the packed state, to the same bits."""

        def kept(name: str) -> list[np.ndarray]:
            return [np.array(tensors[f"{name}/{i}"]) for i in range(int(scalars[name]))]

        state = self._fresh()
        unpack_torch(tensors, scalars, {"net": state.net}, {"optimizer": state.optimizer})
        state.latents = [torch.from_numpy(rows).to(self.device) for rows in kept("latents")]
        state.embedding = [torch.from_numpy(rows).to(self.device) for rows in kept("embedding")]
        state.seen = [flags.view(bool) for flags in kept("seen")]
        state.counted = [flags.view(bool) for flags in kept("counted")]
        state.own, state.sums = kept("own"), kept("sums")
        state.pairs = [Pairs(*pairs) for pairs in kept("pairs")]
        state.far = list(zip(kept("far_indptr"), kept("far_indices"), strict=True))
        state.step, state.n_measured = int(scalars["step"]), int(scalars["n_measured"])
        state.finished = bool(scalars["finished"])
        return state


def _columns(counts: Csr, genes: np.ndarray) -> Csr:
    return Csr.from_scipy(counts.to_scipy()[:, genes])
