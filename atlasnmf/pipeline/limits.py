"""What a run may use: memory, threads, the device."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property

from atlasnmf.budget import Budget
from atlasnmf.errors import BadOption
from atlasnmf.options import RunOptions

__all__ = ["WORTH_SENDING", "Limits"]

#: Workers make passes from this many times the threads of this process on: what is known of every spot has to
#: travel there and back, and a pass takes about twice the processor time (measured).
WORTH_SENDING = 2


@dataclass(frozen=True)
class Limits:
    """Settled limits of a run.

    Parameters
    ----------
    budget
        Memory of the whole process.
    n_workers
        Threads that work on tiles.
    n_threads
        Threads of an operation of a training step.
    wanted_device
        What the user said: ``auto``, ``cpu`` or ``cuda``.
    """

    budget: Budget
    n_workers: int
    n_threads: int
    wanted_device: str

    @classmethod
    def of(cls, run: RunOptions) -> Limits:
        """Settle the options; raises BadOption when a CUDA device is asked for and there is none.

        With a scheduler the device is that of its workers, which say so themselves; here any will do.
        """
        wanted = run.device if run.scheduler is None else "auto"
        if wanted == "cuda":
            _device("cuda")
        n_workers = run.workers or len(os.sched_getaffinity(0))
        return cls(Budget.of(run.memory_budget), n_workers, run.threads, wanted)

    @cached_property
    def device(self) -> str:
        """``cpu`` or ``cuda``; asks torch, which takes seconds to import and is not needed to prepare."""
        return _device(self.wanted_device)


def _device(wanted: str) -> str:
    if wanted == "cpu":
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if wanted == "cuda":
        raise BadOption("--device cuda: no CUDA device is visible to torch; use --device auto or cpu")
    return "cpu"
