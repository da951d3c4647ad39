"""A process group without global state: several may live in one process, and die without a trace."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Group", "RankLost", "open_store"]

#: The first sum, and one that is said to be late, waits this much longer than others: ranks read their rows
#: and compile before it, or work at what others do not.
_START_FACTOR, _START_LEAST_S = 10, 600.0
#: Up to this size every rank sends the vector of a sum to every other and adds what comes.
_SMALL_BYTES = 1 << 18


class RankLost(RuntimeError):
    """Another rank died, hung or went away in the middle of a sum."""


def open_store(host: str, n_ranks: int, timeout_s: float) -> Any:
    """Open the place where ranks find each other: a key-value server at a free port of this machine."""
    from torch.distributed import TCPStore

    limit = datetime.timedelta(seconds=timeout_s)
    return TCPStore(host, 0, n_ranks, is_master=True, timeout=limit, wait_for_workers=False)


class Group:
    """The ranks of one generation, as :class:`atlasnmf.train.method.Ranks`.

    Parameters
    ----------
    rank, n_ranks
        Which one this is, of how many.
    store
        Host and port of :func:`open_store`.
    host
        Address of this machine that the others reach.
    device
        ``cpu`` (gloo) or ``cuda`` (nccl).
    timeout_s
        A sum that takes longer means that a rank hangs.
    asks
        Asked at every sum: does this rank want all to stop? Any rank's yes reaches all in the same sum.

    Raises
    ------
    RankLost
        The others did not come.
    """

    def __init__(
        self,
        rank: int,
        n_ranks: int,
        *,
        store: tuple[str, int],
        host: str,
        device: str,
        timeout_s: float,
        asks: Callable[[], bool] = lambda: False,
    ) -> None:
        self.rank, self.n_ranks, self.device = rank, n_ranks, device
        self._asks, self._asked = asks, False
        self._limit, self._sums = datetime.timedelta(seconds=timeout_s), 0
        self._start = datetime.timedelta(seconds=max(_START_FACTOR * timeout_s, _START_LEAST_S))
        try:
            self._group = _process_group(rank, n_ranks, store, host, device, self._limit)
        except RuntimeError as problem:
            raise RankLost(f"rank {rank} of {n_ranks} found no one at {store[0]}:{store[1]}") from problem

    @property
    def asked(self) -> bool:
        """Whether some rank wanted to stop at the last sum; the same on every rank."""
        return self._asked

    def sum(self, tensors: Sequence[Tensor], *, late: bool = False) -> None:
        """Replace each tensor by its sum over ranks, in one message; others may be ``late``.

        Raises
        ------
        RankLost
            A rank died or hangs; what the tensors hold is worth nothing.
        """
        import torch

        flat = torch.cat(
            [*(tensor.reshape(-1) for tensor in tensors), tensors[0].new_tensor([float(self._asks())])]
        )
        flat = self._added(flat, self._patience(late))
        at = 0
        for tensor in tensors:
            tensor.copy_(flat[at : at + tensor.numel()].view_as(tensor))
            at += tensor.numel()
        self._asked = bool(flat[-1])

    def exchange(self, sent: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
        """Send a vector to each rank, and return what each rank sends here.

        Parameters
        ----------
        sent
            A vector for every rank, this one too, all of one type.
        sizes
            Length of what comes from each.

        Raises
        ------
        RankLost
            A rank died or hangs.
        """
        return self._exchanged(sent, sizes, self._patience(late=False))

    def share(
        self, packed: tuple[Mapping[str, np.ndarray], Mapping[str, Any]] | None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Send arrays and JSON scalars from rank 0 to all.

        Parameters
        ----------
        packed
            On rank 0, what to send; on the others None.
        """
        arrays = {} if packed is None else dict(packed[0])
        described = b""
        if packed is not None:
            shapes = {name: [array.dtype.str, array.shape] for name, array in arrays.items()}
            described = json.dumps([shapes, dict(packed[1])]).encode()
        size = np.array([len(described)], np.int64)
        self._send(size)
        text = (
            np.frombuffer(described, np.uint8).copy() if packed is not None else np.empty(size[0], np.uint8)
        )
        self._send(text)
        shapes, scalars = json.loads(text.tobytes())
        for name, (kind, shape) in shapes.items():
            array = np.array(arrays[name], order="C") if packed is not None else np.empty(shape, kind)
            if array.size:
                self._send(array.reshape(-1).view(np.uint8))
            arrays[name] = array
        return arrays, scalars

    def close(self) -> None:
        """Hang up, so that the others hear of it at once."""
        self._group = None

    def _send(self, array: np.ndarray) -> None:
        import torch

        tensor = torch.from_numpy(array)
        there = tensor.to(self.device)
        with self._together():
            self._group.broadcast([there], _options("Broadcast", self._start)).wait()
        if there is not tensor:
            tensor.copy_(there)

    def _added(self, own: Tensor, limit: datetime.timedelta) -> Tensor:
        """Return the sum of a vector over ranks.

        Gloo's own sum passes through more threads than an exchange, and each waits for a core: for a message
        of kilobytes that is most of the time.
        """
        if self.device == "cuda" or own.nbytes > _SMALL_BYTES:
            with self._together():
                self._group.allreduce([own], _options("Allreduce", limit)).wait()
            return own
        first, *others = self._exchanged([own] * self.n_ranks, [len(own)] * self.n_ranks, limit)
        return sum(others, first)

    def _exchanged(
        self, sent: Sequence[Tensor], sizes: Sequence[int], limit: datetime.timedelta
    ) -> list[Tensor]:
        import torch

        given, got = torch.cat(list(sent)), sent[0].new_empty(sum(sizes))
        lengths = [len(part) for part in sent]
        with self._together():
            options = _options("AllToAll", limit)
            self._group.alltoall_base(got, given, list(sizes), lengths, options).wait()
        return list(got.split(list(sizes)))

    def _patience(self, late: bool) -> datetime.timedelta:
        self._sums += 1
        return self._start if late or self._sums == 1 else self._limit

    @contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as problem:
            raise RankLost(f"rank {self.rank} lost the others: {str(problem).splitlines()[0]}") from problem


def _options(kind: str, limit: datetime.timedelta) -> Any:
    import torch.distributed as dist

    options = getattr(dist, f"{kind}Options")()
    options.timeout = limit
    if kind == "Broadcast":
        options.rootRank, options.rootTensor = 0, 0
    return options


def _process_group(
    rank: int, n_ranks: int, place: tuple[str, int], host: str, device: str, limit: datetime.timedelta
) -> Any:
    import torch.distributed as dist

    store = dist.TCPStore(*place, n_ranks, is_master=False, timeout=limit)
    if device == "cuda":
        options = dist.ProcessGroupNCCL.Options()
        options._timeout = limit
        return dist.ProcessGroupNCCL(store, rank, n_ranks, options)
    gloo: Any = dist.ProcessGroupGloo
    options = gloo._Options()
    # the address the cluster knows this worker by; the machine's own name may mean another network
    options._devices = [gloo.create_device(hostname=host)]
    options._timeout = limit
    return gloo(store, rank, n_ranks, options)
