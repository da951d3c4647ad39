"""Where results end up: in a store on disk through a transaction, or in the objects of the user's session."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from atlasnmf.errors import BadInput
from atlasnmf.store.disk import refuse_unwritable_store
from atlasnmf.store.handle import Atlas
from atlasnmf.store.records import write_record
from atlasnmf.store.tables import MemoryTable, StoredTable
from atlasnmf.store.transaction import Transaction, finish_interrupted
from atlasnmf.store.writer import array_writer, table_attributes, write_element

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

__all__ = ["MemorySink", "Sink", "StoreSink"]

_ARRAY: dict[str, Any] = {"encoding-type": "array", "encoding-version": "0.2.0"}


class Sink(Protocol):
    """Takes results and makes them appear at once."""

    @property
    def scratch(self) -> Path:
        """Directory for files on the way."""
        ...

    def begin(self) -> None:
        """Make ready."""
        ...

    def array(
        self,
        table: Any,
        group: str,
        key: str,
        blocks: Iterator[np.ndarray],
        shape: tuple[int, int],
        dtype: np.dtype,
    ) -> None:
        """Take an array of obsm, varm or layers, block by block."""
        ...

    def column(self, table: Any, key: str, values: Any) -> None:
        """Take a column of obs."""
        ...

    def uns(self, table: Any, key: str, values: Mapping[str, Any]) -> None:
        """Take an entry of uns."""
        ...

    def table(
        self,
        name: str,
        obs: pd.DataFrame,
        uns: Mapping[str, Any],
        columns: Sequence[str],
        values: Iterable[np.ndarray] | None,
    ) -> None:
        """Take a table without genes."""
        ...

    def delete(self, table: Any, group: str, key: str) -> None:
        """Delete an older entry."""
        ...

    def commit(self) -> None:
        """Make everything appear."""
        ...

    def end(self) -> None:
        """Let go of the lock and of files on the way."""
        ...


class StoreSink:
    """Makes zarr nodes beside the store and moves them in under a journal.

    Parameters
    ----------
    atlas
        An atlas on disk.
    """

    def __init__(self, atlas: Atlas) -> None:
        assert atlas.path is not None
        self.atlas = atlas
        self.path = atlas.path
        self._transaction = Transaction(atlas.path)
        self._held = ExitStack()
        self._columns: dict[str, list[str]] = {}

    @property
    def scratch(self) -> Path:
        """Directory for files on the way."""
        return self._transaction.staging

    def begin(self) -> None:
        """Take the lock, finish what a dead process left, make the staging directory."""
        self._held.enter_context(self.atlas.lock())
        try:
            refuse_unwritable_store(self.path)
        except BadInput:
            self._held.close()
            raise
        finish_interrupted(self.path, self.atlas.lock)
        self._transaction.begin()

    def array(
        self,
        table: StoredTable,
        group: str,
        key: str,
        blocks: Iterator[np.ndarray],
        shape: tuple[int, int],
        dtype: np.dtype,
    ) -> None:
        """Take an array of obsm, varm or layers, block by block."""
        self._need_group(table, group)
        place = self._transaction.place(f"tables/{table.name}/{group}/{key}")
        _write_array(place, blocks, shape, dtype, _zarr_format(table.path))

    def column(self, table: StoredTable, key: str, values: Any) -> None:
        """Take a column of obs."""
        place = self._transaction.place(f"tables/{table.name}/obs/{key}")
        self._write(place, values, _zarr_format(table.path))
        self._columns.setdefault(table.name, []).append(key)

    def uns(self, table: StoredTable, key: str, values: Mapping[str, Any]) -> None:
        """Take an entry of uns."""
        self._need_group(table, "uns")
        place = self._transaction.place(f"tables/{table.name}/uns/{key}")
        write_record(place, dict(values), zarr_format=_zarr_format(table.path))

    def table(
        self,
        name: str,
        obs: pd.DataFrame,
        uns: Mapping[str, Any],
        columns: Sequence[str],
        values: Iterable[np.ndarray] | None,
    ) -> None:
        """Take a table without genes."""
        place = self._transaction.place(f"tables/{name}")
        format_ = _zarr_format(self.path)
        self._write(place, _records(obs, uns, columns), format_)
        _update_attributes(place, table_attributes(uns.get("spatialdata_attrs")), format_)
        if values is None:
            return
        shutil.rmtree(place / "X", ignore_errors=True)
        shape = len(obs), len(columns)
        _write_array(place / "X", values, shape, np.dtype(np.float32), format_)

    def delete(self, table: StoredTable, group: str, key: str) -> None:
        """Delete an older entry."""
        self._transaction.delete(f"tables/{table.name}/{group}/{key}")

    def commit(self) -> None:
        """Name the new columns in obs, then move everything in."""
        for name, columns in self._columns.items():
            obs = self.path / "tables" / name / "obs"
            file = "zarr.json" if (obs / "zarr.json").exists() else ".zattrs"
            metadata = json.loads((obs / file).read_text())
            attributes = metadata["attributes"] if file == "zarr.json" else metadata
            order = list(attributes.get("column-order", []))
            attributes["column-order"] = [*order, *(column for column in columns if column not in order)]
            place = self._transaction.place(f"tables/{name}/obs/{file}")
            place.write_text(json.dumps(metadata, indent=2))
        self._transaction.commit()

    def end(self) -> None:
        """Drop what was not committed and let go of the lock."""
        self._transaction.abandon()
        self._held.close()

    def _need_group(self, table: StoredTable, group: str) -> None:
        if any((table.path / group / name).exists() for name in ("zarr.json", ".zgroup")):
            return
        format_ = _zarr_format(table.path)
        place = self._transaction.place(f"tables/{table.name}/{group}")
        write_record(place, {}, zarr_format=format_)

    def _write(self, place: Path, value: Any, zarr_format: int) -> None:
        """Make a node of its own with AnnData's encoding, then put it in its place."""
        parent = place.with_name(f"{place.name}-parent")
        write_element(parent, "node", value, zarr_format=zarr_format)
        (parent / "node").rename(place)


class MemorySink:
    """Assigns results to the AnnData tables of the user's session.

    Parameters
    ----------
    atlas
        An atlas in memory.
    """

    def __init__(self, atlas: Atlas) -> None:
        self.atlas = atlas
        self._assign: list[tuple[Any, Any, Any]] = []
        self._tables: dict[str, AnnData] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @property
    def scratch(self) -> Path:
        """Directory for files on the way."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="atlasnmf-")
        return Path(self._folder.name)

    def begin(self) -> None:
        """Nothing to make ready."""

    def array(
        self,
        table: MemoryTable,
        group: str,
        key: str,
        blocks: Iterator[np.ndarray],
        shape: tuple[int, int],
        dtype: np.dtype,
    ) -> None:
        """Take an array of obsm, varm or layers."""
        self._assign.append((getattr(table.adata, group), key, np.concatenate(list(blocks))))

    def column(self, table: MemoryTable, key: str, values: Any) -> None:
        """Take a column of obs."""
        self._assign.append((table.adata.obs, key, values))

    def uns(self, table: MemoryTable, key: str, values: Mapping[str, Any]) -> None:
        """Take an entry of uns."""
        self._assign.append((table.adata.uns, key, dict(values)))

    def table(
        self,
        name: str,
        obs: pd.DataFrame,
        uns: Mapping[str, Any],
        columns: Sequence[str],
        values: Iterable[np.ndarray] | None,
    ) -> None:
        """Take a table without genes."""
        self._tables[name] = _records(obs, uns, columns)
        if values is not None:
            self._tables[name].X = np.concatenate(list(values))

    def delete(self, table: MemoryTable, group: str, key: str) -> None:
        """Delete an older entry."""
        self._assign.append((getattr(table.adata, group), key, None))

    def commit(self) -> None:
        """Assign everything."""
        for target, key, value in self._assign:
            if value is None:
                target.pop(key, None)
            else:
                target[key] = value
        for name, records in self._tables.items():
            self._add_table(name, records)

    def _add_table(self, name: str, records: AnnData) -> None:
        source = self.atlas.source
        if not hasattr(source, "tables"):
            source.uns[name] = records.obs if records.X is None else records.to_df()
            return
        from spatialdata.models import TableModel

        source.tables[name] = TableModel.parse(records)

    def end(self) -> None:
        """Forget files on the way."""
        if self._folder is not None:
            self._folder.cleanup()


def _records(obs: pd.DataFrame, uns: Mapping[str, Any], columns: Sequence[str]) -> AnnData:
    import pandas as pd
    from anndata import AnnData

    return AnnData(obs=obs, var=pd.DataFrame(index=list(columns)) if columns else None, uns=dict(uns))


def _zarr_format(group: Path) -> int:
    return 3 if (group / "zarr.json").exists() else 2


def _write_array(
    place: Path, blocks: Iterable[np.ndarray], shape: tuple[int, int], dtype: np.dtype, zarr_format: int
) -> None:
    """Write rows block by block, in the format of the store they go to."""
    import zarr

    if zarr_format == 3:
        writer = array_writer(place, shape[1:], dtype)
        for block in blocks:
            writer.append(block)
        writer.close(_ARRAY)
        return
    chunks = (max(min(shape[0], (1 << 18) // max(shape[1] * dtype.itemsize, 1)), 1), max(shape[1], 1))
    array = zarr.create_array(
        store=str(place), shape=shape, dtype=dtype, chunks=chunks, zarr_format=2, attributes=dict(_ARRAY)
    )
    at = 0
    for block in blocks:
        array[at : at + len(block)] = block
        at += len(block)


def _update_attributes(group: Path, attributes: Mapping[str, Any], zarr_format: int) -> None:
    import zarr

    zarr.open_group(str(group), mode="r+", zarr_format=zarr_format).attrs.update(attributes)  # type: ignore[arg-type]
