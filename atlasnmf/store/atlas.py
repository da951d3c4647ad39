"""Opening an atlas from a store on disk or from data in memory."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.store.coordinates import Elements, MemoryElements, StoredElements
from atlasnmf.store.handle import Atlas, SliceInfo
from atlasnmf.store.locks import StoreLock
from atlasnmf.store.names import natural_key, no_such
from atlasnmf.store.paths import local_path, working_path
from atlasnmf.store.tables import RESULT_MARK, MemoryTable, StoredTable, TableHandle
from atlasnmf.store.transaction import finish_interrupted

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

    #: What functions take for an atlas: an open one, the path of a store, or data in memory.
    AtlasLike: TypeAlias = Atlas | SpatialData | AnnData | str | Path

__all__ = ["Atlas", "SliceInfo", "open_atlas", "opened", "result_tables"]


def open_atlas(
    source: str | Path | SpatialData | AnnData,
    *,
    tables: str | Sequence[str] | None = None,
    slice_key: str | None = None,
    slices: Sequence[str] | None = None,
    layer: str | None = None,
    coordinate_system: str = "global",
    spatial_key: str = "spatial",
) -> Atlas:
    """Open an atlas; counts are not read, now or later, but in runs of rows.

    Parameters
    ----------
    source
        A SpatialData store on disk, or a SpatialData or AnnData in memory.
    tables
        Tables to use, in this order, by name or by a part of the name that no other table has; all (in
        natural order of their names, without result tables) when not given.
    slice_key
        obs column with the slice of each spot. When not given, every table is a slice; a single table that
        annotates several regions has one slice a region.
    slices
        Slices to use, in this order; all when not given. Tables without one of them are left out.
    layer
        Layer with the raw counts; X when not given.
    coordinate_system
        Coordinate system of positions taken from shapes, points or labels. With another than ``global``
        these win over ``obsm[spatial_key]``.
    spatial_key
        obsm key of the positions.

    Raises
    ------
    BadInput
        The store is missing or not a SpatialData store, or a slice has no spots.
    BadOption
        There is no such table, slice key or layer.

    Examples
    --------
    >>> import atlasnmf as an
    >>> an.open_atlas("embryo.zarr")
    Atlas(embryo.zarr: 600 spots, 2 slices: slice_1 (200), slice_2 (400))
    >>> an.open_atlas("embryo.zarr", slices=["slice_2"]).n_spots
    400
    """
    wanted = [tables] if isinstance(tables, str) else None if tables is None else list(tables)
    path: Path | None = None
    elements: Elements | None = None
    handles: list[TableHandle]
    if isinstance(source, str | Path):
        path = local_path(source)
        _require_store(path)
        elements = StoredElements(path)
        finish_interrupted(path, StoreLock(working_path(path) / "lock"))
        names = _pick(wanted, _table_names(path), str(path))
        handles = [StoredTable(path / "tables" / name, layer) for name in names]
    elif hasattr(source, "tables"):
        elements = MemoryElements(source)
        known = {
            name: RESULT_MARK in source.tables[name].uns for name in sorted(source.tables, key=natural_key)
        }
        names = _pick(wanted, known, "the SpatialData")
        handles = [MemoryTable(source.tables[name], name, layer) for name in names]
    elif hasattr(source, "obsm"):
        if wanted not in (None, ["table"]):
            raise BadOption("an AnnData is one table; leave out tables or give a SpatialData")
        handles = [MemoryTable(source, "table", layer)]
    else:
        raise BadInput(
            f"cannot open a {type(source).__name__} as an atlas; give a path, a SpatialData or an AnnData"
        )
    for handle in handles:
        if layer is not None and layer not in handle.keys("layers"):
            raise BadOption(no_such("layer", layer, handle.keys("layers"), f"table {handle.name!r}"))
    opened = partial(
        Atlas,
        path=path,
        elements=elements,
        slice_key=slice_key,
        layer=layer,
        coordinate_system=coordinate_system,
        spatial_key=spatial_key,
        source=source,
    )
    atlas = opened(handles)
    atlas.slices  # noqa: B018 - a wrong slice key or an empty slice is refused here
    if slices is None:
        return atlas
    named = _named_slices([slices] if isinstance(slices, str) else slices, atlas)
    kept = {info.table for info in atlas.slices if info.name in named}
    return opened([handle for handle in handles if handle.name in kept], only=named, alone=atlas.alone)


def opened(source: AtlasLike) -> Atlas:
    """Take an atlas as it is, and open what else can be opened, as it stands."""
    return source if isinstance(source, Atlas) else open_atlas(source)


def result_tables(atlas: Atlas) -> list[str]:
    """Return the names of the tables that fits and analyses wrote, which are no slices."""
    if atlas.path is not None:
        return [name for name, is_result in _table_names(atlas.path).items() if is_result]
    tables = getattr(atlas.source, "tables", {})
    return sorted((name for name in tables if RESULT_MARK in tables[name].uns), key=natural_key)


def _named_slices(wanted: Sequence[str], atlas: Atlas) -> tuple[str, ...]:
    known = [info.name for info in atlas.slices]
    for name in wanted:
        if name not in known:
            raise BadOption(no_such("slice", name, known, atlas.name))
    if not wanted or len(set(wanted)) != len(wanted):
        raise BadOption("--slices: name each slice to use once")
    return tuple(wanted)


def _require_store(path: Path) -> None:
    if not path.exists():
        near = path.parent.glob("*.zarr") if path.parent.is_dir() else []
        known = sorted((store.name for store in near), key=natural_key)
        raise BadInput(no_such("store", path.name, known, str(path.parent)))
    if path.suffix.lower() == ".h5ad":
        made = shlex.join(["atlasnmf", "ingest", str(path), "--out", f"{path.stem}.zarr"])
        raise BadInput(f"{path} is an h5ad file; make a store of it: {made}")
    is_group = any((path / name).exists() for name in ("zarr.json", ".zgroup"))
    if not is_group or not (path / "tables").is_dir():
        what = "has no tables" if is_group else "is not a zarr store"
        raise BadInput(
            f"{path} is not a SpatialData store: it {what}; write one with atlasnmf ingest or spatialdata"
        )


def _table_names(path: Path) -> dict[str, bool]:
    names = [
        entry.name
        for entry in (path / "tables").iterdir()
        if not entry.name.startswith(".") and any((entry / f).exists() for f in ("zarr.json", ".zgroup"))
    ]
    marks = {name: (path / "tables" / name / "uns" / RESULT_MARK).exists() for name in names}
    return {name: marks[name] for name in sorted(names, key=natural_key)}


def _pick(wanted: list[str] | None, known: dict[str, bool], where: str) -> list[str]:
    """Choose tables; ``known`` says of every table whether a fit wrote it."""
    if wanted is None:
        wanted = [name for name, is_result in known.items() if not is_result]
    wanted = [_named(name, known, where) for name in wanted]
    if len(set(wanted)) != len(wanted):
        raise BadOption(f"a table is named twice in {', '.join(wanted)}; name each once")
    if not wanted:
        raise BadInput(f"{where} has no tables; write one with atlasnmf ingest or spatialdata")
    return wanted


def _named(name: str, known: dict[str, bool], where: str) -> str:
    """Return the table of a name, or the only one whose name contains it."""
    if name in known:
        return name
    near = [table for table in known if name and name in table]
    if len(near) != 1:
        raise BadOption(no_such("table", name, known, where))
    return near[0]
