"""The small method of the loop's tests, with ranks: each takes every n-th row of a unit."""

from __future__ import annotations

import copy
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch_method import Autoencoder, RandomUnits

from atlasnmf.errors import BadOption
from atlasnmf.train import Callback, Checkpoint, History
from atlasnmf.train.ranks import Share


class RankedAutoencoder(Autoencoder):
    """The same network on rows that ranks share; the loss is a sum over rows divided by all of them."""

    ranks: Any = None

    def with_ranks(self, ranks: Any) -> RankedAutoencoder:
        shared = copy.copy(self)
        shared.ranks = ranks
        return shared

    def step(self, state: dict[str, Any], unit: np.ndarray) -> tuple[dict[str, Any], dict[str, float]]:
        rows = torch.from_numpy(unit)
        n_values = torch.tensor(float(unit.size))
        if self.ranks is not None:
            self.ranks.sum([n_values])
        loss = (state["network"](rows) - rows).square().sum() / n_values
        grads = torch.autograd.grad(loss, list(state["network"].parameters()))
        seen = torch.cat([loss.detach()[None], torch.from_numpy(unit.sum(axis=0)) / n_values * unit.shape[1]])
        if self.ranks is not None:
            self.ranks.sum([*grads, seen])
        for parameter, grad in zip(state["network"].parameters(), grads, strict=True):
            parameter.grad = grad
        state["optimizer"].step()
        state["optimizer"].param_groups[0]["lr"] *= 0.99
        mean = 0.9 * state["mean"] + 0.1 * seen[1:].numpy()
        return {**state, "mean": mean, "step": state["step"] + 1}, {"loss": float(seen[0])}


class SharedUnits(RandomUnits):
    """Every n-th row of the units of all."""

    def __init__(self, rank: int, n_ranks: int, pause_s: float) -> None:
        super().__init__(pause_s=pause_s)
        self.rank, self.n_ranks = rank, n_ranks

    def starting_at(self, step: int) -> Iterator[np.ndarray]:
        for unit in super().starting_at(step):
            yield unit[self.rank :: self.n_ranks]


@dataclass
class Trouble(Callback):
    """Makes one rank fail at one step, once: a file remembers."""

    folder: Path
    kind: str

    def on_step(self, step: int, metrics: dict[str, float]) -> None:
        done = self.folder / f"{self.kind}.done"
        if step != 7 or done.exists():
            return
        done.touch()
        if self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "hang":
            os.kill(os.getpid(), signal.SIGSTOP)
        if self.kind == "bug":
            raise ZeroDivisionError("a bug of the method")
        if self.kind == "refuse":
            raise BadOption("the loss became nan")
        if self.kind == "sleep":
            time.sleep(3600)


@dataclass(frozen=True)
class SmallJob:
    """A training of a second."""

    folder: Path
    steps: int = 12
    pause_s: float = 0.0
    trouble: str = ""
    in_trouble: int = 1
    no: str | None = None

    def refusal(self) -> str | None:
        return self.no

    def share(self, rank: int, n_ranks: int, device: str, events: Any) -> Share:
        callbacks: list[Callback] = [History(self.folder / "metrics.jsonl", writes=rank == 0)]
        if self.trouble and rank == self.in_trouble:
            callbacks.append(Trouble(self.folder, self.trouble))
        return Share(
            method=RankedAutoencoder(self.steps),
            units=SharedUnits(rank, n_ranks, self.pause_s),
            sample=lambda: RandomUnits(seed=9).unit(0),
            checkpoint=Checkpoint(self.folder, "k", every_steps=5, events=events),
            callbacks=callbacks,
        )
