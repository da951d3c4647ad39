"""What preparation is given and what it gives: an atlas whose features are ready for a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.pipeline.choices import Settled
from atlasnmf.schema import AtlasFacts

if TYPE_CHECKING:
    from atlasnmf.store.atlas import Atlas
    from atlasnmf.store.working import WorkingCopy

__all__ = ["Given", "Prepared", "smoothed_scores"]

_BLOCK_ROWS = 32_768


@dataclass(frozen=True)
class Prepared:
    """An atlas ready for a model.

    Parameters
    ----------
    atlas, working
        The user's store and the working copy beside it.
    settled
        The options, with every choice made.
    facts
        What a model may know before it sees a spot.
    keys
        Ledger keys of the stages: together they decide every bit of the features.
    seconds
        What each stage took in this run; skipped stages are absent.
    warnings
        What the user should look at.
    """

    atlas: Atlas
    working: WorkingCopy
    settled: Settled
    facts: AtlasFacts
    keys: dict[str, str]
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """Return the outcome for scripts."""
        return {
            "store": self.atlas.name,
            "n_spots": self.atlas.n_spots,
            "n_used": int(self.facts.n_spots.sum()),
            "slices": dict(zip(self.facts.slices, self.facts.n_spots.tolist(), strict=True)),
            "n_genes": self.facts.n_genes,
            "stages": self.seconds,
            "warnings": list(self.warnings),
        }

    def lines(self) -> list[str]:
        """Return the outcome for people."""
        done = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.seconds.items())
        return [
            f"{self.atlas.name}: {int(self.facts.n_spots.sum()):,} of {self.atlas.n_spots:,} spots, "
            f"{self.facts.n_slices} slices, {self.facts.n_genes:,} genes",
            f"stages: {done or 'all done before'}",
        ]


@dataclass(frozen=True)
class Given:
    """What a trained model has fixed: new spots are seen through it.

    Parameters
    ----------
    genes
        The model's genes, in order.
    components
        Gene components, shape (G, P), or None when the model reads none.
    target_sum
        Counts a spot is scaled to.
    """

    genes: tuple[str, ...]
    components: np.ndarray | None
    target_sum: float


def smoothed_scores(working: WorkingCopy) -> np.ndarray:
    """Return the leading scores after the last round of averaging.

    Returns
    -------
    scores
        float32, shape (n_kept, n_components), in working order.
    """
    scores = working.dense("baseline_scores")
    found = np.empty((scores.n_rows, scores.row_shape[1]), dtype=np.float32)
    for start in range(0, scores.n_rows, _BLOCK_ROWS):
        stop = min(start + _BLOCK_ROWS, scores.n_rows)
        found[start:stop] = scores.read(start, stop)[:, -1]
    return found
