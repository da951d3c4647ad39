"""What a figure of patterns reads: entries of uns, gene names, coefficients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.errors import BadInput
from atlasnmf.result_names import first_of, no_result, weight_ends
from atlasnmf.store.atlas import opened
from atlasnmf.store.names import no_such
from atlasnmf.store.runs import RUN_SPOTS

if TYPE_CHECKING:
    from atlasnmf.store.atlas import Atlas
    from atlasnmf.store.tables import TableHandle

__all__ = ["coefficients_of", "count_blocks", "record_of", "unit_of"]


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
    raise BadInput(f"{no_such('uns key', key, atlas.keys('uns'), atlas.name)}; {mend}")


def coefficients_of(source: Any, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Return gene names, shape (G,), and what they take of each pattern, shape (G, K), of the first table."""
    atlas = opened(source)
    for table in atlas.tables:
        name = first_of(key, (*weight_ends(), ""), table.keys("varm"))
        if name is not None:
            return np.asarray(table.var_names()).astype(str), np.asarray(table.varm(name))
    raise no_result("varm key", f"{key}_coefficients", atlas.keys("varm"), atlas)


def unit_of(atlas: Atlas) -> str:
    """Return the unit of the positions where a table's ``uns`` says it, else nothing.

    An entry of ``uns`` with a field ``unit`` says it: ``uns["volume"]``, ``uns["truth"]`` of simulators.
    """
    for table in atlas.tables:
        for key in table.keys("uns"):
            if "unit" in table.uns_keys(key):
                return str(table.uns(key)["unit"])
    return ""


def count_blocks(table: TableHandle, genes: Sequence[str]) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Yield the counts of some genes in runs of spots; nothing where the table has none of them.

    Yields
    ------
    run, counts, totals
        Which spots; their counts, float64, shape (n, genes), NaN for a gene the table lacks; and their
        counts over all genes, float64.
    """
    place = {str(gene): at for at, gene in enumerate(table.var_names())}
    columns = [(at, place[gene]) for at, gene in enumerate(genes) if gene in place]
    for start in range(0, table.n_spots if columns else 0, RUN_SPOTS):
        rows = table.counts.read(start, min(start + RUN_SPOTS, table.n_spots))
        owner = np.repeat(np.arange(rows.n_rows), np.diff(rows.indptr))
        counts = np.full((rows.n_rows, len(genes)), np.nan)
        for at, column in columns:
            mine = rows.indices == column
            counts[:, at] = 0.0
            counts[owner[mine], at] = rows.data[mine]
        totals = np.bincount(owner, weights=rows.data, minlength=rows.n_rows)
        yield slice(start, start + rows.n_rows), counts, totals
