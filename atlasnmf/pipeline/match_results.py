"""The results of matching: pairs of spots as a table of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from atlasnmf.pipeline.trained import Trained
    from atlasnmf.schema import SpotPairs
    from atlasnmf.store.results import ResultWriter

__all__ = ["write_matches"]


def write_matches(writer: ResultWriter, fit: Trained, pairs: SpotPairs, name: str) -> list[str]:
    """Write pairs as table ``name``, a row per pair, by the names of tables and spots.

    Returns
    -------
    The columns that a reader looks for.
    """
    import pandas as pd

    atlas, order = fit.atlas, fit.prepared.working.vector("order")
    spot_names = np.concatenate([np.asarray(table.obs_names(), dtype=object) for table in atlas.tables])
    table_names = [table.name for table in atlas.tables]
    columns: dict[str, Any] = {}
    for end, rows in (("source", pairs.source), ("target", pairs.target)):
        spots = order[rows]
        of_table = np.searchsorted(atlas.table_offsets, spots, side="right") - 1
        columns[f"{end}_table"] = pd.Categorical.from_codes(of_table, table_names)
        columns[end] = spot_names[spots]
    columns |= {"score": pairs.score, "cosine": pairs.cosine, "passed": pairs.passed}
    index = pd.Index([f"pair_{number}" for number in range(len(pairs.score))], dtype=object)
    writer.table(name, pd.DataFrame(columns, index=index))
    return ["source", "target", "score", "passed"]
