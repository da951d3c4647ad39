"""What a figure of patterns reads: entries of uns, gene names, coefficients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.errors import BadInput
from atlasnmf.store.atlas import opened
from atlasnmf.store.names import no_such

if TYPE_CHECKING:
    from atlasnmf.store.atlas import Atlas
    from atlasnmf.store.tables import TableHandle

__all__ = ["coefficients_of", "no_result", "record_of", "result_table", "unit_of"]

#: What results are called when a fit is told no other name.
_RESULTS = ("inspire", "stanmf", "siid", "spatialfuser")
_COEFFICIENTS = ("_coefficients", "_loadings", "")


def no_result(kind: str, key: str, known: Iterable[str], atlas: Atlas) -> BadInput:
    """Say that a result is not there, with the nearest name and the fit that makes it."""
    model = next((name for name in _RESULTS if name in key), None)
    mend = f"fit it first: atlasnmf fit {model} {atlas.path or 'STORE'}" if model else "fit a model first"
    return BadInput(f"{no_such(kind, key, sorted(known), atlas.name)}; {mend}")


def record_of(source: Any, key: str, mend: str) -> Mapping[str, Any]:
    """Return an entry of ``uns``, or a mapping that was given in place of a store.

    Raises
    ------
    BadInput
        No table has it; ``mend`` says how to make it.
    """
    if isinstance(source, Mapping):
        return source
    atlas = opened(source)
    for table in atlas.tables:
        if key in table.keys("uns"):
            found = table.uns(key)
            if isinstance(found, Mapping):
                return found
    known = sorted({name for table in atlas.tables for name in table.keys("uns")})
    raise BadInput(f"{no_such('uns key', key, known, atlas.name)}; {mend}")


def coefficients_of(source: Any, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Return gene names, shape (G,), and what they take of each pattern, shape (G, K), of the first table."""
    atlas = opened(source)
    for table in atlas.tables:
        for suffix in _COEFFICIENTS:
            if key + suffix in table.keys("varm"):
                return np.asarray(table.var_names()).astype(str), np.asarray(table.varm(key + suffix))
    known = sorted({name for table in atlas.tables for name in table.keys("varm")})
    raise no_result("varm key", f"{key}_coefficients", known, atlas)


def unit_of(atlas: Atlas) -> str:
    """Return the unit of the positions where a table's ``uns`` says it, else nothing.

    An entry of ``uns`` with a field ``unit`` says it: ``uns["volume"]``, ``uns["truth"]`` of simulators.
    """
    for table in atlas.tables:
        for key in table.keys("uns"):
            if "unit" in table.uns_keys(key):
                return str(table.uns(key)["unit"])
    return ""


def result_table(atlas: Atlas, name: str, mend: str) -> TableHandle:
    """Return a table that a fit wrote, such as the matches; such tables are no part of the atlas itself.

    Raises
    ------
    BadInput
        There is none; ``mend`` says how to make it.
    """
    from atlasnmf.store.tables import MemoryTable, StoredTable

    if not atlas.has_table(name):
        raise BadInput(f"{atlas.name} has no table {name!r}; {mend}")
    if atlas.path is not None:
        return StoredTable(atlas.path / "tables" / name)
    return MemoryTable(atlas.source.tables[name], name)
