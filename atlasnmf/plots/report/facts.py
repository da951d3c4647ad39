"""What a report is made of, read from a store: results, their records, slices and groups of spots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.plots.report.mosaic import Mosaic, Tile, mosaic_of
from atlasnmf.plots.report.survey import Groups
from atlasnmf.result_names import factor_ends, first_of, weight_ends

if TYPE_CHECKING:
    from atlasnmf.store.atlas import Atlas
    from atlasnmf.store.tables import TableHandle

__all__ = ["Found", "Scene", "found_results", "gene_weights", "group_columns", "scene_of"]

#: A column with more categories than this is no grouping to look at.
_MOST_GROUPS = 40
_MOST_COLUMNS = 6


@dataclass(frozen=True)
class Found:
    """One result: its key, what its fit left in ``uns``, the atlas with the slices the fit saw, the unit."""

    key: str
    record: Mapping[str, Any]
    atlas: Atlas
    unit: str = ""

    @property
    def model(self) -> str:
        """Name of the model."""
        return str(self.record.get("model", self.key))

    def factor_arrays(self) -> dict[str, list[TableHandle]]:
        """Return the tables that have each array of factors, by obsm key."""
        arrays: dict[str, list[TableHandle]] = {}
        for table in self.atlas.tables:
            name = first_of(self.key, factor_ends(), table.keys("obsm"))
            if name is not None:
                arrays.setdefault(name, []).append(table)
        return arrays


@dataclass(frozen=True)
class Scene:
    """Some tables as one picture: where their slices lie in it, and the place of every spot there."""

    tables: tuple[TableHandle, ...]
    slices: Groups
    mosaic: Mosaic
    place: np.ndarray


def found_results(atlas: Atlas, unit: str = "") -> list[Found]:
    """Find results by what a fit leaves in ``uns``; the first table that has one speaks."""
    from atlasnmf.store.atlas import open_atlas

    found: dict[str, Found] = {}
    for table in atlas.tables:
        for key in table.keys("uns"):
            fields = table.uns_keys(key)
            if key in found or "status" not in fields or "params" not in fields:
                continue
            record = table.uns(key)
            slice_key = str(record.get("slice_key", ""))
            source = atlas.path or atlas.source
            # One table may hold several slices, by a column that only the fit knew.
            seen = open_atlas(source, slice_key=slice_key) if slice_key in table.obs_columns() else atlas
            found[key] = Found(key, record, seen, unit)
    return list(found.values())


def scene_of(
    atlas: Atlas, tables: list[TableHandle], *, unit: str, width: int = 560, most_pixels: int = 260_000
) -> Scene:
    """Lay out the slices of some tables, and say where every spot of them is drawn."""
    chosen = {table.name for table in tables}
    codes = atlas.slice_codes()
    spots_of = {table.name: spots for table, spots in atlas.table_spots()}
    own = np.concatenate([codes[spots_of[table.name]] for table in tables])
    xy = np.concatenate([np.asarray(atlas.coordinates_of(t), np.float64)[:, :2] for t in tables])
    numbers = [i for i, info in enumerate(atlas.slices) if info.table in chosen]
    renumbered = np.full(len(atlas.slices), -1, np.int64)
    renumbered[numbers] = np.arange(len(numbers))
    slice_of = renumbered[own]
    order = np.argsort(slice_of, kind="stable")
    bounds = np.searchsorted(slice_of[order], np.arange(len(numbers) + 1))
    names = tuple(atlas.slices[i].name for i in numbers)
    tiles = [
        Tile(name, xy[order[start:stop]])
        for name, start, stop in zip(names, bounds[:-1], bounds[1:], strict=True)
    ]
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    mosaic = mosaic_of(tiles, width=width, most_pixels=most_pixels, unit=unit)
    return Scene(tuple(tables), Groups("slice", names, slice_of), mosaic, place)


def group_columns(atlas: Atlas, tables: list[TableHandle]) -> list[Groups]:
    """Return the obs columns that group the spots of some tables: domains, regions, types.

    Columns of categories or text with 2 to 40 values; those called domains come first, those that
    name the slices are left out.
    """
    import pandas as pd

    slices = {info.name for info in atlas.slices}
    leave_out = ("slice", atlas.slice_key)

    names = dict.fromkeys(name for table in tables for name in table.obs_columns())
    found: list[Groups] = []
    for name in sorted(names, key=lambda name: ("domain" not in name.lower(), name.lower())):
        if name in leave_out or len(found) == _MOST_COLUMNS:
            continue
        columns: list[Any] = []
        for table in tables:
            if name not in table.obs_columns():
                columns.append(pd.Categorical([None] * table.n_spots))
                continue
            column = table.obs_column(name)
            kind = getattr(column.dtype, "kind", "O")
            if kind in "biufc" or (kind == "M"):
                break
            column = pd.Categorical(column)
            if len(column.categories) > 20 * _MOST_GROUPS:
                break
            columns.append(column)
        else:
            groups = _merged(name, columns)
            if 2 <= len(groups.names) <= _MOST_GROUPS and set(groups.names) != slices:
                found.append(groups)
    return found


def _merged(title: str, columns: list[Any]) -> Groups:
    """Give the categories of several columns common numbers, in natural order; those without spots go."""
    from atlasnmf.store.names import natural_key

    used = {
        str(column.categories[code])
        for column in columns
        for code in np.unique(column.codes[column.codes >= 0])
    }
    names = sorted(used, key=natural_key)
    number = {name: i for i, name in enumerate(names)}
    parts = []
    for column in columns:
        lookup = np.array([*(number.get(str(name), -1) for name in column.categories), -1], np.int32)
        parts.append(lookup[column.codes])
    return Groups(title, tuple(names), np.concatenate(parts))


def gene_weights(found: Found) -> tuple[np.ndarray, np.ndarray] | None:
    """Return genes and what they weigh in each factor, shapes (G,) and (G, K), of the genes a fit used."""
    for table in found.atlas.tables:
        name = first_of(found.key, weight_ends(), table.keys("varm"))
        if name is not None:
            weights = np.asarray(table.varm(name), np.float64)
            used = np.isfinite(weights).all(axis=1)
            return np.asarray(table.var_names())[used].astype(str), weights[used]
    return None
