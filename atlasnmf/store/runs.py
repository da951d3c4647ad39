"""Stored rows of spots, read in runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from atlasnmf.store.tables import TableHandle

__all__ = ["RUN_SPOTS", "obsm_runs"]

#: Spots of a run.
RUN_SPOTS = 65_536


def obsm_runs(
    tables: Sequence[TableHandle], key: str, n_rows: int | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the first spot of every run of rows, counted over the tables, and the rows as they are stored."""
    step, first = n_rows or RUN_SPOTS, 0
    for table in tables:
        for start in range(0, table.n_spots, step):
            yield first + start, table.obsm_rows(key, start, min(start + step, table.n_spots))
        first += table.n_spots
