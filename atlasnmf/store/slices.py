"""Which slice a spot belongs to: its table, the region it annotates, or an obs column."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.store.names import no_such
from atlasnmf.store.tables import TableHandle

__all__ = ["SliceInfo", "refuse_empty_levels", "slice_column", "slices_of"]


@dataclass(frozen=True)
class SliceInfo:
    """One slice of an atlas.

    Parameters
    ----------
    name
        Unique among the slices.
    table
        Name of the table its spots are in.
    n_spots
        Number of spots.
    """

    name: str
    table: str
    n_spots: int


def slice_column(table: TableHandle, slice_key: str | None, *, alone: bool) -> str | None:
    """Return the obs column that cuts a table into slices, or None when the table is one.

    Parameters
    ----------
    table
        The table.
    slice_key
        What the user asked for.
    alone
        Whether it is the only table: one that annotates several regions has a slice for each.
    """
    if slice_key is not None:
        return slice_key
    annotation = table.annotation() if alone else None
    if annotation is None or len(annotation.regions) < 2:
        return None
    return annotation.region_key


def slices_of(table: TableHandle, column: str | None) -> tuple[list[SliceInfo], np.ndarray, list[str]]:
    """Return the slices of a table and the slice of each of its spots, int32, shape (n_spots,).

    Returns
    -------
    slices, codes, empty
        ``empty`` are levels of the column that no spot of this table has; another table's may.

    Raises
    ------
    BadOption
        There is no such column.
    BadInput
        The table has no spots, or a spot has no slice.
    """
    if table.n_spots == 0:
        raise BadInput(f"table {table.name!r} has no spots; leave it out by naming the others with --tables")
    if column is None:
        alone = [SliceInfo(table.name, table.name, table.n_spots)]
        return alone, np.zeros(table.n_spots, dtype=np.int32), []
    if column not in table.obs_columns():
        raise BadOption(no_such("slice key", column, table.obs_columns(), f"obs of table {table.name!r}"))
    import pandas as pd

    values = pd.Series(table.obs_column(column))
    if values.isna().any():
        raise BadInput(
            f"{int(values.isna().sum())} spots of table {table.name!r} have no value in obs[{column!r}]; "
            "fill it in or drop these spots"
        )
    categories = values.astype("category").cat
    codes = categories.codes.to_numpy().astype(np.int32)
    names = [str(name) for name in categories.categories]
    sizes = np.bincount(codes, minlength=len(names))
    place = np.cumsum(sizes > 0, dtype=np.int32) - 1
    found = [SliceInfo(name, table.name, int(n)) for name, n in zip(names, sizes, strict=True) if n]
    return found, place[codes], [name for name, n in zip(names, sizes, strict=True) if not n]


def refuse_empty_levels(empty: Mapping[str, str], slices: Iterable[SliceInfo], column: str | None) -> None:
    """Refuse levels of the slice column, by the table that has them, without a spot in any table.

    Raises
    ------
    BadInput
        Naming the first.
    """
    there = {info.name for info in slices}
    for name, table in empty.items():
        if name not in there:
            raise BadInput(
                f"slice {name!r} of table {table!r} has no spots; drop the level "
                f"(adata.obs[{column!r}].cat.remove_unused_categories())"
            )
