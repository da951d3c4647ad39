"""What a fit of SpatialFuser has come to: all there is to save, and its arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atlasnmf.models.spatialfuser.networks import Fuser
from atlasnmf.models.spatialfuser.pairs import Pairs
from atlasnmf.train.torch_state import pack_torch, unpack_torch

__all__ = ["State", "pack", "unpack"]


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


def pack(state: State) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
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


def unpack(
    state: State, tensors: Mapping[str, np.ndarray], scalars: Mapping[str, Any], device: torch.device
) -> State:
    """Return what was packed, to the same bits, in the networks of an untrained state."""

    def kept(name: str) -> list[np.ndarray]:
        return [np.array(tensors[f"{name}/{i}"]) for i in range(int(scalars[name]))]

    unpack_torch(tensors, scalars, {"net": state.net}, {"optimizer": state.optimizer})
    state.latents = [torch.from_numpy(rows).to(device) for rows in kept("latents")]
    state.embedding = [torch.from_numpy(rows).to(device) for rows in kept("embedding")]
    state.seen = [flags.view(bool) for flags in kept("seen")]
    state.counted = [flags.view(bool) for flags in kept("counted")]
    state.own, state.sums = kept("own"), kept("sums")
    state.pairs = [Pairs(*pairs) for pairs in kept("pairs")]
    state.far = list(zip(kept("far_indptr"), kept("far_indices"), strict=True))
    state.step, state.n_measured = int(scalars["step"]), int(scalars["n_measured"])
    state.finished = bool(scalars["finished"])
    return state
