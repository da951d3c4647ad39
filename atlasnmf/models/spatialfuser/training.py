"""SpatialFuser as a method: embed, match and fuse, measure the statistics, embed for good.

A fit goes through phases, each a run of steps, so that a resume takes up any of them where it ended:

1. *pretrain*: each slice's autoencoder learns to reconstruct its features;
2. *fuse* (two slices or more): spots are matched anew every few steps, and pairs pull the slices together;
3. *measure*: mean and variance behind every normalisation, one after the other, over all spots;
4. *embed*: every spot under those, and the final matching.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atlasnmf.errors import BadOption
from atlasnmf.kernels.dispatch import gpu_available
from atlasnmf.models.spatialfuser import state as states
from atlasnmf.models.spatialfuser.far import far_neighbours
from atlasnmf.models.spatialfuser.fusing import Fusion
from atlasnmf.models.spatialfuser.inputs import Inputs, Reader, among_all
from atlasnmf.models.spatialfuser.measuring import embed, measure
from atlasnmf.models.spatialfuser.networks import Fuser, Mcgate, errors
from atlasnmf.models.spatialfuser.pairs import Links
from atlasnmf.models.spatialfuser.params import Params, wanted_genes
from atlasnmf.models.spatialfuser.state import State
from atlasnmf.schema import AtlasFacts, SliceBatch
from atlasnmf.seeds import seed_for
from atlasnmf.train.method import Ranks
from atlasnmf.train.sums import sent_round

__all__ = ["FuserMethod"]

#: Steps after which spots alike far away are looked for anew (published).
_FAR_EVERY = 100


class FuserMethod:
    """The phases of a fit, a unit a step.

    Parameters
    ----------
    params, facts, device, seed
        As for :func:`atlasnmf.models.spatialfuser.method.build`.
    ranks
        Those that share every step; None for one that has it all.

    Notes
    -----
    Ranks (:meth:`with_ranks`) each bring a run of the core rows of every slice, with a halo of their own, so
    a step sees the rows that one worker would see. Statistics of normalisations are sums over all ranks'
    rows, differentiated; every rank gets the embeddings of all rows and counts a run of the triplets; links
    are matched in turn. So value and gradient are those of the whole step, up to the order of additions, and
    what the state keeps of every spot has the same bits on every rank.
    """

    name = "spatialfuser"

    def __init__(
        self,
        params: Params,
        facts: AtlasFacts,
        device: torch.device,
        seed: int,
        ranks: Ranks | None = None,
    ) -> None:
        self.params, self.facts, self.device, self.seed, self.ranks = params, facts, device, seed, ranks
        several = ranks if ranks is not None and ranks.n_ranks > 1 else None
        self.reader = Reader(params, facts, device, several)
        # torch may see a device that CuPy, which may not be installed, cannot use
        matches_there = device.type == "cuda" and gpu_available()
        self.links = Links.of(params, facts, seed, "cuda" if matches_there else "cpu")
        self.fusion = Fusion(params, self.links, seed, several)
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

    def with_ranks(self, ranks: Ranks) -> FuserMethod:
        """Return the method for one of the ranks that share every step."""
        return FuserMethod(self.params, self.facts, self.device, self.seed, ranks)

    # -- the state ------------------------------------------------------------------------------------------

    def _fresh(self) -> State:
        """Return untrained networks."""
        params, facts, reader = self.params, self.facts, self.reader
        generator = torch.Generator().manual_seed(seed_for(self.seed, "spatialfuser", "weights"))
        kinds = list(range(facts.n_slices)) if params.encoders == "own" else reader.kinds.tolist()
        groups = sorted(set(kinds))
        encoders, places = [], [0] * facts.n_slices
        for group in groups:
            members = [s for s, kind in enumerate(kinds) if kind == group]
            for place, s in enumerate(members):
                places[s] = place
            encoders.append(
                Mcgate(
                    reader.n_features(members[0]),
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
            return (self.reader.n_features(0),) * self.params.depth
        return self.params.hidden

    def init(self, sample: list[SliceBatch]) -> State:
        """Return the first state; the sample tells how far the inputs spread."""
        state = self._fresh()
        if self.params.start and self.params.features == "scores":
            given = [self.reader.read(batch) for batch in sample]
            for number, encoder in enumerate(state.net.encoders):
                own = [i.rows for i in given if state.net.encoder_of[i.slice_index][0] == number]
                spread = torch.cat(own).std(0)
                for layer in encoder.layers:
                    layer.begin_at(spread)
        self.reader.forget()
        return state

    def pack(self, state: State) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return networks, moments and what is kept of every spot as arrays and JSON scalars."""
        return states.pack(state)

    def unpack(self, tensors: Mapping[str, np.ndarray], scalars: Mapping[str, Any]) -> State:
        """Return the packed state, to the same bits."""
        return states.unpack(self._fresh(), tensors, scalars, self.device)

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
        given = [self.reader.read(batch) for batch in unit]
        if state.own:
            self._keep_own(state, unit, given)
        if state.step < self.learning_steps:
            figures = self._learn(state, given)
        elif state.n_measured < 2 * self.params.depth:
            figures = measure(state, given, self.reader)
        else:
            figures = embed(state, given, self.reader)
        state.step += 1
        return state, figures

    def _keep_own(self, state: State, unit: list[SliceBatch], given: list[Inputs]) -> None:
        """Keep the features of spots that no step has seen before."""
        new, rows = [], []
        for batch, inputs in zip(unit, given, strict=True):
            if not state.seen[inputs.slice_index][inputs.step].all():
                assert batch.scores is not None
                new.append(inputs)
                rows.append(torch.as_tensor(batch.scores[: batch.n_core, 0]).to(self.device))
        for inputs, whole in zip(new, among_all(new, rows, self.reader.ranks), strict=True):
            state.own[inputs.slice_index][inputs.step] = whole.cpu().numpy()

    def _learn(self, state: State, given: list[Inputs]) -> dict[str, float]:
        fusing = state.step >= self.pretrain_steps
        self._look_far(state)
        if fusing and self._is_time_to_match(state):
            self.fusion.match(state)
        state.net.train()
        nets = [state.net.of(inputs.slice_index) for inputs in given]
        graphs = [self.reader.graph(inputs, state) for inputs in given]
        latents, missed = errors(nets, [inputs.rows for inputs in given], graphs)
        terms = {"reconstruction": torch.stack(missed).sum()}
        weights = {"reconstruction": 1.0}
        if fusing:
            pulls, rows = self.fusion.terms(state, given, latents)
            terms, weights = terms | pulls, self._weights
        else:
            rows = among_all(given, [latent.detach() for latent in latents], self.reader.ranks)
        loss = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        seen = torch.stack([term.detach() for term in terms.values()])
        self._descend(loss, state, [seen])
        for inputs, whole in zip(given, rows, strict=True):
            state.latents[inputs.slice_index][inputs.step] = whole
            state.seen[inputs.slice_index][inputs.step] = True
        figures = dict(zip(terms, seen.tolist(), strict=True))
        return {"loss": sum(weights[name] * value for name, value in figures.items()), **figures}

    def _descend(self, loss: Tensor, state: State, beside: list[Tensor]) -> None:
        """Take an optimiser step; ``beside`` is added over ranks along with the gradients."""
        weights = list(state.net.parameters())
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        if self.ranks is not None:
            self.ranks.sum([*(gradient for gradient in gradients if gradient is not None), *beside])
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient
        state.optimizer.step()
        state.optimizer.zero_grad()

    @property
    def _weights(self) -> dict[str, float]:
        """Weights of the terms while slices are fused."""
        params = self.params
        return {
            "reconstruction": params.reconstruction_weight,
            "direction": params.direction_weight,
            "triplets": 1.0,
        }

    def _look_far(self, state: State) -> None:
        """Find spots alike far away, once all have an embedding and every hundred steps."""
        if not self.params.alpha or not all(seen.all() for seen in state.seen):
            return
        if state.far and state.step % _FAR_EVERY:
            return
        ranks, found = self.reader.ranks, []
        # all messages first: none of them waits for a rank that is looking
        near = [self.reader.neighbours(s) for s in range(self.facts.n_slices)]
        for s, latents in enumerate(state.latents):
            mine = ranks is None or s % ranks.n_ranks == ranks.rank
            far = far_neighbours(latents.cpu().numpy(), *near[s], self.params.far_neighbors) if mine else ()
            found.append(np.concatenate([np.zeros(0, np.int64), *far]))
        state.far = [
            (both[: n + 1], both[n + 1 :])
            for both, n in zip(sent_round(found, ranks, self.device), self.facts.n_spots, strict=True)
        ]

    def _is_time_to_match(self, state: State) -> bool:
        """Match every few steps, but not before every spot has been seen since the last time."""
        return (state.step - self.pretrain_steps) % max(self.params.match_every, self._epoch()) == 0

    def _epoch(self) -> int:
        """Return the steps after which every spot has been in one."""
        assert isinstance(self.params.batch_spots, int)
        return -(-int(self.facts.n_spots.max()) // self.params.batch_spots)

    @torch.no_grad()
    def decoded(self, state: State, batch: SliceBatch) -> Tensor:
        """Return the features of the core spots as the trained autoencoder gives them back."""
        state.net.eval()
        inputs = self.reader.read(batch)
        _, found = state.net.of(inputs.slice_index)(inputs.rows, self.reader.graph(inputs, state))
        if self.params.features == "scores":
            found = found * self.reader.spread(inputs.slice_index)
        return found
