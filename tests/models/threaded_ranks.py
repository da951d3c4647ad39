"""Ranks that are threads of this process: sums in the order of the ranks, nothing sent."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch


class Threads:
    """What ranks have in common: the place where they meet, and how often they have."""

    def __init__(self, n_ranks: int) -> None:
        self.n_ranks, self.given = n_ranks, {}
        self.barrier = threading.Barrier(n_ranks, timeout=60)


class One:
    """One of the ranks."""

    def __init__(self, all_of_them: Threads, rank: int) -> None:
        self.all, self.rank, self.n_ranks = all_of_them, rank, all_of_them.n_ranks
        self.n_sums = 0

    def sum(self, tensors: Sequence[torch.Tensor], *, late: bool = False) -> None:
        """Add what the ranks have given; shapes that differ between ranks are an error."""
        self.n_sums += 1
        self.all.given[self.rank] = [tensor.clone() for tensor in tensors]
        self.all.barrier.wait()
        shapes = {rank: [(t.shape, t.dtype) for t in given] for rank, given in self.all.given.items()}
        assert all(shape == shapes[0] for shape in shapes.values()), shapes
        for at, tensor in enumerate(tensors):
            tensor.copy_(sum(self.all.given[rank][at] for rank in range(self.n_ranks)))
        self.all.barrier.wait()

    def exchange(self, sent: Sequence[torch.Tensor], sizes: Sequence[int]) -> list[torch.Tensor]:
        """Give every rank what the others have for it; lengths that are not as announced are an error."""
        self.n_sums += 1
        self.all.given[self.rank] = [part.clone() for part in sent]
        self.all.barrier.wait()
        came = [self.all.given[rank][self.rank].clone() for rank in range(self.n_ranks)]
        assert [len(part) for part in came] == list(sizes), (came, sizes)
        self.all.barrier.wait()
        return came


def run_ranks(n_ranks: int, work: Callable[[One], Any]) -> list[Any]:
    """Return what every rank comes to; an error of one breaks the meeting for all."""
    threads = Threads(n_ranks)

    def one(rank: int) -> Any:
        try:
            return work(One(threads, rank))
        except BaseException:
            threads.barrier.abort()
            raise

    with ThreadPoolExecutor(n_ranks) as pool:
        started = [pool.submit(one, rank) for rank in range(n_ranks)]
        errors = [future.exception() for future in started]
        for error in sorted(filter(None, errors), key=lambda e: isinstance(e, threading.BrokenBarrierError)):
            raise error
        return [future.result() for future in started]
