"""Results go back to the tables they belong to, in the user's order of rows, all at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.errors import BadOption
from atlasnmf.store.disk import full_disk_is_said
from atlasnmf.store.handle import Atlas
from atlasnmf.store.names import refuse_unsafe
from atlasnmf.store.plain import plain
from atlasnmf.store.sinks import MemorySink, Sink, StoreSink
from atlasnmf.store.spill import Spill
from atlasnmf.store.tables import RESULT_MARK, TableHandle, column_values

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ResultWriter", "refuse_existing"]

#: Rows of a result put together at a time, at most, and their bytes.
_BLOCK_ROWS, _BLOCK_BYTES = 1 << 16, 1 << 24
_GROUPS = ("obs", "obsm", "varm", "layers", "uns")


def refuse_existing(
    atlas: Atlas,
    *,
    obs: Iterable[str] = (),
    obsm: Iterable[str] = (),
    varm: Iterable[str] = (),
    layers: Iterable[str] = (),
    uns: Iterable[str] = (),
    tables: Iterable[str] = (),
    overwrite: bool = False,
) -> None:
    """Look before any work whether results may be written under these names.

    Parameters
    ----------
    atlas
        Where they would go.
    obs, obsm, varm, layers, uns
        Keys in every table.
    tables
        Names of new tables.
    overwrite
        Existing ones may be replaced.

    Raises
    ------
    BadOption
        One exists, or is no name SpatialData accepts.
    """
    wanted = dict(zip(_GROUPS, (obs, obsm, varm, layers, uns), strict=True))
    keys = {group: list(names) for group, names in wanted.items()} | {"tables": list(tables)}
    for group, names in keys.items():
        for name in names:
            refuse_unsafe(f"{group} key", name)
    for table in atlas.tables:
        for group in _GROUPS:
            for name in keys[group]:
                _refuse_taken(table, group, name, overwrite=overwrite)
    if overwrite:
        return
    for name in keys["tables"]:
        if atlas.has_table(name):
            raise _already(f"{atlas.name} has a table {name!r}")


def _refuse_taken(table: TableHandle, group: str, name: str, *, overwrite: bool) -> None:
    """Refuse a key that is there, that holds the names of the spots, or differs in capitals alone."""
    where = f"table {table.name!r}"
    there = table.keys(group)
    if group == "obs" and name in {"_index", table.index_key("obs")}:
        raise BadOption(f"obs[{name!r}] of {where} holds the names of the spots; take another --key-added")
    if name in there:
        if not overwrite:
            raise _already(f"{where} has {group}[{name!r}]")
        return
    alike = next((key for key in there if key.lower() == name.lower()), None)
    if alike is not None:
        raise BadOption(
            f"{where} has {group}[{alike!r}], and SpatialData allows no {name!r} that differs in capitals "
            "alone; name the results otherwise with --key-added"
        )


def _already(what: str) -> BadOption:
    return BadOption(
        f"{what} already; replace it with --overwrite or name the results with --key-added "
        "(in Python overwrite=True, key_added)"
    )


@dataclass(frozen=True)
class _Rows:
    """One array per spot, arriving in any order."""

    group: str
    key: str
    n_cols: int
    dtype: np.dtype
    block_rows: int
    spill: Spill
    first_bucket: Mapping[str, int]


class ResultWriter:
    """Gathers the results of one fit and writes them in one step.

    Use it in a ``with`` block: at its end everything is written, after an error nothing is. A store is
    locked from the beginning to the end of the block.

    Parameters
    ----------
    atlas
        The tables; those of an AnnData or SpatialData in memory are assigned to.
    order
        Spot of the atlas for every working row, int64, shape (n_kept,); None when rows are given as spots.
    overwrite
        Replace results that exist.
    budget_bytes
        Memory for rows that have arrived; beyond it they wait in files.

    Raises
    ------
    BadOption
        A key exists and ``overwrite`` is not given.
    StoreBusy
        Someone else is writing the store.
    """

    def __init__(
        self,
        atlas: Atlas,
        order: np.ndarray | None = None,
        *,
        overwrite: bool = False,
        budget_bytes: int = 64 * 10**6,
    ) -> None:
        self.atlas = atlas
        self.order = order
        self.overwrite = overwrite
        self.budget_bytes = budget_bytes
        self._rows: dict[str, _Rows] = {}
        self._sink: Sink = StoreSink(atlas) if atlas.path is not None else MemorySink(atlas)
        self._written: dict[str, dict[str, list[str]]] = {}
        self._uns: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> ResultWriter:
        self._sink.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                with full_disk_is_said(self._sink.scratch):
                    self._finish()
        finally:
            for rows in self._rows.values():
                rows.spill.__exit__(None, None, None)
            self._sink.end()

    def per_spot(
        self,
        key: str,
        n_cols: int,
        *,
        dtype: Any = np.float32,
        group: str = "obsm",
        tables: Sequence[str] | None = None,
    ) -> None:
        """Announce an array with a row per spot; its rows come by :meth:`put`, the others are NaN.

        Parameters
        ----------
        key
            Key in ``group``.
        n_cols
            Columns.
        dtype
            A floating type.
        group
            ``obsm``, or ``layers`` with the table's genes as columns.
        tables
            Tables that get it; all of the atlas when not given.
        """
        chosen = self._choose(tables)
        for table in chosen:
            self._claim(table, group, key)
        row_bytes = max(n_cols * np.dtype(dtype).itemsize, 1)
        block_rows = min(_BLOCK_ROWS, max(_BLOCK_BYTES // row_bytes, 256))
        n_blocks = [-(-table.n_spots // block_rows) for table in chosen]
        first = np.cumsum([0, *n_blocks]).tolist()
        spill = Spill(self._sink.scratch, first[-1], self.budget_bytes)
        buckets = {table.name: start for table, start in zip(chosen, first, strict=False)}
        self._rows[key] = _Rows(group, key, n_cols, np.dtype(dtype), block_rows, spill, buckets)

    def put(self, key: str, start: int, values: np.ndarray) -> None:
        """Hand over rows of an announced array, in working order from working row ``start`` on."""
        if self.order is None:
            raise ValueError("rows in working order need the order; give it to ResultWriter")
        self.put_spots(key, self.order[start : start + len(values)], values)

    def put_spots(self, key: str, spots: np.ndarray, values: np.ndarray) -> None:
        """Hand over rows of an announced array, for any spots of the atlas."""
        rows = self._rows[key]
        if values.shape != (len(spots), rows.n_cols):
            raise ValueError(f"{key} takes rows of shape ({len(spots)}, {rows.n_cols}), got {values.shape}")
        offsets = self.atlas.table_offsets
        table_of = np.searchsorted(offsets, spots, side="right") - 1
        values = values.astype(rows.dtype, copy=False)
        for index in np.unique(table_of):
            first = rows.first_bucket.get(self.atlas.tables[index].name)
            if first is None:
                continue
            chosen = np.flatnonzero(table_of == index)
            local = spots[chosen] - offsets[index]
            block = local // rows.block_rows
            for number in np.unique(block).tolist():
                inside = block == number
                place = (local[inside] - number * rows.block_rows).astype(np.int32)
                rows.spill.add(first + number, place, values[chosen[inside]])

    def varm(
        self,
        key: str,
        values: np.ndarray,
        genes: Sequence[str] | np.ndarray,
        *,
        tables: Sequence[str] | None = None,
    ) -> None:
        """Write an array with a row per gene.

        Parameters
        ----------
        key
            Key in varm.
        values
            Shape (G, k).
        genes
            Names of its rows; a table's genes that are not among them get NaN.
        tables
            Tables that get it; all of the atlas when not given.
        """
        place = {str(gene): i for i, gene in enumerate(genes)}
        for table in self._choose(tables):
            self._claim(table, "varm", key)
            rows = np.array([place.get(str(gene), -1) for gene in table.var_names()], dtype=np.int64)
            found = np.full((table.n_genes, values.shape[1]), np.nan, dtype=values.dtype)
            found[rows >= 0] = values[rows[rows >= 0]]
            self._sink.array(table, "varm", key, iter([found]), found.shape, found.dtype)

    def obs(self, key: str, values: Any, *, tables: Sequence[str] | None = None) -> None:
        """Write a column of obs.

        Parameters
        ----------
        key
            Name of the column.
        values
            One value for every spot of the atlas (numbers, strings or a pandas Categorical), or such a
            column for each of some tables by name.
        tables
            Tables that get it; all of the atlas (or all named in ``values``) when not given.
        """
        import pandas as pd

        columns = values if isinstance(values, Mapping) else self._by_table(pd.Series(values))
        for table in self._choose(list(columns) if tables is None else tables):
            self._claim(table, "obs", key)
            column = pd.Series(columns[table.name])
            if len(column) != table.n_spots:
                sizes = f"{len(column)} values for {table.n_spots} spots"
                raise ValueError(f"obs column {key!r} of table {table.name!r} has {sizes}")
            self._sink.column(table, key, column_values(column))

    def _by_table(self, column: pd.Series) -> dict[str, pd.Series]:
        offsets = [*self.atlas.table_offsets[:-1].tolist(), max(len(column), self.atlas.n_spots)]
        return {
            table.name: column.iloc[start:stop]
            for table, start, stop in zip(self.atlas.tables, offsets, offsets[1:], strict=False)
        }

    def uns(self, key: str, values: Mapping[str, Any], *, tables: Sequence[str] | None = None) -> None:
        """Write figures and parameters; whatever else is written with them is listed under ``written``."""
        for table in self._choose(tables):
            self._claim(table, "uns", key)
            self._uns.setdefault(table.name, {})[key] = plain(values)

    def table(
        self,
        name: str,
        obs: pd.DataFrame,
        uns: Mapping[str, Any] | None = None,
        *,
        columns: Sequence[str] = (),
        values: Iterable[np.ndarray] | None = None,
    ) -> None:
        """Write a new table, one row per record, without genes.

        Parameters
        ----------
        name
            Name of the table.
        obs
            Its rows.
        uns
            More to keep with it; ``spatialdata_attrs`` says which elements it annotates.
        columns
            Names of what is counted in X; none for a table of records alone.
        values
            X in runs of rows, float32, shape (n_run, n_columns), where there are columns.
        """
        refuse_existing(self.atlas, tables=[name], overwrite=self.overwrite)
        marked = plain(dict(uns or {})) | {RESULT_MARK: {"result": name}}
        self._sink.table(name, obs, marked, list(columns), values)

    def remove(self, group: str, key: str, *, tables: Sequence[str] | None = None) -> None:
        """Delete an older result (obsm, varm, layers or uns) that the new ones do not replace."""
        for table in self._choose(tables):
            if key in table.keys(group):
                self._sink.delete(table, group, key)

    def _choose(self, names: Sequence[str] | None) -> list[TableHandle]:
        return list(self.atlas.tables) if names is None else [self.atlas.table(name) for name in names]

    def _claim(self, table: TableHandle, group: str, key: str) -> None:
        refuse_unsafe(f"{group} key", key)
        _refuse_taken(table, group, key, overwrite=self.overwrite)
        self._written.setdefault(table.name, {}).setdefault(group, []).append(key)

    def _finish(self) -> None:
        for rows in self._rows.values():
            for table in self.atlas.tables:
                if table.name in rows.first_bucket:
                    shape = (table.n_spots, rows.n_cols)
                    self._sink.array(table, rows.group, rows.key, _blocks(rows, table), shape, rows.dtype)
        for table in self.atlas.tables:
            written = self._written.get(table.name, {})
            listing = {group: keys for group, keys in written.items() if group != "uns"}
            for key, values in self._uns.get(table.name, {}).items():
                self._sink.uns(table, key, dict(values) | {"written": plain(listing)})
        self._sink.commit()


def _blocks(rows: _Rows, table: TableHandle) -> Any:
    for number, start in enumerate(range(0, table.n_spots, rows.block_rows)):
        n_rows = min(rows.block_rows, table.n_spots - start)
        block = np.full((n_rows, rows.n_cols), np.nan, dtype=rows.dtype)
        records = rows.spill.take(rows.first_bucket[table.name] + number)
        if records:
            block[records[0]] = records[1]
        yield block
