"""A small real method, and units that are a function of their position: shared by the tests of the loop."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from atlasnmf.seeds import rng_for, seed_for
from atlasnmf.train.torch_state import pack_torch, unpack_torch


class RandomUnits:
    """Random rows by position."""

    def __init__(self, seed: int = 0, length: int | None = None, pause_s: float = 0.0) -> None:
        self.seed, self.length, self.pause_s = seed, length, pause_s
        self.closed = 0

    def unit(self, step: int) -> np.ndarray:
        return rng_for(self.seed, "unit", step).normal(size=(16, 5)).astype(np.float32)

    def starting_at(self, step: int) -> Iterator[np.ndarray]:
        try:
            while self.length is None or step < self.length:
                time.sleep(self.pause_s)
                yield self.unit(step)
                step += 1
        finally:
            self.closed += 1


class Autoencoder:
    """Reconstruct rows through two dimensions with Adamax and a decaying learning rate."""

    name = "autoencoder"

    def __init__(self, steps: int = 12, seed: int = 0) -> None:
        self.steps, self.seed = steps, seed
        self.n_inits = 0

    def _fresh(self) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(seed_for(self.seed, "weights"))
        network = torch.nn.Sequential(torch.nn.Linear(5, 2), torch.nn.ELU(), torch.nn.Linear(2, 5))
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.uniform_(-0.5, 0.5, generator=generator)
        optimizer = torch.optim.Adamax(network.parameters(), lr=0.02, weight_decay=1e-4)
        return {"network": network, "optimizer": optimizer, "mean": np.zeros(5, np.float64), "step": 0}

    def init(self, sample: np.ndarray) -> dict[str, Any]:
        self.n_inits += 1
        return self._fresh() | {"mean": sample.mean(axis=0, dtype=np.float64)}

    def step(self, state: dict[str, Any], unit: np.ndarray) -> tuple[dict[str, Any], dict[str, float]]:
        rows = torch.from_numpy(unit)
        loss = (state["network"](rows) - rows).square().mean()
        state["optimizer"].zero_grad()
        loss.backward()
        state["optimizer"].step()
        state["optimizer"].param_groups[0]["lr"] *= 0.99
        mean = 0.9 * state["mean"] + 0.1 * unit.mean(axis=0)
        return {**state, "mean": mean, "step": state["step"] + 1}, {"loss": loss.item()}

    def done(self, state: dict[str, Any]) -> bool:
        return state["step"] >= self.steps

    def pack(self, state: dict[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        tensors, scalars = pack_torch({"net": state["network"]}, {"adamax": state["optimizer"]})
        return {**tensors, "mean": state["mean"]}, {**scalars, "step": state["step"]}

    def unpack(self, tensors: Mapping[str, np.ndarray], scalars: Mapping[str, Any]) -> dict[str, Any]:
        state = self._fresh()
        unpack_torch(tensors, scalars, {"net": state["network"]}, {"adamax": state["optimizer"]})
        return state | {"mean": tensors["mean"], "step": scalars["step"]}


def same_bits(method: Autoencoder, left: dict[str, Any], right: dict[str, Any]) -> bool:
    """Compare two states, moments and learning rate included."""
    (a, scalars_a), (b, scalars_b) = method.pack(left), method.pack(right)
    return (
        scalars_a == scalars_b
        and a.keys() == b.keys()
        and all(a[key].dtype == b[key].dtype and a[key].tobytes() == b[key].tobytes() for key in a)
    )
