"""Which slice a spot belongs to: its table, the region it annotates, or an obs column."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.store.names import no_such
from atlasnmf.store.tables import TableHandle

__all__ = ["SliceInfo", "slice_column", "slices_of"]


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


def slices_of(table: TableHandle, column: str | None) -> tuple[list[SliceInfo], np.ndarray]:
    """Return the slices of a table and the slice of each of its spots, int32, shape (n_spots,).

    Raises
    ------
    BadOption
        There is no such column.
    BadInput
        A slice has no spots, or a spot has no slice.
    """
    if column is None:
        if table.n_spots == 0:
            raise BadInput(
                f"table {table.name!r} has no spots; leave it out by naming the others with --tables"
            )
        return [SliceInfo(table.name, table.name, table.n_spots)], np.zeros(table.n_spots, dtype=np.int32)
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
    for name, size in zip(names, sizes, strict=True):
        if size == 0:
            raise BadInput(
                f"slice {name!r} of table {table.name!r} has no spots; drop the level "
                f"(adata.obs[{column!r}].cat.remove_unused_categories())"
            )
    return [SliceInfo(name, table.name, int(n)) for name, n in zip(names, sizes, strict=True)], codes
