"""Patterns and coefficients as a fit left them in a store, their graph, and the values they explain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.analysis.spots import spots_of, tables_with
from atlasnmf.errors import BadInput, BadOption
from atlasnmf.graph.build import slice_graph, symmetric_union
from atlasnmf.graph.grid import grid_graph
from atlasnmf.kernels.cpu.lognorm import log_normalise
from atlasnmf.result_names import factor_key, first_of, weight_ends
from atlasnmf.schema import Csr
from atlasnmf.store.atlas import opened
from atlasnmf.store.names import no_such

if TYPE_CHECKING:
    from atlasnmf.store.atlas import Atlas, AtlasLike
    from atlasnmf.store.tables import TableHandle

__all__ = ["StoredPatterns", "stored_patterns"]

#: Rows of a run at most, and bytes of one written out.
_BLOCK_ROWS, _BLOCK_BYTES = 8_192, 1 << 26


@dataclass(frozen=True)
class StoredPatterns:
    """The result of a fit, read back.

    Parameters
    ----------
    atlas
        Where it is stored.
    key
        Name of the result.
    obsm_key
        Where its patterns are.
    tables
        The tables that have it; spots are theirs, one table after the other.
    patterns
        Shape (n, K), NaN rows for spots left out.
    """

    atlas: Atlas
    key: str
    obsm_key: str
    tables: tuple[TableHandle, ...]
    patterns: np.ndarray

    @property
    def names(self) -> list[str]:
        """Names of the tables."""
        return [table.name for table in self.tables]

    @property
    def n_patterns(self) -> int:
        """Number of patterns."""
        return self.patterns.shape[1]

    @cached_property
    def finite(self) -> np.ndarray:
        """Which spots have patterns, bool, shape (n,)."""
        return np.isfinite(self.patterns).all(axis=1)

    @cached_property
    def spots(self) -> np.ndarray:
        """Number of each spot in the atlas, int64, shape (n,)."""
        return spots_of(self.atlas, self.tables)

    @cached_property
    def _loadings(self) -> tuple[tuple[str, ...], np.ndarray]:
        rows: dict[str, np.ndarray] = {}
        for table in self.tables:
            name = first_of(self.key, (*weight_ends(), ""), table.keys("varm"))
            if name is None:
                continue
            found = np.asarray(table.varm(name), np.float64)
            if found.shape[1] != self.n_patterns:
                raise BadInput(
                    f"varm[{name!r}] has {found.shape[1]} columns for {self.n_patterns} patterns; fit again"
                )
            for gene, row in zip(table.var_names(), found, strict=True):
                if str(gene) not in rows or not np.isfinite(rows[str(gene)]).all():
                    rows[str(gene)] = row
        if not rows:
            known = sorted({name for table in self.tables for name in table.keys("varm")})
            raise BadInput(no_such("varm key", f"{self.key}_coefficients", known, self.atlas.name))
        return tuple(rows), np.stack(list(rows.values()))

    @property
    def genes(self) -> tuple[str, ...]:
        """Names of the genes of all tables."""
        return self._loadings[0]

    @property
    def coefficients(self) -> np.ndarray:
        """Shape (G, K), float64, NaN rows for genes outside the model."""
        return self._loadings[1]

    def record(self) -> Mapping[str, Any]:
        """Return what the fit left in ``uns``; nothing when it left nothing."""
        for table in self.tables:
            if self.key in table.keys("uns"):
                found = table.uns(self.key)
                return found if isinstance(found, Mapping) else {}
        return {}

    def graph(self, *, n_neighbors: int = 6) -> Csr:
        """Return which spots touch: voxels that share a face, other spots their nearest of the same slice.

        Parameters
        ----------
        n_neighbors
            Of spots that are no voxels; made symmetric.

        Returns
        -------
        Csr
            n rows and n columns, no spot its own neighbour; slices and tables are not joined.
        """
        import scipy.sparse

        codes = self.atlas.slice_codes()[self.spots]
        rows, columns, start = [], [], 0
        for table in self.tables:
            own = codes[start : start + table.n_spots]
            on_grid = "voxel" in table.keys("obsm")
            places = table.obsm("voxel") if on_grid else self.atlas.coordinates_of(table)
            for code in np.unique(own):
                here = np.flatnonzero(own == code)
                graph = (
                    grid_graph(places[here])
                    if on_grid
                    else symmetric_union(slice_graph(places[here], n_neighbors=n_neighbors))
                )
                ends = np.repeat(here, np.diff(graph.indptr)), here[graph.indices]
                apart = ends[0] != ends[1]
                rows.append(ends[0][apart] + start)
                columns.append(ends[1][apart] + start)
            start += table.n_spots
        ends = np.concatenate(rows), np.concatenate(columns)
        joined = scipy.sparse.csr_matrix((np.ones(len(ends[0]), np.uint8), ends), shape=(start, start))
        return Csr.from_scipy(joined)

    def obs_column(self, column: str) -> np.ndarray:
        """Return an obs column over all spots as objects, None where it is missing.

        Raises
        ------
        BadInput
            A table does not have it.
        """
        import pandas as pd

        parts = []
        for table in self.tables:
            if column not in table.obs_columns():
                raise BadInput(no_such("obs column", column, table.obs_columns(), f"table {table.name!r}"))
            values = pd.Series(table.obs_column(column)).astype(object)
            parts.append(values.where(values.notna(), None).to_numpy())
        return np.concatenate(parts)

    def values(self, transform: str | None = None, target_sum: float | None = None) -> Iterator[Csr]:
        """Yield the values that were factorised, run by run over all spots.

        Parameters
        ----------
        transform
            ``"none"``, or ``"log"`` (counts per ``target_sum``, log1p); what the fit noted when not given.
        target_sum
            What the fit noted, or 10^4, when not given.

        Yields
        ------
        Csr
            Columns are :attr:`genes`; those outside the model are left empty.
        """
        noted = self.record()
        kind = transform or str(noted.get("transform", "none"))
        if transform not in (None, "log", "none"):
            raise BadOption(f"no transform {transform!r} of the values; choose log or none")
        scale = float(target_sum or noted.get("target_sum", 1e4))
        place = {gene: column for column, gene in enumerate(self.genes)}
        in_model = np.isfinite(self.coefficients).all(axis=1)
        step = min(max(_BLOCK_BYTES // (8 * len(place)), 64), _BLOCK_ROWS)
        for table in self.tables:
            columns = np.array([place[str(gene)] for gene in table.var_names()], np.int64)
            for start in range(0, table.n_spots, step):
                rows = table.counts.read(start, min(start + step, table.n_spots))
                yield _transformed(rows, columns, in_model, kind, scale)


def _transformed(rows: Csr, columns: np.ndarray, in_model: np.ndarray, kind: str, scale: float) -> Csr:
    kept = in_model[columns[rows.indices]]
    owner = np.repeat(np.arange(rows.n_rows), np.diff(rows.indptr))[kept]
    indptr = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=rows.n_rows))]).astype(np.int64)
    indices, data = columns[rows.indices[kept]], rows.data[kept]
    if kind == "log":
        totals = np.bincount(owner, weights=data, minlength=rows.n_rows)
        data = log_normalise(indptr, data, np.maximum(totals, 1e-300), scale)
    # columns of a table follow each other as the genes of the first table do, not always upwards
    return Csr.from_scipy(Csr(indptr, indices, data.astype(np.float64), len(in_model)).to_scipy())


def stored_patterns(atlas: AtlasLike, key: str = "stanmf") -> StoredPatterns:
    """Read the patterns of a fit.

    Parameters
    ----------
    atlas
        An open atlas, the path of a store, or data in memory.
    key
        Name of a result (``"stanmf"`` stands for ``obsm["stanmf_patterns"]`` and
        ``varm["stanmf_coefficients"]``, ``"inspire"`` for its factors and loadings), or an obsm key.

    Raises
    ------
    BadInput
        No table has such patterns.
    """
    found = opened(atlas)
    stored = factor_key(found, key)
    tables = tables_with(found, "obsm", stored)
    patterns = np.concatenate([np.asarray(table.obsm(stored), np.float32) for table in tables])
    return StoredPatterns(found, key, stored, tuple(tables), patterns)
