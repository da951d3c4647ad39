"""Making one SpatialData store of h5ad files and other stores, streamed: no matrix is ever held."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from atlasnmf.budget import format_bytes
from atlasnmf.errors import BadInput, BadOption
from atlasnmf.events import SILENT, Events
from atlasnmf.store.h5ad import H5Table
from atlasnmf.store.names import no_such, safe_name
from atlasnmf.store.paths import local_path
from atlasnmf.store.tables import twice_in
from atlasnmf.store.writer import StoreWriter, TableWriter, array_writer, create_store

__all__ = ["ingest"]

_ELEMENTS = ("images", "labels", "points", "shapes", "tables")
#: What a store takes for a byte of its inputs decoded: lz4 on counts halves them at least.
_DISK_SHARE = 0.6


def ingest(
    files: Sequence[Path | str], out: Path | str, *, overwrite: bool = False, events: Events = SILENT
) -> Path:
    """Write h5ad files and SpatialData stores as one SpatialData store.

    Parameters
    ----------
    files
        ``.h5ad`` files, each a table named after the file, and SpatialData stores, whose elements keep their
        names.
    out
        The store to make; it appears when everything has been written.
    overwrite
        Replace ``out`` when it exists.
    events
        Told of every block of spots.

    Returns
    -------
    out
        The path of the store.

    Raises
    ------
    BadInput
        A file is missing or cannot be used.
    BadOption
        ``out`` exists, two inputs have the same name, or the disk is too small.

    Notes
    -----
    X, layers, obsm, obs, var, varm and uns are kept; CSC becomes CSR; ``raw``, obsp and varp are left out.
    Memory: one block of 32 MB, obs and var.

    Examples
    --------
    >>> import anndata
    >>> import numpy as np
    >>> import atlasnmf as an
    >>> counts = np.random.default_rng(0).poisson(1.0, (9, 4)).astype(np.float32)
    >>> slice_a = anndata.AnnData(counts, obsm={"spatial": np.indices((3, 3)).reshape(2, 9).T})
    >>> slice_a.write_h5ad("slice_a.h5ad")
    >>> an.ingest(["slice_a.h5ad"], "atlas.zarr")
    PosixPath('atlas.zarr')
    >>> an.open_atlas("atlas.zarr")
    Atlas(atlas.zarr: 9 spots, 1 slice: slice_a (9))
    """
    sources = [local_path(file) for file in files]
    if not sources:
        raise BadOption("there is nothing to ingest; name at least one h5ad file")
    n_bytes = _check(sources, events)
    out = local_path(out)
    free = shutil.disk_usage(out.absolute().parent).free if out.absolute().parent.is_dir() else n_bytes
    if n_bytes > free:
        raise BadOption(
            f"{out} needs about {format_bytes(n_bytes)} of disk but {format_bytes(free)} are free; free some"
        )
    with create_store(out, overwrite=overwrite) as store:
        for source in sources:
            if _is_h5ad(source):
                with H5Table(source) as table:
                    _write_table(store, table, safe_name(source.stem), events)
            else:
                _copy_elements(source, store.path)
    return out


def _is_h5ad(source: Path) -> bool:
    return source.suffix.lower() == ".h5ad"


def _check(sources: Iterable[Path], events: Events) -> int:
    """Look at every input before any is read; return the bytes the store will take at most."""
    names: dict[str, Path] = {}
    n_bytes = 0.0
    for source in sources:
        if not source.exists():
            beside = source.absolute().parent.glob("*")
            near = [file.name for file in beside if _is_h5ad(file) or file.suffix == ".zarr"]
            raise BadInput(no_such("file", source.name, sorted(near), str(source.parent)))
        if _is_h5ad(source):
            with H5Table(source) as table:
                n_bytes += _DISK_SHARE * _check_h5ad(table, events)
            tables = [safe_name(source.stem)]
        elif (source / "zarr.json").exists() and (source / "tables").is_dir():
            n_bytes += sum(file.stat().st_size for file in source.rglob("*") if file.is_file())
            tables = [f"{kind}/{entry.name}" for kind in _ELEMENTS for entry in _entries(source / kind)]
            tables = [name.removeprefix("tables/") for name in tables]
        elif (source / ".zgroup").exists():
            raise BadInput(
                f"{source} is a zarr v2 store; write it anew with a current spatialdata: "
                f"spatialdata.read_zarr({str(source)!r}).write(...)"
            )
        else:
            raise BadInput(f"{source} is neither an .h5ad file nor a SpatialData store")
        for name in tables:
            if name.lower() in names:
                raise BadOption(
                    f"{names[name.lower()]} and {source} would both be named {name!r}; rename one of them"
                )
            names[name.lower()] = source
    return int(n_bytes)


def _check_h5ad(table: H5Table, events: Events) -> int:
    matrices = [table.matrix(), *(table.matrix(layer) for layer in table.keys("layers"))]
    shape = matrices[0].n_rows, matrices[0].n_cols
    for axis, what, length, method in (
        ("obs", "spot", shape[0], "obs_names_make_unique"),
        ("var", "gene", shape[1], "var_names_make_unique"),
    ):
        names = table.names(axis)
        if len(names) != length:
            raise BadInput(f"{table.path} is damaged: {axis} and X differ in size; write it anew")
        twice = twice_in(names)
        if twice is not None:
            events.warn(
                f"{what} {twice!r} occurs more than once in {table.path}; a fit will refuse the table until "
                f"the names are unique (adata.{method}())"
            )
    return sum(matrix.nbytes for matrix in matrices)


def _write_table(store: StoreWriter, table: H5Table, name: str, events: Events) -> None:
    counts = table.matrix()
    writer = store.table(name, n_genes=counts.n_cols, dtype=counts.dtype, dense=counts.is_dense)
    with events.stage(f"ingest {name}", total=counts.n_rows) as advance:
        for rows in counts.blocks(store.path):
            writer.append(rows)
            advance(len(rows) if isinstance(rows, np.ndarray) else rows.n_rows)
    for key, layer in _valid_keys(table.keys("layers"), f"layers of {name}", events).items():
        matrix = table.matrix(layer)
        layer_writer = writer.matrix(key, dtype=matrix.dtype, dense=matrix.is_dense)
        for rows in matrix.blocks(store.path):
            layer_writer.append(rows)  # type: ignore[arg-type]
    small = {group: _read_group(table, group, name, events) for group in ("varm", "uns")}
    small["uns"].pop("spatialdata_attrs", None)  # the elements it points to stay behind
    small["obsm"] = _write_obsm(writer, table, name, events)
    for left in ("raw", "obsp", "varp"):
        if table.keys(left):
            mend = "; to use its counts, ingest adata.raw.to_adata()" * (left == "raw")
            events.note(f"{left} of {table.path.name} is left out{mend}")
    obs = _valid_frame(table.read("obs"), f"obs of {name}", events)
    var = _valid_frame(table.read("var"), f"var of {name}", events)
    writer.close(obs=obs, var=var, **small)


def _write_obsm(writer: TableWriter, table: H5Table, name: str, events: Events) -> dict[str, Any]:
    """Stream dense arrays; return the others for memory."""
    others: dict[str, Any] = {}
    for key, stored in _valid_keys(table.keys("obsm"), f"obsm of {name}", events).items():
        node = table.array("obsm", stored)
        if node is None:
            others[key] = table.read("obsm", stored)
            continue
        column = array_writer(writer.path / "obsm" / key, node.shape[1:], node.dtype)
        step = max(column.chunk_rows * column.chunks_a_shard, 1)
        for start in range(0, node.shape[0], step):
            column.append(node[start : start + step])
        writer.adopt(key, column)
    return others


def _read_group(table: H5Table, group: str, name: str, events: Events) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, stored in _valid_keys(table.keys(group), f"{group} of {name}", events).items():
        try:
            found[key] = table.read(group, stored)
        except Exception as error:  # uns holds whatever a tool left there; the counts matter more
            events.warn(f"{group}[{stored!r}] of {table.path.name} cannot be read and is left out ({error})")
    return found


def _valid_keys(keys: Iterable[str], where: str, events: Events) -> dict[str, str]:
    """Return stored keys by the names SpatialData accepts: plain characters, unique whatever the case."""
    valid: dict[str, str] = {}
    taken: set[str] = set()
    for key in keys:
        name = base = safe_name(str(key)) if str(key) != "_index" else "index"
        number = 1
        while name.lower() in taken:
            name, number = f"{base}_{number}", number + 1
        if name != key:
            events.note(f"{key!r} in {where} is named {name!r}: SpatialData does not accept the name")
        taken.add(name.lower())
        valid[name] = key
    return valid


def _valid_frame(frame: Any, where: str, events: Events) -> Any:
    names: Mapping[str, str] = _valid_keys(frame.columns, where, events)
    renamed = frame.set_axis(list(names), axis=1)
    index = renamed.index.astype(str)
    renamed.index = index.rename(None)
    return renamed


def _entries(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _copy_elements(source: Path, store: Path) -> None:
    for kind in _ELEMENTS:
        for entry in _entries(source / kind):
            shutil.copytree(entry, store / kind / entry.name)
