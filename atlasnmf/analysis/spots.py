"""Stored rows and labels of spots, read in runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.result_names import no_result
from atlasnmf.seeds import rng_for
from atlasnmf.store.atlas import opened
from atlasnmf.store.names import no_such
from atlasnmf.store.runs import obsm_runs

if TYPE_CHECKING:
    from atlasnmf.store.atlas import Atlas
    from atlasnmf.store.tables import TableHandle

__all__ = [
    "SpotLabels",
    "StoredRows",
    "slice_numbers",
    "spots_of",
    "stored_labels",
    "stored_rows",
    "tables_with",
]


@dataclass(frozen=True)
class StoredRows:
    """An obsm array of some tables; spots are theirs, one table after the other.

    Parameters
    ----------
    atlas
        Where it is stored.
    key
        obsm key.
    tables
        The tables that have it.
    """

    atlas: Atlas
    key: str
    tables: tuple[TableHandle, ...]

    @property
    def names(self) -> list[str]:
        """Names of the tables."""
        return [table.name for table in self.tables]

    @property
    def n_spots(self) -> int:
        """Spots of the tables."""
        return sum(table.n_spots for table in self.tables)

    @cached_property
    def spots(self) -> np.ndarray:
        """Number of each spot in the atlas, int64, shape (n,)."""
        return spots_of(self.atlas, self.tables)

    @cached_property
    def slice_codes(self) -> np.ndarray:
        """Slice of each spot, int32, shape (n,): positions in ``atlas.slices``."""
        return self.atlas.slice_codes()[self.spots]

    def runs(self, n_rows: int | None = None) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield which spots a run has and their rows, float32."""
        for start, rows in obsm_runs(self.tables, self.key, n_rows):
            yield slice(start, start + len(rows)), np.asarray(rows, np.float32)

    def take(self, wanted: np.ndarray) -> np.ndarray:
        """Return the rows of some spots, ascending, float32; reads everything once."""
        parts = []
        for run, rows in self.runs():
            low, high = np.searchsorted(wanted, (run.start, run.stop))
            parts.append(rows[wanted[low:high] - run.start])
        return np.concatenate(parts)

    def finite(self) -> np.ndarray:
        """Return which spots have finite rows, bool, shape (n,); reads everything once."""
        return np.concatenate([np.isfinite(rows).all(axis=1) for _, rows in self.runs()])

    def sample(
        self,
        n_sample: int,
        strata: np.ndarray,
        *,
        random_state: int,
        where: str,
        among: np.ndarray | None = None,
    ) -> np.ndarray:
        """Draw spots evenly over strata, without replacement.

        Parameters
        ----------
        n_sample
            Spots at most; small strata are taken whole, the others share what is left.
        strata
            Stratum of each spot, shape (n,); spots below 0 are never drawn.
        random_state, where
            Seed and place of the draw.
        among
            Which spots may be drawn, bool, shape (n,).

        Returns
        -------
        numpy.ndarray
            Spots, ascending, int64.
        """
        allowed = strata >= 0 if among is None else among & (strata >= 0)
        rng = rng_for(random_state, where, "sample")
        groups = [np.flatnonzero(allowed & (strata == code)) for code in np.unique(strata[allowed])]
        drawn, left = [], n_sample
        for done, group in enumerate(sorted(groups, key=len)):
            share = min(len(group), left // (len(groups) - done))
            drawn.append(rng.choice(group, share, replace=False))
            left -= share
        return np.sort(np.concatenate(drawn)) if drawn else np.empty(0, np.int64)


def tables_with(atlas: Atlas, group: str, key: str) -> list[TableHandle]:
    """Return the tables that have a key in ``obsm`` or another group.

    Raises
    ------
    BadInput
        None has; names the nearest key.
    """
    found = [table for table in atlas.tables if key in table.keys(group)]
    if not found:
        raise no_result(f"{group} key", key, atlas.keys(group), atlas)
    return found


def slice_numbers(atlas: Atlas, slices: str | Sequence[str] | None) -> np.ndarray:
    """Return the positions of slices by name; all when None.

    Raises
    ------
    BadOption
        There is no such slice; names the nearest.
    """
    names = [info.name for info in atlas.slices]
    if slices is None:
        return np.arange(len(names))
    wanted = [slices] if isinstance(slices, str) else list(slices)
    for name in wanted:
        if name not in names:
            raise BadOption(no_such("slice", name, names, atlas.name) + _fitted_by(atlas))
    return np.array([names.index(name) for name in wanted], np.int64)


def _fitted_by(atlas: Atlas) -> str:
    """Say so when a fit took its slices from a column that the atlas was opened without."""
    for table in atlas.tables if atlas.slice_key is None else ():
        for key in table.keys("uns"):
            column = table.uns(key)["slice_key"] if "slice_key" in table.uns_keys(key) else ""
            if column:
                return (
                    f"; {key!r} was fitted to slices named by obs[{column!r}]: open the atlas so, "
                    f"atlasnmf.open_atlas(store, slice_key={column!r})"
                )
    return ""


def spots_of(atlas: Atlas, tables: Sequence[TableHandle]) -> np.ndarray:
    """Return the numbers in the atlas of the spots of some tables, int64, shape (n,)."""
    runs = {table.name: spots for table, spots in atlas.table_spots()}
    return np.concatenate([np.arange(runs[t.name].start, runs[t.name].stop, dtype=np.int64) for t in tables])


def stored_rows(atlas: Any, key: str) -> StoredRows:
    """Return an obsm array of an atlas, unread.

    Raises
    ------
    BadInput
        No table has it, or the tables' arrays have different numbers of columns.
    """
    found = opened(atlas)
    rows = StoredRows(found, key, tuple(tables_with(found, "obsm", key)))
    if len({table.obsm_rows(key, 0, 1).shape[1:] for table in rows.tables}) > 1:
        raise BadInput(f"obsm[{key!r}] has different numbers of columns in the tables; fit them together")
    return rows


@dataclass(frozen=True)
class SpotLabels:
    """Labels of spots.

    Parameters
    ----------
    codes
        int32, shape (n,); -1 where there is none.
    names
        The labels.
    """

    codes: np.ndarray
    names: tuple[str, ...]

    @property
    def sizes(self) -> np.ndarray:
        """Spots of each label, int64."""
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.names))


def stored_labels(atlas: Atlas, column: str, tables: Sequence[TableHandle] | None = None) -> SpotLabels:
    """Read an obs column as labels; tables without it have none.

    Parameters
    ----------
    atlas
        The atlas.
    column
        obs column.
    tables
        Whose spots, one table after the other; all when not given.

    Raises
    ------
    BadInput
        No table has the column, or it has no label at all.
    """
    import pandas as pd

    chosen = list(atlas.tables if tables is None else tables)
    if not any(column in table.obs_columns() for table in chosen):
        known = list(dict.fromkeys(name for table in chosen for name in table.obs_columns()))
        mend = "; find domains first by atlasnmf.tl.domains" if column.startswith("domains") else ""
        raise BadInput(no_such("obs column", column, known, atlas.name) + mend)
    place: dict[str, int] = {}
    parts = []
    for table in chosen:
        if column not in table.obs_columns():
            parts.append(np.full(table.n_spots, -1, np.int32))
            continue
        values = pd.Categorical(table.obs_column(column))
        used = np.bincount(values.codes[values.codes >= 0], minlength=len(values.categories))
        number = np.full(len(used) + 1, -1, np.int32)
        for code in np.flatnonzero(used).tolist():
            number[code] = place.setdefault(str(values.categories[code]), len(place))
        parts.append(number[values.codes])
    if not place:
        raise BadInput(f"obs column {column!r} of {atlas.name} has no value; give a column with labels")
    return SpotLabels(np.concatenate(parts), tuple(place))
