"""Pairs of spots that a fit has matched, by their numbers in the atlas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from atlasnmf.errors import BadInput
from atlasnmf.store.atlas import Atlas, result_tables
from atlasnmf.store.names import no_such
from atlasnmf.store.tables import MemoryTable, StoredTable, TableHandle

__all__ = ["Matches", "stored_matches"]

_COLUMNS = ("source_table", "source", "target_table", "target", "score", "passed")


@dataclass(frozen=True)
class Matches:
    """Matched pairs.

    Parameters
    ----------
    source, target
        Numbers of the spots in the atlas, int64, shape (n_pairs,).
    score
        float64, shape (n_pairs,).
    passed
        Whether quality control kept the pair, bool, shape (n_pairs,).
    """

    source: np.ndarray
    target: np.ndarray
    score: np.ndarray
    passed: np.ndarray

    def kept(self) -> Matches:
        """Return the pairs that passed."""
        chosen = self.passed
        return Matches(self.source[chosen], self.target[chosen], self.score[chosen], self.passed[chosen])


def stored_matches(atlas: Atlas, name: str) -> Matches:
    """Read a table of matched pairs.

    Parameters
    ----------
    atlas
        The atlas.
    name
        Name of the table; its obs has ``source_table``, ``source``, ``target_table``, ``target`` (names of
        the spots), ``score`` and ``passed``.

    Raises
    ------
    BadInput
        There is no such table, it is none of pairs, or it names spots the atlas does not have.
    """
    if not atlas.has_table(name):
        known = result_tables(atlas)
        raise BadInput(f"{no_such('table', name, known, atlas.name)}; run atlasnmf fit spatialfuser first")
    table = _table(atlas, name)
    missing = [column for column in _COLUMNS if column not in table.obs_columns()]
    if missing:
        raise BadInput(
            f"table {name!r} of {atlas.name} has no column {missing[0]!r}; it is no table of matches"
        )
    ends = []
    for end in ("source", "target"):
        tables = np.asarray(table.obs_column(f"{end}_table"), dtype=object).astype(str)
        spots = np.asarray(table.obs_column(end), dtype=object).astype(str)
        ends.append(_numbers(atlas, tables, spots, name))
    score = np.asarray(table.obs_column("score"), np.float64)
    return Matches(ends[0], ends[1], score, np.asarray(table.obs_column("passed")).astype(bool))


def _table(atlas: Atlas, name: str) -> TableHandle:
    """Open a table that a fit wrote; such tables are no part of the atlas itself."""
    if atlas.path is not None:
        return StoredTable(atlas.path / "tables" / name)
    return MemoryTable(atlas.source.tables[name], name)


def _numbers(atlas: Atlas, tables: np.ndarray, spots: np.ndarray, name: str) -> np.ndarray:
    import pandas as pd

    found = np.full(len(spots), -1, np.int64)
    for table, own in atlas.table_spots():
        here = tables == table.name
        if here.any():
            place = pd.Index(table.obs_names()).get_indexer(spots[here])
            found[here] = np.where(place >= 0, place + own.start, -1)
    if (found < 0).any():
        at = int(np.flatnonzero(found < 0)[0])
        raise BadInput(
            f"table {name!r} names spot {spots[at]!r} of table {tables[at]!r}, not in {atlas.name}; "
            "open all tables that were matched, or fit again"
        )
    return found
