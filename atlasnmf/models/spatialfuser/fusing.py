"""What pulls slices together: spots are matched, and pairs and directions give the fusion its terms."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from atlasnmf.models.spatialfuser import losses
from atlasnmf.models.spatialfuser.inputs import Inputs
from atlasnmf.models.spatialfuser.networks import Fuser
from atlasnmf.models.spatialfuser.pairs import Links, Pairs
from atlasnmf.models.spatialfuser.params import Params
from atlasnmf.models.spatialfuser.state import State
from atlasnmf.seeds import rng_for

__all__ = ["Fusion", "projected"]

#: Draws of a random spot before one that is far enough is given up on.
_DRAWS = 4
#: Rows projected at a time.
_ROWS = 65_536


@torch.no_grad()
def projected(net: Fuser, latents: list[Tensor]) -> list[np.ndarray]:
    """Return embeddings of all spots in the common space, by slice."""
    return [torch.cat([net.project(part) for part in rows.split(_ROWS)]).cpu().numpy() for rows in latents]


class Fusion:
    """Matching, and the terms that its pairs give a step.

    Parameters
    ----------
    params, links, seed
        Of the fit, and the slices that are matched.
    """

    def __init__(self, params: Params, links: Links, seed: int) -> None:
        self.params, self.links, self.seed = params, links, seed

    def match(self, state: State) -> None:
        """Match the slices of all links by what the last steps saw."""
        embeddings = projected(state.net, state.latents)
        state.pairs = []
        for link, (a, b) in enumerate(self.links.slices):
            if not self.links.comparable(link):
                state.pairs.append(Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64)))
                continue
            found = self.links.match(link, embeddings, state.own, state.step)
            # a spot that no step has seen yet has no embedding to be matched by
            known = state.seen[a][found.source] & state.seen[b][found.target]
            state.pairs.append(Pairs(found.source[known], found.target[known]))

    def terms(self, state: State, given: list[Inputs], latents: list[Tensor]) -> dict[str, Tensor]:
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
                    _rows(state, here[s], live[s], wanted)
                    for s, spots in ((a, source), (b, target))
                    for wanted in (spots, self._elsewhere(spots, here[s], rng))
                ]
                pulls.append(losses.triplets(rows[0], rows[2], rows[1], rows[3], self.params.margin))
            turns.append(losses.direction(latents[a], latents[b]))
        terms = {"direction": torch.stack(turns).mean()}
        if pulls:
            terms["triplets"] = torch.stack(pulls).mean()
        return terms

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


def _rows(state: State, inputs: Inputs, live: Tensor, spots: np.ndarray) -> Tensor:
    """Return the embedding of spots: of this step where they are in it, else as last seen."""
    inside = (spots >= inputs.core.start) & (spots < inputs.core.stop)
    if inside.all():
        return live[torch.from_numpy(spots - inputs.core.start).to(live.device)]
    places = torch.from_numpy(np.where(inside, spots - inputs.core.start, 0)).to(live.device)
    with torch.no_grad():
        last = state.net.project(state.latents[inputs.slice_index][torch.from_numpy(spots).to(live.device)])
    return torch.where(torch.from_numpy(inside).to(live.device)[:, None], live[places], last)
