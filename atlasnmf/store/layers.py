"""Which layers of a table may be meant when its counts are none."""

from __future__ import annotations

import numpy as np

from atlasnmf.errors import BadInput
from atlasnmf.store.counts import CountSource, CscCounts, MemoryCounts, stored_counts
from atlasnmf.store.tables import MemoryTable, StoredTable, TableHandle

__all__ = ["layers_of_counts"]

_LOOKED_AT = 256


def layers_of_counts(table: TableHandle) -> list[str]:
    """Return the layers whose first 256 rows (or columns, where stored so) hold whole numbers and no others.

    Parameters
    ----------
    table
        On disk or in memory. The layer that is in use is left out.
    """
    found = []
    for key in table.keys("layers"):
        if key == getattr(table, "layer", None):
            continue
        try:
            values = _first_values(_layer(table, key))
        except BadInput:
            continue
        if len(values) and bool(((values >= 0) & (values == np.floor(values))).all()):
            found.append(key)
    return found


def _layer(table: TableHandle, key: str) -> CountSource:
    if isinstance(table, StoredTable):
        return stored_counts(table.path / "layers" / key, f"layer {key!r}")
    assert isinstance(table, MemoryTable)
    return MemoryCounts(table.adata.layers[key], f"layer {key!r}")


def _first_values(counts: CountSource) -> np.ndarray:
    lines = counts.by_column if isinstance(counts, CscCounts) else counts
    return lines.read(0, min(_LOOKED_AT, lines.n_rows)).data
