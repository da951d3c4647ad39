"""A lazy handle on the user's store: slices, spots, genes, positions; counts are never loaded."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.store.coordinates import Elements, coordinates_from, coordinates_of
from atlasnmf.store.fingerprint import digest_array, memory_hashes, stored_hashes
from atlasnmf.store.imputed import Imputed, imputed
from atlasnmf.store.locks import StoreLock
from atlasnmf.store.names import no_such
from atlasnmf.store.paths import working_path
from atlasnmf.store.slices import SliceInfo, refuse_empty_levels, slice_column, slices_of
from atlasnmf.store.tables import StoredTable, TableHandle, repeated, twice_in

__all__ = ["Atlas", "SliceInfo"]


class Atlas:
    """Tables read as one: spots are the tables' rows one table after the other, in the user's order.

    Made by :func:`open_atlas`.

    Parameters
    ----------
    tables
        The tables, in order.
    path
        The store, or None for data in memory.
    elements
        Shapes and points, or None.
    slice_key
        obs column with the slice of each spot; None makes a table (or a region it annotates) a slice.
    layer, coordinate_system, spatial_key
        As in :func:`open_atlas`.
    source
        What the user gave.
    """

    def __init__(
        self,
        tables: Sequence[TableHandle],
        *,
        path: Path | None,
        elements: Elements | None,
        slice_key: str | None,
        layer: str | None,
        coordinate_system: str,
        spatial_key: str,
        source: Any = None,
        only: Sequence[str] | None = None,
        alone: bool | None = None,
    ) -> None:
        self.tables = tuple(tables)
        #: Whether a table may be cut into the regions it annotates: the only one of its store.
        self.alone = len(self.tables) == 1 if alone is None else alone
        #: Names of the slices that make the atlas, in this order; None for all.
        self.only = None if only is None else tuple(only)
        self.path = path
        self.elements = elements
        self.slice_key = slice_key
        self.layer = layer
        self.coordinate_system = coordinate_system
        self.spatial_key = spatial_key
        self.source = source
        #: Directory of the working copy of an atlas in memory; made when needed, gone with the atlas.
        self.scratch = Path(tempfile.gettempdir()) / f"atlasnmf-{uuid.uuid4().hex[:12]}"
        #: ``with atlas.lock(): ...`` keeps other writers out.
        self.lock = StoreLock((working_path(path) if path else self.scratch) / "lock")

    @property
    def name(self) -> str:
        """Name for messages: the store's path, or ``the AnnData``."""
        return str(self.path) if self.path else f"the {type(self.source).__name__}"

    @property
    def n_spots(self) -> int:
        """Spots of all tables."""
        return sum(table.n_spots for table in self.tables)

    @property
    def n_slices(self) -> int:
        """Number of slices."""
        return len(self.slices)

    @cached_property
    def table_offsets(self) -> np.ndarray:
        """First spot of every table and the total, int64, shape (n_tables + 1,)."""
        return np.cumsum([0, *(table.n_spots for table in self.tables)], dtype=np.int64)

    def table_spots(self) -> Iterator[tuple[TableHandle, slice]]:
        """Yield every table with the run of the atlas's spots that are its own."""
        for table, start in zip(self.tables, self.table_offsets.tolist(), strict=False):
            yield table, slice(start, start + table.n_spots)

    def keys(self, group: str) -> list[str]:
        """Return the names that any table has in obs, obsm, varm, layers or uns, sorted."""
        return sorted(set().union(*(table.keys(group) for table in self.tables)))

    def table(self, name: str) -> TableHandle:
        """Return a table by name."""
        for table in self.tables:
            if table.name == name:
                return table
        raise BadOption(no_such("table", name, [table.name for table in self.tables], self.name))

    def has_table(self, name: str) -> bool:
        """Whether the store has a table of this name, part of the atlas or not."""
        if self.path is not None:
            return (self.path / "tables" / name).exists()
        return name in getattr(self.source, "tables", {table.name: None for table in self.tables})

    @cached_property
    def genes(self) -> tuple[str, ...]:
        """Genes of all tables: those of the first table in its order, then those only later ones have.

        Raises
        ------
        BadInput
            A table has a gene twice.
        """
        union: dict[str, None] = {}
        for table in self.tables:
            names = table.var_names()
            twice = twice_in(names)
            if twice is not None:
                raise BadInput(
                    f"gene {twice!r} occurs more than once in table {table.name!r}; "
                    "make the names unique (adata.var_names_make_unique())"
                )
            union.update(dict.fromkeys(str(name) for name in names))
        return tuple(union)

    @cached_property
    def _slicing(self) -> tuple[tuple[SliceInfo, ...], np.ndarray]:
        infos: list[SliceInfo] = []
        empty: dict[str, str] = {}
        codes = np.empty(self.n_spots, dtype=np.int32)
        for table, spots in self.table_spots():
            column = slice_column(table, self.slice_key, alone=self.alone)
            table_infos, table_codes, levels = slices_of(table, column)
            empty |= dict.fromkeys(levels, table.name)
            codes[spots] = table_codes + len(infos)
            infos += table_infos
        refuse_empty_levels(empty, infos, column)
        names = [info.name for info in infos]
        if len(set(names)) != len(names):
            infos = [SliceInfo(f"{info.table}:{info.name}", info.table, info.n_spots) for info in infos]
        if self.only is not None:
            place = {name: at for at, name in enumerate(self.only)}
            new = np.array([place.get(info.name, -1) for info in infos], dtype=np.int32)
            codes = new[codes]
            infos = sorted((info for info in infos if info.name in place), key=lambda info: place[info.name])
        return tuple(infos), codes

    @property
    def slices(self) -> tuple[SliceInfo, ...]:
        """The slices, in order of tables and then of the slice column's categories.

        Raises
        ------
        BadInput
            A slice has no spots, or a spot has no slice.
        """
        return self._slicing[0]

    def slice_codes(self) -> np.ndarray:
        """Return the slice of every spot, -1 for those of no slice of the atlas, int32, shape (n_spots,)."""
        return self._slicing[1]

    def coordinates(self) -> np.ndarray:
        """Return the positions of all spots, read anew at every call.

        Returns
        -------
        coordinates
            float64, shape (n_spots, 2 or 3), in the unit of the coordinate system.

        Raises
        ------
        BadInput
            There are none, or some are NaN or missing.
        """
        parts = [self.coordinates_of(table) for table in self.tables]
        n_axes = {part.shape[1] for part in parts}
        if len(n_axes) > 1:
            by_table = ", ".join(f"{t.name} {p.shape[1]}" for t, p in zip(self.tables, parts, strict=True))
            raise BadInput(f"tables have positions of 2 and of 3 dimensions ({by_table}); use them apart")
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def coordinates_of(self, table: TableHandle) -> np.ndarray:
        """Return the positions of one table's spots, float64, shape (n_table_spots, 2 or 3)."""
        return coordinates_of(table, self.elements, self.coordinate_system, self.spatial_key)

    def coordinates_source(self, table: TableHandle) -> str:
        """Say where the positions of a table come from."""
        source = coordinates_from(table, self.elements, self.coordinate_system, self.spatial_key)
        if isinstance(source, str):
            return f"obsm[{source!r}]"
        return f"{', '.join(source.regions)} (coordinate system {self.coordinate_system!r})"

    def imputed(self, genes: str | Sequence[str], *, key: str = "siid") -> Imputed:
        """Return genes in the cells of a fitted pair's fine slice, computed from the factors when read.

        Parameters
        ----------
        genes
            Names of genes that the coarse slice has.
        key
            Name of the result.

        Returns
        -------
        imputed
            ``imputed.read(start, stop)``, ``imputed.blocks()`` or ``np.asarray(imputed)`` compute mean
            counts, float32, rows in the user's order.

        Raises
        ------
        BadInput
            No pair was fitted under this name.
        BadOption
            A gene was not fitted.
        """
        return imputed(self.tables, genes, key, where=self.name)

    def check(self) -> None:
        """Look at everything but the values of the counts; reads names and positions.

        Raises
        ------
        BadInput
            Duplicated gene or spot names, NaN or missing coordinates, a slice without spots.
        """
        self.genes  # noqa: B018 - raises on duplicates
        self.slices  # noqa: B018
        for table in self.tables:
            counts = table.counts
            if (counts.n_rows, counts.n_cols) != (table.n_spots, table.n_genes):
                raise BadInput(
                    f"{counts.where} is {counts.n_rows} x {counts.n_cols} but the table has "
                    f"{table.n_spots} spots and {table.n_genes} genes; write the table anew"
                )
            twice = repeated(table.iter_obs_names)
            if twice is not None:
                raise BadInput(
                    f"spot {twice!r} occurs more than once in table {table.name!r}; "
                    "make the names unique (adata.obs_names_make_unique())"
                )
        self.coordinates()

    def source_options(self) -> dict[str, Any]:
        """Return the options that open this atlas again, plain data."""
        return {
            "tables": [table.name for table in self.tables],
            "slice_key": self.slice_key,
            "layer": self.layer,
            "coordinate_system": self.coordinate_system,
            "spatial_key": self.spatial_key,
            **({} if self.only is None else {"slices": list(self.only)}),
        }

    def fingerprint(self) -> str:
        """Return one hash of the inputs: counts, positions, slices and names; results do not change it."""
        return digest_array([f"{key}={value}" for key, value in sorted(self.fingerprint_parts().items())])

    def fingerprint_parts(self) -> dict[str, str]:
        """Return a hash for each part of the input, by a name that says what it is."""
        options = self.source_options()
        named = ("tables", "slice_key", "layer", "coordinate_system", "slices")
        parts = {name: str(options[name]) for name in named if name in options}
        for table in self.tables:
            source = coordinates_from(table, self.elements, self.coordinate_system, self.spatial_key)
            column = slice_column(table, self.slice_key, alone=self.alone)
            if isinstance(table, StoredTable):
                found = stored_hashes(table, column, source)
            else:
                found = memory_hashes(table, column, self.coordinates_of(table))
            parts |= {f"{what} of {table.name}": value for what, value in found.items()}
        return parts

    def __repr__(self) -> str:
        slices = ", ".join(f"{info.name} ({info.n_spots})" for info in self.slices[:6])
        more = ", …" if self.n_slices > 6 else ""
        several = "" if self.n_slices == 1 else "s"
        return f"Atlas({self.name}: {self.n_spots} spots, {self.n_slices} slice{several}: {slices}{more})"
