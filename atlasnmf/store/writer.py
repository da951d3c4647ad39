"""Making a SpatialData store, counts appended block by block; it gets its name when it is whole."""

from __future__ import annotations

import os
import platform
import shutil
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.schema import Csr
from atlasnmf.store.disk import full_disk_is_said
from atlasnmf.store.locks import StoreLock
from atlasnmf.store.names import refuse_unsafe
from atlasnmf.store.shards import ShardedWriter, write_group
from atlasnmf.store.working import working_path

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["StoreWriter", "TableWriter", "create_store", "write_element"]

#: Stored values a compressed chunk of a sparse matrix, and chunks a file: 256 kB and 16 MB of float32.
_CHUNK_VALUES, _CHUNKS = 1 << 16, 64
#: Bytes a compressed chunk of a dense matrix.
_CHUNK_BYTES = 1 << 18
_CONTAINER_VERSION, _TABLE_VERSION = "0.2", "0.2"


@contextmanager
def create_store(path: Path | str, *, overwrite: bool = False) -> Iterator[StoreWriter]:
    """Make a SpatialData store (zarr v3); it appears under its name when the block ends without error.

    Parameters
    ----------
    path
        Where the store goes.
    overwrite
        Replace a store that is there, and forget its working copy.

    Raises
    ------
    BadOption
        Something is there already.
    StoreBusy
        Another process is writing the store to be replaced.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise BadOption(f"{path} exists; give another name or --overwrite")
    if path.exists() and not ((path / "zarr.json").exists() or (path / ".zgroup").exists()):
        raise BadInput(f"{path} exists and is not a zarr store; --overwrite replaces stores only")
    if not path.absolute().parent.is_dir():
        raise BadInput(f"there is no directory {path.absolute().parent} for {path.name}; make it first")
    _sweep(path)
    fresh = path.with_name(f".{path.name}.{platform.node()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.partial")
    try:
        with full_disk_is_said(path):
            writer = StoreWriter(fresh)
            yield writer
            writer.close()
            _replace(path, fresh)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _sweep(path: Path) -> None:
    """Delete what processes of this machine that are gone left of stores of this name."""
    for leftover in path.absolute().parent.glob(f".{path.name}.*.partial"):
        node, _, rest = leftover.name.removeprefix(f".{path.name}.").rpartition("-")[0].rpartition("-")
        if node == platform.node() and rest.isdigit() and not psutil.pid_exists(int(rest)):
            shutil.rmtree(leftover, ignore_errors=True)


def _replace(path: Path, fresh: Path) -> None:
    if not path.exists():
        fresh.rename(path)
        return
    work = working_path(path)
    with StoreLock(work / "lock")():
        old = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.old")
        path.rename(old)
        fresh.rename(path)
        shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(work, ignore_errors=True)


class StoreWriter:
    """A store in the making (see :func:`create_store`).

    Parameters
    ----------
    path
        Directory to fill.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        write_group(path, {"spatialdata_attrs": {"version": _CONTAINER_VERSION}})
        for element in ("images", "labels", "points", "shapes", "tables"):
            write_group(path / element)

    def table(self, name: str, *, n_genes: int, dtype: Any = np.float32, dense: bool = False) -> TableWriter:
        """Begin a table.

        Parameters
        ----------
        name
            Name of the table; letters, digits, underscores, dots and hyphens.
        n_genes
            Number of columns.
        dtype
            Type of the stored counts.
        dense
            Keep X as a dense array.
        """
        refuse_unsafe("table", name)
        taken = {entry.name.lower() for entry in (self.path / "tables").iterdir()}
        if name.lower() in taken:
            raise BadOption(f"two tables would be named {name!r}; rename one")
        return TableWriter(self.path / "tables" / name, n_genes=n_genes, dtype=dtype, dense=dense)

    def close(self) -> None:
        """Gather the metadata of all groups at the root, as SpatialData does."""
        import zarr

        with warnings.catch_warnings():
            # parquet files of shapes and points are no zarr nodes, and zarr says so for each
            warnings.simplefilter("ignore")
            zarr.consolidate_metadata(str(self.path), zarr_format=3)


class TableWriter:
    """A table in the making: append rows, then :meth:`close` with the names and whatever describes them.

    Parameters
    ----------
    path
        Directory of the table.
    n_genes
        Number of columns.
    dtype
        Type of the stored counts.
    dense
        Keep X as a dense array; :meth:`append` then takes arrays.
    """

    def __init__(self, path: Path, *, n_genes: int, dtype: Any = np.float32, dense: bool = False) -> None:
        self.path = path
        self.n_genes = n_genes
        write_group(path)
        self._matrices = {"X": _matrix_writer(path / "X", n_genes, dtype, dense)}
        self._obsm: dict[str, ShardedWriter] = {}

    def matrix(
        self, layer: str, *, dtype: Any = np.float32, dense: bool = False
    ) -> _CsrWriter | _DenseWriter:
        """Begin a layer; append to it as many rows as to X."""
        write_group(self.path / "layers", _DICT)
        writer = _matrix_writer(self.path / "layers" / layer, self.n_genes, dtype, dense)
        self._matrices[f"layers/{layer}"] = writer
        return writer

    def append(self, rows: Csr | np.ndarray, *, obsm: Mapping[str, np.ndarray] | None = None) -> None:
        """Add spots.

        Parameters
        ----------
        rows
            Counts of the spots, columns ascending within a row; an array for a dense table.
        obsm
            Their rows of obsm arrays, shape (n_rows, k); the same keys at every call.
        """
        self._matrices["X"].append(rows)  # type: ignore[arg-type]
        for key, values in (obsm or {}).items():
            if key not in self._obsm:
                self._obsm[key] = array_writer(self.path / "obsm" / key, values.shape[1:], values.dtype)
            self._obsm[key].append(values)

    def adopt(self, key: str, column: ShardedWriter) -> None:
        """Take over an obsm array written apart (see :func:`array_writer`); it is closed with the table."""
        self._obsm[key] = column

    @property
    def n_spots(self) -> int:
        """Rows appended so far."""
        return self._matrices["X"].n_rows

    def close(
        self,
        *,
        obs: pd.DataFrame,
        var: pd.DataFrame,
        obsm: Mapping[str, Any] | None = None,
        varm: Mapping[str, Any] | None = None,
        uns: Mapping[str, Any] | None = None,
    ) -> None:
        """Finish the table.

        Parameters
        ----------
        obs, var
            One row per spot and per gene, their index the names.
        obsm, varm, uns
            More to keep with the table.

        Raises
        ------
        ValueError
            Numbers of rows do not match.
        """
        sizes = {name: writer.n_rows for name, writer in (self._matrices | self._obsm).items()}
        sizes |= {f"obsm/{name}": value.shape[0] for name, value in (obsm or {}).items()}
        wrong = {name: size for name, size in sizes.items() if size != len(obs)}
        if wrong or len(var) != self.n_genes:
            raise ValueError(
                f"obs has {len(obs)} rows, var {len(var)} of {self.n_genes}, but {wrong or 'var'} not"
            )
        for matrix in self._matrices.values():
            matrix.close()
        for group in ("obsm", "varm", "obsp", "varp", "layers", "uns"):
            write_group(self.path / group, _DICT)
        for column in self._obsm.values():
            column.close(_ARRAY)
        write_element(self.path, "obs", obs)
        write_element(self.path, "var", var)
        for group, mapping in (("obsm", obsm), ("varm", varm), ("uns", uns)):
            for key, value in (mapping or {}).items():
                write_element(self.path / group, key, value)
        write_group(self.path, table_attributes((uns or {}).get("spatialdata_attrs")))


_DICT = {"encoding-type": "dict", "encoding-version": "0.1.0"}
_ARRAY = {"encoding-type": "array", "encoding-version": "0.2.0"}


def table_attributes(annotates: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the attributes of a table's group; ``annotates`` has its region, region_key, instance_key."""
    attributes = {
        "encoding-type": "anndata",
        "encoding-version": "0.1.0",
        "spatialdata-encoding-type": "ngff:regions_table",
        "version": _TABLE_VERSION,
    }
    for name in ("region", "region_key", "instance_key"):
        value = (annotates or {}).get(name)
        attributes[name] = value.tolist() if isinstance(value, np.ndarray) else value  # type: ignore[assignment]
    return attributes


def write_element(group: Path, key: str, value: Any, *, zarr_format: int = 3) -> None:
    """Write anything AnnData can write into a zarr group; the group is made when missing."""
    import anndata
    import zarr

    node = zarr.open_group(group, mode="a", zarr_format=zarr_format, use_consolidated=False)  # type: ignore[arg-type]
    with (
        anndata.settings.override(auto_shard_zarr_v3=False, allow_write_nullable_strings=True),
        warnings.catch_warnings(),
    ):
        # scanpy leaves records in uns, and zarr says at length that their format is none of its standard's
        warnings.filterwarnings("ignore", "The data type", FutureWarning)
        anndata.io.write_elem(node, key, value)


def array_writer(path: Path, row_shape: tuple[int, ...], dtype: Any) -> ShardedWriter:
    """Begin a dense array in chunks of about 256 kB."""
    row_bytes = max(int(np.prod(row_shape, dtype=np.int64)) * np.dtype(dtype).itemsize, 1)
    return ShardedWriter(path, row_shape, dtype, max(_CHUNK_BYTES // row_bytes, 1), _CHUNKS)


def _matrix_writer(path: Path, n_cols: int, dtype: Any, dense: bool) -> _CsrWriter | _DenseWriter:
    return _DenseWriter(path, n_cols, dtype) if dense else _CsrWriter(path, n_cols, dtype)


class _CsrWriter:
    def __init__(self, path: Path, n_cols: int, dtype: Any) -> None:
        self.path, self.n_cols = path, n_cols
        self._indices = ShardedWriter(path / "indices", (), np.int32, _CHUNK_VALUES, _CHUNKS)
        self._data = ShardedWriter(path / "data", (), dtype, _CHUNK_VALUES, _CHUNKS)
        self._lengths: list[np.ndarray] = []
        self.n_rows = 0

    def append(self, rows: Csr) -> None:
        if rows.n_cols != self.n_cols:
            raise ValueError(f"{self.path.name} has {self.n_cols} columns, got rows of {rows.n_cols}")
        self._indices.append(rows.indices)
        self._data.append(rows.data)
        self._lengths.append(np.diff(rows.indptr).astype(np.uint32))
        self.n_rows += rows.n_rows

    def close(self) -> None:
        indptr = np.zeros(self.n_rows + 1, dtype=np.int64)
        np.cumsum(np.concatenate(self._lengths) if self._lengths else [], out=indptr[1:])
        # scipy wants indices and indptr alike; int64 only where int32 is too short
        narrow = np.int32 if indptr[-1] < 2**31 else np.int64
        starts = ShardedWriter(self.path / "indptr", (), narrow, _CHUNK_VALUES, _CHUNKS)
        starts.append(indptr)
        for writer in (starts, self._indices, self._data):
            writer.close(_ARRAY)
        shape = [self.n_rows, self.n_cols]
        attributes = {"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": shape}
        write_group(self.path, attributes)


class _DenseWriter:
    def __init__(self, path: Path, n_cols: int, dtype: Any) -> None:
        self.n_cols = n_cols
        self._rows = array_writer(path, (n_cols,), dtype)

    @property
    def n_rows(self) -> int:
        return self._rows.n_rows

    def append(self, rows: np.ndarray) -> None:
        self._rows.append(rows)

    def close(self) -> None:
        self._rows.close(_ARRAY)
