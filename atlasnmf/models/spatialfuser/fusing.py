"""What pulls slices together: spots are matched, and pairs and directions give the fusion its terms."""

from __future__ import annotations

from dataclasses import dataclass

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
from atlasnmf.tiles.parts import share_of
from atlasnmf.train.method import Ranks
from atlasnmf.train.sums import gathered, sent_round

__all__ = ["Fusion", "projected"]

#: Draws of a random spot, after the first, before one that is far enough is given up on.
_DRAWS = 4
#: Rows projected at a time.
_ROWS = 65_536


@torch.no_grad()
def projected(net: Fuser, latents: list[Tensor]) -> list[np.ndarray]:
    """Return embeddings of all spots in the common space, by slice."""
    return [torch.cat([net.project(part) for part in rows.split(_ROWS)]).cpu().numpy() for rows in latents]


@dataclass(frozen=True)
class _Triplets:
    """The triplets of a link in a step, or a rank's run of them.

    Parameters
    ----------
    n_pairs
        Their number, over all ranks.
    source, target
        Anchors and positives, rows of either slice, int64, shape (m,).
    away, away_target
        Spots of either slice far from each of them, int64, shape (m,).
    """

    n_pairs: int
    source: np.ndarray
    target: np.ndarray
    away: np.ndarray
    away_target: np.ndarray


class Fusion:
    """Matching, and the terms that its pairs give a step.

    Parameters
    ----------
    params, links, seed
        Of the fit, and the slices that are matched.
    ranks
        Those that share a step; None for one that has it all.
    """

    def __init__(self, params: Params, links: Links, seed: int, ranks: Ranks | None = None) -> None:
        self.params, self.links, self.seed, self.ranks = params, links, seed, ranks
        self.rank, self.n_ranks = (0, 1) if ranks is None else (ranks.rank, ranks.n_ranks)

    def match(self, state: State) -> None:
        """Match the slices of all links by what the last steps saw; ranks take links in turn."""
        embeddings = projected(state.net, state.latents)
        found = [
            self._matched(link, state, embeddings) if link % self.n_ranks == self.rank else _no_pairs()
            for link in range(len(self.links.slices))
        ]
        ends = [np.concatenate([pairs.source, pairs.target]) for pairs in found]
        whole = sent_round(ends, self.ranks, state.latents[0].device)
        state.pairs = [Pairs(*both.reshape(2, -1)) for both in whole]

    def _matched(self, link: int, state: State, embeddings: list[np.ndarray]) -> Pairs:
        if not self.links.comparable(link):
            return _no_pairs()
        found = self.links.match(link, embeddings, state.own, state.step)
        a, b = self.links.slices[link]
        # a spot that no step has seen yet has no embedding to be matched by
        known = state.seen[a][found.source] & state.seen[b][found.target]
        return Pairs(found.source[known], found.target[known])

    def terms(
        self, state: State, given: list[Inputs], latents: list[Tensor]
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Return the terms of a step, and the embeddings of all ranks' rows by slice, without gradient.

        Triplets and common direction, each the mean over links; of several ranks, a part of each: every rank
        gets the embeddings of all and counts its run of the triplets. The direction is a function of sums,
        which rank 0 counts.
        """
        here = {inputs.slice_index: inputs for inputs in given}
        drawn = [self._drawn(link, state, here) for link in range(len(self.links.slices))]
        some = any(triplets is not None for triplets in drawn)
        # one message for all of it: mean directions, embeddings in the common space, embeddings
        n_rows = [inputs.graph.n_step for inputs in given]
        headings = [losses.heading(rows, n)[None] for rows, n in zip(latents, n_rows, strict=True)]
        common = [state.net.project(rows) for rows in latents] if some else []
        whole = gathered(
            [*(rows.detach() for rows in latents), *headings, *common],
            [*n_rows, *[self.n_ranks] * len(given), *(n_rows if some else [])],
            self.ranks,
        )
        slices, n = list(here), len(given)
        heading = {s: parts.sum(0) for s, parts in zip(slices, whole[n : 2 * n], strict=True)}
        turns = [losses.direction(heading[a], heading[b]) for a, b in self.links.slices]
        terms = {"direction": torch.stack(turns).mean() * float(self.rank == 0)}
        if some:
            live = dict(zip(slices, whole[2 * n :], strict=True))
            pulls = [
                self._pulls(triplets, state, [here[s] for s in ends], [live[s] for s in ends])
                for triplets, ends in zip(drawn, self.links.slices, strict=True)
                if triplets is not None
            ]
            terms["triplets"] = torch.stack(pulls).mean()
        return terms, whole[:n]

    def _drawn(self, link: int, state: State, here: dict[int, Inputs]) -> _Triplets | None:
        """Return this rank's run of the pairs of a link with an end in the step, and a spot far from each.

        None where the link has no such pair, on any rank.
        """
        a, b = self.links.slices[link]
        by_source = state.pairs[link].of_source(here[a].step)
        by_target = state.pairs[link].of_target(here[b].step)
        # pairs with both ends here are counted once
        elsewhere = (by_target[0] < here[a].step.start) | (by_target[0] >= here[a].step.stop)
        source = np.concatenate([by_source[0], by_target[0][elsewhere]])
        target = np.concatenate([by_source[1], by_target[1][elsewhere]])
        if not len(source):
            return None
        rng = rng_for(self.seed, "spatialfuser", "negatives", link, state.step)
        own = share_of(len(source), self.rank, self.n_ranks)
        away = []
        for s, spots in ((a, source), (b, target)):
            # drawn for all pairs, so that each has the same spots whichever rank counts it
            drawn = rng.integers(here[s].step.start, here[s].step.stop, (1 + _DRAWS, len(spots)))
            away.append(self._first_far(s, spots[own], drawn[:, own]))
        return _Triplets(len(source), source[own], target[own], *away)

    def _pulls(self, triplets: _Triplets, state: State, given: list[Inputs], live: list[Tensor]) -> Tensor:
        def embedded(end: int, spots: np.ndarray) -> Tensor:
            return _rows(state, given[end], live[end], spots)

        return losses.triplets(
            embedded(0, triplets.source),
            embedded(1, triplets.target),
            embedded(0, triplets.away),
            embedded(1, triplets.away_target),
            self.params.margin,
            n_pairs=triplets.n_pairs,
        )

    def _first_far(self, slice_index: int, spots: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        """Return for each spot the first that was drawn for it and is farther than the reach of a match."""
        positions, reach = self.links.positions[slice_index], self.links.reach(slice_index)
        chosen, still = drawn[0].copy(), np.arange(len(spots))
        for others in drawn[1:]:
            apart = positions[chosen[still]] - positions[spots[still]]
            still = still[np.square(apart).sum(1) <= reach**2]
            if not len(still):
                break
            chosen[still] = others[still]
        return chosen


def _no_pairs() -> Pairs:
    return Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64))


def _rows(state: State, inputs: Inputs, live: Tensor, spots: np.ndarray) -> Tensor:
    """Return the embedding of spots: of this step where they are in it, else as last seen."""
    inside = (spots >= inputs.step.start) & (spots < inputs.step.stop)
    if inside.all():
        # not by brackets: their gradient adds in any order when torch has several threads
        return live.index_select(0, torch.from_numpy(spots - inputs.step.start).to(live.device))
    places = torch.from_numpy(np.where(inside, spots - inputs.step.start, 0)).to(live.device)
    with torch.no_grad():
        last = state.net.project(state.latents[inputs.slice_index][torch.from_numpy(spots).to(live.device)])
    return torch.where(torch.from_numpy(inside).to(live.device)[:, None], live.index_select(0, places), last)
