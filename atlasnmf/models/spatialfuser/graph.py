"""What a step knows of the edges between its rows, wherever those lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from atlasnmf.train.sums import gathered

if TYPE_CHECKING:
    from torch import Tensor

    from atlasnmf.models.spatialfuser.attention import Edges
    from atlasnmf.train.method import Ranks

__all__ = ["Graph"]


@dataclass(frozen=True)
class Graph:
    """The edges of a batch and what is known of their ends.

    Parameters
    ----------
    rings
        Cumulative rows of the core and of each ring around it.
    local
        Spatial neighbours, the spot itself included.
    place
        Which of the encoder's slices this is.
    prior
        p of the local edges, shape (E, H); None for 1.
    far
        Spots alike though far apart, by rows of the whole slice; None without.
    n_shared, ranks
        Core rows over all ranks, and the other ranks, where several share the core; None where all is here.
    """

    rings: tuple[int, ...]
    local: Edges
    place: int = 0
    prior: Tensor | None = None
    far: Edges | None = None
    n_shared: int | None = None
    ranks: Ranks | None = None

    @property
    def n_step(self) -> int:
        """Core rows over all ranks."""
        return self.rings[0] if self.n_shared is None else self.n_shared

    def beyond(self, rows: Tensor) -> Tensor:
        """Return the rows of the whole slice, where edges far away end; of ranks each has a part."""
        if self.far is None or self.ranks is None:
            return rows
        return gathered([rows[: self.rings[0]]], [self.n_step], self.ranks)[0]

    def n_rows(self, hops_left: int) -> int:
        """Rows whose values are still needed ``hops_left`` rounds of message passing before the end."""
        return self.rings[min(hops_left, len(self.rings) - 1)]
