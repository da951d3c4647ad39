"""Which slices are matched with which, and the pairs of spots that a matching found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from atlasnmf.features.candidates import unit_rows
from atlasnmf.features.matching import Matches, match
from atlasnmf.models.spatialfuser.params import Params, spacings
from atlasnmf.schema import AtlasFacts
from atlasnmf.seeds import rng_for

__all__ = ["Links", "Pairs", "place_features"]


@dataclass(frozen=True)
class Pairs:
    """Anchors and positives of one link: rows of either slice, by source.

    Parameters
    ----------
    source, target
        Rows within the slices, int64, shape (m,).
    """

    source: np.ndarray
    target: np.ndarray

    @cached_property
    def _by_target(self) -> np.ndarray:
        return np.argsort(self.target, kind="stable")

    def of_source(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return the pairs whose source lies in a run of rows."""
        lo, hi = np.searchsorted(self.source, [rows.start, rows.stop])
        return self.source[lo:hi], self.target[lo:hi]

    def of_target(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return the pairs whose target lies in a run of rows."""
        order = self._by_target
        lo, hi = np.searchsorted(self.target[order], [rows.start, rows.stop])
        return self.source[order[lo:hi]], self.target[order[lo:hi]]


@dataclass(frozen=True)
class Links:
    """The slices that are matched, and how.

    Parameters
    ----------
    slices
        Source and target of every link.
    radii
        Largest distance of a pair by link; None where no common frame is known.
    positions
        Of every spot in the common frame, by slice, shape (n_s, 2 or 3).
    kinds
        Kind of features of every slice.
    params, seed
        Of the fit.
    device
        Where spots are matched.
    """

    slices: tuple[tuple[int, int], ...]
    radii: tuple[float | None, ...]
    positions: tuple[np.ndarray, ...]
    kinds: tuple[int, ...]
    params: Params
    seed: int
    device: str = "cpu"

    @classmethod
    def of(cls, params: Params, facts: AtlasFacts, seed: int, device: str = "cpu") -> Links:
        """Link every slice with the one before it, or with the first."""
        linked = range(1, facts.n_slices)
        slices = tuple((0 if params.partners == "first" else s - 1, s) for s in linked)
        frame = facts.frame
        if frame is None:
            return cls((), (), (), (), params, seed, device)
        offsets = np.concatenate([[0], np.cumsum(facts.n_spots)])
        positions = tuple(frame.positions[lo:hi] for lo, hi in pairwise(offsets))
        radii: list[float | None] = []
        for a, b in slices:
            reach = spacings(min(int(facts.n_spots[a]), int(facts.n_spots[b])))
            wanted = params.max_distance or reach * max(frame.spacing[a], frame.spacing[b])
            trusted = bool(frame.trusted[b]) or params.max_distance is not None
            radii.append(float(wanted) if trusted else None)
        kinds = (0,) * facts.n_slices if facts.kinds is None else tuple(facts.kinds.tolist())
        return cls(slices, tuple(radii), positions, kinds, params, seed, device)

    def comparable(self, link: int) -> bool:
        """Say whether the two slices of a link can be matched: they share features, or a frame.

        Embeddings of two encoders mean nothing to each other, and without a frame nothing else does either.
        """
        a, b = self.slices[link]
        return self.kinds[a] == self.kinds[b] or self.radii[link] is not None

    def reach(self, slice_index: int) -> float:
        """Return the distance beyond which a spot of the same slice counts as another place."""
        near = [
            radius
            for pair, radius in zip(self.slices, self.radii, strict=True)
            if slice_index in pair and radius is not None
        ]
        return max(near, default=0.0)

    def match(self, link: int, embeddings: list[np.ndarray], own: list[np.ndarray], *where: Any) -> Matches:
        """Match the two slices of a link, by where their spots lie and by what they express.

        The embedding averages over neighbours and says which domain a spot is of; its own features say which
        cell it is. Where two slices measure the same, both count. Where they do not, embeddings mean nothing
        to each other until they have been fused, and how near two spots lie counts in the place of features.

        Parameters
        ----------
        link
            Number of the link.
        embeddings
            In the common space, by slice.
        own
            Features of each spot itself, by slice; empty to match by the embedding alone.
        *where
            What sets this matching's random draws apart from those of others.
        """
        a, b = self.slices[link]
        params = self.params
        left, right = embeddings[a], embeddings[b]
        radius = self.radii[link]
        beside: Sequence[np.ndarray] | Mapping[int, np.ndarray] = ()
        if self.kinds[a] == self.kinds[b]:
            beside = own
        elif radius is not None and params.own_weight:
            beside = {s: place_features(self.positions[s], _NEAR * radius) for s in (a, b)}
        if beside:
            left, right = (_beside(embeddings[s], beside[s], params.own_weight) for s in (a, b))
        if self.device != "cpu":
            _make_room()
        return match(
            left,
            right,
            self.positions[a],
            self.positions[b],
            radius=radius,
            temperature=params.tau,
            bin_score=params.bin_score,
            k=params.top_k,
            rng=rng_for(self.seed, "spatialfuser", "null", link, *where),
            device=self.device,
        )


def _make_room() -> None:
    """Have torch give back what it keeps of the device for later steps: CuPy has memory of its own."""
    import torch

    torch.cuda.empty_cache()


def _beside(embedding: np.ndarray, own: np.ndarray, weight: float) -> np.ndarray:
    """Return both at unit length, side by side: their cosines add, weighted."""
    return np.concatenate([unit_rows(embedding), np.float32(weight**0.5) * unit_rows(own)], axis=1)


def place_features(positions: np.ndarray, reach: float) -> np.ndarray:
    """Return features whose cosine falls with the distance of two spots as ``exp(-(d / reach)^2 / 2)``.

    Parameters
    ----------
    positions
        Shape (n, 2); of three dimensions the first two count.
    reach
        In the unit of the positions.

    Returns
    -------
    features
        float32, shape (n, 36): cosines and sines of waves at 6 angles and 3 quantiles of the length that the
        waves of a Gaussian have, which is within .14 of it up to five times the reach.
    """
    lengths = np.sqrt(-2 * np.log1p(-(np.arange(3) + 0.5) / 3)) / reach
    angles = np.pi * (np.arange(6)[None] + np.arange(3)[:, None] / 3) / 6
    waves = np.stack([lengths[:, None] * np.cos(angles), lengths[:, None] * np.sin(angles)], -1).reshape(
        -1, 2
    )
    phases = np.asarray(positions)[:, :2] @ waves.T
    return np.concatenate([np.cos(phases), np.sin(phases)], axis=1).astype(np.float32)


#: How near counts in the place of features, as a share of the largest distance of a pair.
_NEAR = 0.15
