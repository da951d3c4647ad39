"""Gene values of an atlas, run by run: log-normalised counts, a layer, or what a model makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.analysis.stored_patterns import stored_patterns
from atlasnmf.errors import BadInput, BadOption
from atlasnmf.kernels.cpu.lognorm import log_normalise
from atlasnmf.result_names import factor_ends
from atlasnmf.schema import Csr
from atlasnmf.store.names import no_such
from atlasnmf.store.tables import MemoryTable, StoredTable

if TYPE_CHECKING:
    import scipy.sparse

    from atlasnmf.store.atlas import Atlas
    from atlasnmf.store.tables import TableHandle

__all__ = ["GeneValues", "gene_values", "layer_of", "picked", "written_out"]

#: Rows of a run at most, and bytes of one written out.
_RUN_ROWS, _RUN_BYTES = 16_384, 1 << 26
#: Counts of a spot are scaled to this before the logarithm.
TARGET_SUM = 1e4


@dataclass(frozen=True)
class GeneValues:
    """Values of some genes in the spots of some tables, unread.

    Parameters
    ----------
    atlas
        The atlas.
    tables
        Tables, whose spots follow each other.
    genes
        Names of the columns.
    source
        None for the logarithm of counts per 10^4; the name of a layer, taken as it is; or the name of a
        result, whose factors times loadings are taken.
    """

    atlas: Atlas
    tables: tuple[TableHandle, ...]
    genes: tuple[str, ...]
    source: str | None = None

    @cached_property
    def columns(self) -> tuple[np.ndarray, ...]:
        """Column of each gene in each table, -1 where it was not measured, int64."""
        found = []
        for table in self.tables:
            place = {str(gene): at for at, gene in enumerate(table.var_names())}
            found.append(np.array([place.get(gene, -1) for gene in self.genes], np.int64))
        return tuple(found)

    @cached_property
    def measured(self) -> np.ndarray:
        """Which table has which gene, bool, shape (n_tables, G)."""
        if self._loadings is not None:
            return np.tile(np.isfinite(self._loadings[1]).all(axis=1), (len(self.tables), 1))
        return np.stack([columns >= 0 for columns in self.columns])

    @cached_property
    def _loadings(self) -> tuple[str, np.ndarray] | None:
        """The obsm key of factors and the loadings of the genes, where the source is a result."""
        if self.source is None or any(self.source in table.keys("layers") for table in self.tables):
            return None
        read = stored_patterns(self.atlas, self.source)
        place = {gene: at for at, gene in enumerate(read.genes)}
        rows = np.full((len(self.genes), read.n_patterns), np.nan)
        for at, gene in enumerate(self.genes):
            if gene in place:
                rows[at] = read.coefficients[place[gene]]
        return read.obsm_key, rows

    def runs(
        self, needed: np.ndarray | None = None
    ) -> Iterator[tuple[int, slice, np.ndarray | scipy.sparse.csr_matrix]]:
        """Yield the number of the table, which spots a run has, and their values.

        Parameters
        ----------
        needed
            Spots, ascending: runs without any of them are not read. All when not given.

        Notes
        -----
        Values are a scipy CSR matrix or an array of shape (n_run, G), float32; genes that a table lacks are
        zero there (see :attr:`measured`), spots left out of a result NaN.
        """
        step = min(max(_RUN_BYTES // (4 * max(len(self.genes), 1)), 256), _RUN_ROWS)
        first = 0
        for number, table in enumerate(self.tables):
            for start in range(0, table.n_spots, step):
                stop = min(start + step, table.n_spots)
                if needed is not None:
                    low, high = np.searchsorted(needed, (first + start, first + stop))
                    if low == high:
                        continue
                yield number, slice(first + start, first + stop), self._read(number, table, start, stop)
            first += table.n_spots

    def _read(self, number: int, table: TableHandle, start: int, stop: int) -> Any:
        if self._loadings is not None:
            key, loadings = self._loadings
            if key not in table.keys("obsm"):
                return np.full((stop - start, len(self.genes)), np.nan, np.float32)
            factors = np.asarray(table.obsm_rows(key, start, stop), np.float64)
            return (factors @ np.nan_to_num(loadings).T).astype(np.float32)
        if self.source is None:
            rows = table.counts.read(start, stop)
            data = _log_normalised(rows)
        else:
            rows = layer_of(table, self.source).counts.read(start, stop)
            data = rows.data.astype(np.float32)
        return picked(Csr(rows.indptr, rows.indices, data, rows.n_cols), self.columns[number])

    def take(self, wanted: np.ndarray) -> scipy.sparse.csr_matrix:
        """Return the values of some spots, ascending, none twice; reads the runs that hold one."""
        import scipy.sparse

        parts = []
        for _, run, rows in self.runs(wanted):
            low, high = np.searchsorted(wanted, (run.start, run.stop))
            parts.append(scipy.sparse.csr_matrix(rows)[wanted[low:high] - run.start])
        return scipy.sparse.vstack(parts).tocsr()

    def dense_runs(self) -> Iterator[tuple[int, slice, np.ndarray]]:
        """Yield as :meth:`runs` does, values written out."""
        for number, run, values in self.runs():
            yield number, run, values if isinstance(values, np.ndarray) else written_out(values)


def written_out(matrix: Any) -> np.ndarray:
    """Write a small sparse matrix out, such as a run of few genes or sums by group.

    Parameters
    ----------
    matrix
        scipy sparse, shape (n, k).
    """
    from atlasnmf.kernels.cpu.dense import fill_dense

    rows = matrix.tocsr()
    out = np.empty(rows.shape, rows.dtype)
    fill_dense(rows.indptr, rows.indices, rows.data, out)
    return out


def _log_normalised(rows: Csr) -> np.ndarray:
    owner = np.repeat(np.arange(rows.n_rows), np.diff(rows.indptr))
    totals = np.bincount(owner, weights=rows.data, minlength=rows.n_rows)
    return log_normalise(rows.indptr, rows.data, totals, TARGET_SUM)


def picked(rows: Csr, columns: np.ndarray) -> scipy.sparse.csr_matrix:
    """Return chosen columns; those at -1 are empty."""
    import scipy.sparse

    place = np.full(rows.n_cols, -1, np.int64)
    place[columns[columns >= 0]] = np.flatnonzero(columns >= 0)
    at = place[rows.indices]
    kept = at >= 0
    owner = np.repeat(np.arange(rows.n_rows), np.diff(rows.indptr))[kept]
    values = (rows.data[kept], (owner, at[kept]))
    found = scipy.sparse.coo_matrix(values, shape=(rows.n_rows, len(columns))).tocsr()
    found.sort_indices()
    return found


def layer_of(table: TableHandle, layer: str) -> TableHandle:
    """Return a table with a layer in place of its counts.

    Raises
    ------
    BadInput
        It has no such layer; names the nearest.
    """
    if layer not in table.keys("layers"):
        raise BadInput(no_such("layer", layer, table.keys("layers"), f"table {table.name!r}"))
    if isinstance(table, StoredTable):
        return StoredTable(table.path, layer)
    assert isinstance(table, MemoryTable)
    return MemoryTable(table.adata, table.name, layer)


def gene_values(
    atlas: Atlas,
    genes: Sequence[str] | None = None,
    source: str | None = None,
    *,
    tables: Sequence[TableHandle] | None = None,
) -> GeneValues:
    """Return values of genes.

    Parameters
    ----------
    atlas
        The atlas.
    genes
        Names; all when not given.
    source
        As in :class:`GeneValues`.
    tables
        Some of its tables; all when not given.

    Raises
    ------
    BadOption
        No table has such a gene, layer or result; names the nearest.
    """
    chosen = tuple(atlas.tables if tables is None else tables)
    known = set(atlas.genes)
    wanted = tuple(atlas.genes) if genes is None else tuple(str(gene) for gene in genes)
    for gene in wanted:
        if gene not in known:
            raise BadOption(no_such("gene", gene, atlas.genes, atlas.name))
    values = GeneValues(atlas, chosen, wanted, source)
    if source is not None and any(source in table.keys("layers") for table in chosen):
        for table in chosen:
            layer_of(table, source)
    elif source is not None:
        _require_result(atlas, source)
    return values


def _require_result(atlas: Atlas, source: str) -> None:
    results = {n.removesuffix(s) for n in atlas.keys("obsm") for s in factor_ends() if n.endswith(s)}
    if source not in results:
        known = sorted(results.union(atlas.keys("layers")))
        raise BadOption(no_such("layer or result", source, known, atlas.name))
