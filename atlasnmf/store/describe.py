"""What a store holds: slices, spots, genes, results, and what its working copy has and takes."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atlasnmf.budget import format_bytes
from atlasnmf.errors import AtlasError
from atlasnmf.store.atlas import result_tables
from atlasnmf.store.handle import Atlas
from atlasnmf.store.slices import SliceInfo
from atlasnmf.store.tables import TableHandle
from atlasnmf.store.working import WorkingCopy

__all__ = ["Description", "StageInfo", "describe", "find_results"]

_GROUPS = ("obs", "obsm", "varm", "layers")


@dataclass(frozen=True)
class StageInfo:
    """One line of the ledger.

    Parameters
    ----------
    name, status
        Name; ``running`` or ``done``.
    seconds
        What it took, 0 while running.
    when
        Local time of its start or end.
    """

    name: str
    status: str
    seconds: float
    when: str


@dataclass(frozen=True)
class Description:
    """What a store holds.

    Parameters
    ----------
    name
        The store.
    slices, slice_key
        Slices with their tables and spots, and the obs column that names them; None where tables or their
        regions are the slices.
    n_spots, n_genes, nnz
        Spots, genes of all tables, stored counts.
    counts
        Where the counts are and how they are stored, by table.
    coordinates
        Where the positions come from, by table.
    counts_bytes
        Decoded size of the counts.
    results
        Keys of our results by table: ``{table: {key: {group: [keys]}}}``.
    tables
        Tables that fits and analyses wrote, such as matches.
    stages
        Stages of the working copy, in order.
    interrupted
        Model of a fit that can be resumed, or None.
    working_path, working_bytes
        The working copy and its bytes on disk by name.
    """

    name: str
    slices: tuple[SliceInfo, ...]
    n_spots: int
    n_genes: int
    nnz: int
    counts: dict[str, str]
    coordinates: dict[str, str]
    counts_bytes: int
    results: dict[str, dict[str, dict[str, list[str]]]]
    slice_key: str | None = None
    tables: tuple[str, ...] = ()
    stages: tuple[StageInfo, ...] = ()
    interrupted: str | None = None
    working_path: Path | None = None
    working_bytes: dict[str, int] = field(default_factory=dict)

    @property
    def _quoted(self) -> str:
        return shlex.quote(self.name)

    def record(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "store": self.name,
            "slice_key": self.slice_key,
            "slices": [{"name": s.name, "table": s.table, "n_spots": s.n_spots} for s in self.slices],
            "n_spots": self.n_spots,
            "n_genes": self.n_genes,
            "nnz": self.nnz,
            "counts": self.counts,
            "coordinates": self.coordinates,
            "counts_bytes": self.counts_bytes,
            "results": self.results,
            "tables": list(self.tables),
            "stages": [vars(stage) for stage in self.stages],
            "interrupted": self.interrupted,
            "working_copy": str(self.working_path) if self.working_path else None,
            "working_bytes": self.working_bytes,
        }

    def lines(self) -> list[str]:
        """Return lines for people."""
        return [*self._data_lines(), "", *self._result_lines(), "", *self._working_lines()]

    def _data_lines(self) -> list[str]:
        density = self.nnz / max(self.n_spots, 1)
        by = f" by obs[{self.slice_key!r}]" if self.slice_key else ""
        several = "s" if len(self.slices) != 1 else ""
        width = max((len(info.name) for info in self.slices), default=0)
        digits = len(f"{max((info.n_spots for info in self.slices), default=0):,}")
        lines = [
            self.name,
            f"  {self.n_spots:,} spots, {self.n_genes:,} genes, {len(self.slices):,} slice{several}{by}; "
            f"{density:,.0f} stored counts a spot, {format_bytes(self.counts_bytes)} when read",
        ]
        for info in self.slices:
            table = "" if info.table == info.name else f"  in table {info.table}"
            lines.append(f"    {info.name:<{width}}  {info.n_spots:>{digits},} spots{table}")
        where = {name: f"{self.counts[name]}; {place}" for name, place in self.coordinates.items()}
        return lines + [f"  {text}{_tables(names)}" for text, names in _grouped(where, self._wording).items()]

    def _wording(self, table: str, text: str) -> str:
        """Leave the table's name out of what is the same for all."""
        return text.replace(f" of table {table!r}", "")

    def _result_lines(self) -> list[str]:
        if not self.results:
            return [
                "no results",
                f"  make some: atlasnmf fit MODEL {self._quoted}   (models: atlasnmf fit --help)",
            ]
        said = {
            (table, key): ", ".join(f"{group}[{name!r}]" for group, names in groups.items() for name in names)
            for table, results in self.results.items()
            for key, groups in results.items()
        }
        lines = ["results"]
        for key in dict.fromkeys(key for _, key in said):
            own = {table: text or "uns only" for (table, name), text in said.items() if name == key}
            for text, names in _grouped(own, lambda _, text: text).items():
                lines.append(f"  {key}: {text}{_tables(names)}")
        lines += [f"  tables: {', '.join(self.tables)}"] * bool(self.tables)
        return [*lines, f"  look at them: atlasnmf report {self._quoted} -o report.html"]

    def _working_lines(self) -> list[str]:
        if self.working_path is None:
            return ["no working copy"]
        total = format_bytes(sum(self.working_bytes.values()))
        lines = [f"working copy {self.working_path}: {total}"]
        width = max((len(stage.name) for stage in self.stages), default=0)
        for stage in self.stages:
            when = stage.when[:16].replace("T", " ")
            lines.append(
                f"  {stage.name:<{width}}  {stage.status}  {stage.seconds:>8,.1f} s  {when}".rstrip()
            )
        if self.interrupted:
            again = f"atlasnmf resume {self._quoted}"
            lines.append(f"{self.interrupted} was interrupted and can go on: {again}")
        return lines


def _grouped(said: Mapping[str, str], wording: Callable[[str, str], str]) -> dict[str, list[str]]:
    """Return what is said of tables, each text once with the tables it is true of."""
    groups: dict[str, list[str]] = {}
    for table, text in said.items():
        groups.setdefault(wording(table, text), []).append(table)
    return groups


def _tables(names: Sequence[str]) -> str:
    """Name one table, or count them.

    Examples
    --------
    >>> _tables(["slice_1"]), _tables(["slice_1", "slice_2"])
    ('  (slice_1)', '  (2 tables)')
    """
    return f"  ({names[0]})" if len(names) == 1 else f"  ({len(names):,} tables)"


def find_results(table: TableHandle) -> dict[str, dict[str, list[str]]]:
    """Return our results in a table: the keys of obs, obsm, varm and layers written with each uns key."""
    found: dict[str, dict[str, list[str]]] = {}
    for key in table.keys("uns"):
        entry = table.uns(key) if "written" in table.uns_keys(key) else None
        if entry is None:
            continue
        written = entry["written"]
        found[key] = {group: [str(name) for name in written[group]] for group in _GROUPS if group in written}
    return found


def describe(atlas: Atlas, work_dir: Path | str | None = None) -> Description:
    """Gather what there is to say about an atlas; nothing is changed and no counts are read.

    Parameters
    ----------
    atlas
        The atlas.
    work_dir
        Place of the working copy when not beside the store.
    """
    copies = WorkingCopy.find_all(atlas.path, work_dir) if atlas.path else []
    working = copies[0] if copies else None
    noted = [fit for copy in copies if (fit := copy.ledger.interrupted_fit()) is not None]
    interrupted = max(noted, key=lambda fit: fit["when"])["model"] if noted else None
    results = {table.name: find_results(table) for table in atlas.tables}
    return Description(
        name=atlas.name,
        slices=atlas.slices,
        n_spots=atlas.n_spots,
        n_genes=len(atlas.genes),
        nnz=sum(table.counts.nnz for table in atlas.tables),
        counts={table.name: _counts(table) for table in atlas.tables},
        coordinates={table.name: _positions(atlas, table) for table in atlas.tables},
        counts_bytes=sum(table.counts.nbytes for table in atlas.tables),
        results={name: found for name, found in results.items() if found},
        slice_key=atlas.slice_key,
        tables=tuple(result_tables(atlas)),
        stages=tuple(stage for copy in copies for stage in _stages(copy, others=copy is not working)),
        interrupted=interrupted,
        working_path=working.path if working else None,
        working_bytes=working.nbytes_stored() if working else {},
    )


def _stages(working: WorkingCopy, *, others: bool) -> Iterator[StageInfo]:
    """Go over the stages of a working copy; of others than the first only over the fits, and say of what."""
    source = working.facts()["source"]
    of = f" of {', '.join(source.get('slices') or source['tables'])}" if others else ""
    for name, entry in working.ledger.stages().items():
        if not others or name.startswith("fit "):
            seconds = float(entry.get("seconds", 0.0))
            yield StageInfo(name + of, entry["status"], seconds, entry.get("when", ""))


def _counts(table: TableHandle) -> str:
    return f"counts in {table.counts.where}, {table.counts.layout} {table.counts.dtype}"


def _positions(atlas: Atlas, table: TableHandle) -> str:
    try:
        return f"positions in {atlas.coordinates_source(table)}"
    except AtlasError as error:
        return str(error)
