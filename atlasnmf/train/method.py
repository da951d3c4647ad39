"""What the loop asks of a method, of the stream of its units, and of a listener."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Callback", "Method", "Packed", "Ranked", "Ranks", "Units"]

S = TypeVar("S")
U = TypeVar("U", contravariant=True)
V = TypeVar("V", covariant=True)

#: A state as it is stored: arrays by name, and scalars that survive JSON.
Packed = tuple[Mapping[str, np.ndarray], Mapping[str, Any]]


class Method(Protocol[S, U]):
    """State in, unit in, state out; the state is all there is to save.

    ``step`` may change tensors inside the state it was given: the loop never looks at an old state again,
    and never saves one in the middle of a step.
    """

    name: str

    def init(self, sample: U) -> S:
        """Return the first state.

        Parameters
        ----------
        sample
            A unit of a few thousand spots a slice, the same for the same seed.
        """
        ...

    def step(self, state: S, unit: U) -> tuple[S, dict[str, float]]:
        """Take one step; return the next state and the figures of this step (``loss`` among them)."""
        ...

    def done(self, state: S) -> bool:
        """Say whether the work is finished."""
        ...

    def pack(self, state: S) -> Packed:
        """Return all of the state as named arrays and JSON scalars.

        :mod:`atlasnmf.train.torch_state` does so for networks and optimisers.
        """
        ...

    def unpack(self, tensors: Mapping[str, np.ndarray], scalars: Mapping[str, Any]) -> S:
        """Return the state that was packed, to the same bits; the arrays may be kept."""
        ...


class Ranks(Protocol):
    """The workers that share every step of a training, as one of them sees the others."""

    @property
    def rank(self) -> int:
        """Number of this one, from 0."""
        ...

    @property
    def n_ranks(self) -> int:
        """How many there are."""
        ...

    def sum(self, tensors: Sequence[Tensor], *, late: bool = False) -> None:
        """Put the sum over all ranks in the place of each tensor; every rank calls it with the same shapes.

        The sums have the same bits on every rank, and from one run to the next for the same number of ranks.
        ``late`` says that another may come to it minutes later, busy with work that is its alone.
        """
        ...

    def exchange(self, sent: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
        """Send a vector to each rank, and return what each rank sends here: vectors of ``sizes``."""
        ...


class Ranked(Method[S, U], Protocol[S, U]):
    """A method whose step can be shared: each rank brings a part of the rows of every slice."""

    def with_ranks(self, ranks: Ranks) -> Method[S, U]:
        """Return the method for one rank.

        Its ``step`` must leave every rank with the same bits of state and the same figures: gradients and
        whatever else is a sum over rows go through :meth:`Ranks.sum` or :func:`atlasnmf.train.sums.summed`,
        and means divide by :attr:`atlasnmf.schema.SliceBatch.n_step`.
        """
        ...


class Units(Protocol[V]):
    """A stream of units in which every unit is a function of its position."""

    def starting_at(self, step: int) -> Iterator[V]:
        """Return the units from position ``step`` on; the same unit at the same position, always."""
        ...


class Callback:
    """Told of every step. Steps count from 1; a method that does nothing may be left out."""

    def start(self, step: int) -> None:
        """Hear that the run begins with ``step`` steps already done."""

    def on_step(self, step: int, metrics: dict[str, float]) -> None:
        """Hear the figures of one step."""

    def commit(self) -> None:
        """Make durable whatever belongs to a checkpoint that is about to be written."""

    def stop(self) -> bool:
        """Say whether to stop before the next step; a function of the history only, or a resume differs."""
        return False

    def close(self) -> None:
        """Hear that the run is over, however it ended."""
