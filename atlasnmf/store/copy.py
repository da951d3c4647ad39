"""Counts from the user's row order to (slice, Hilbert) order in one sequential pass, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np

from atlasnmf.errors import BadOption
from atlasnmf.events import SILENT, Events
from atlasnmf.kernels.cpu.rows import select_columns, take_rows
from atlasnmf.schema import Csr
from atlasnmf.store.columns import readable_counts
from atlasnmf.store.counts import CountSource
from atlasnmf.store.handle import Atlas
from atlasnmf.store.landing import PART_ROWS, Part, plan_parts
from atlasnmf.store.parts import PartedCsr, smallest_counts
from atlasnmf.store.spill import Spill
from atlasnmf.store.tables import TableHandle
from atlasnmf.store.working import WorkingCopy

__all__ = ["copy_counts", "part_rows_for"]

#: What a part may take decoded; fixed, so that a restart under another budget finds the same parts.
_PART_BYTES = 64 * 10**6
#: Bytes of a stored value while a block is read, renumbered and sorted to parts.
_BYTES_A_VALUE = 32


def part_rows_for(nnz_a_row: float) -> int:
    """Return the rows of a part: 32768, or fewer where rows are so full that a part would pass 64 MB.

    Examples
    --------
    >>> part_rows_for(200), part_rows_for(3000)
    (32768, 4096)
    """
    fits = max(_PART_BYTES / (4 * max(nnz_a_row, 1.0)), 256)
    return int(min(PART_ROWS, 2 ** int(np.log2(fits))))


def copy_counts(
    atlas: Atlas,
    working: WorkingCopy,
    order: np.ndarray,
    offsets: np.ndarray,
    *,
    genes: Sequence[str] | None = None,
    name: str = "counts",
    key: str = "",
    budget_bytes: int = 256 * 10**6,
    n_workers: int = 1,
    sources: Mapping[str, CountSource] | None = None,
    events: Events = SILENT,
) -> PartedCsr:
    """Copy counts to the working copy, rows sorted as ``order`` says.

    Parameters
    ----------
    atlas, working
        From where, to where.
    order
        Spot of the atlas for every working row, int64, shape (n_kept,).
    offsets
        First working row of every slice and the total, shape (S + 1,). A slice lies in one table.
    genes
        Names of the columns; all genes of the atlas when not given.
    name, key
        Name of the rows in the working copy, and a fingerprint of what they depend on: parts landed under
        the same key are kept, under another all are made anew.
    budget_bytes
        Memory to use beside ``order`` and its inverse.
    n_workers
        Threads.
    sources
        Counts by table where they are not the table's own (see
        :func:`~atlasnmf.store.columns.readable_counts`).
    events
        Told of every block of spots read.

    Notes
    -----
    The store is read front to back. Rows go to the part they belong to, in memory and beyond half the
    budget to files, and every part is sorted and landed by itself: no random reads. One table at a time;
    a table with no missing part is not read again.
    """
    columns = tuple(genes) if genes is not None else atlas.genes
    nnz = sum(table.counts.nnz for table in atlas.tables)
    parts = plan_parts(offsets, part_rows_for(nnz / max(atlas.n_spots, 1)))
    rows = working.create_csr(name, parts, n_cols=len(columns), key=key)
    missing = {part.index for part in rows.missing()}
    if not missing:
        return rows
    working.sweep()
    share = len(order) / max(atlas.n_spots, 1)
    working.require_disk(int(6 * nnz * share), "the working copy of the counts")
    place = _inverse(order, atlas.n_spots)
    place_of_gene = {gene: i for i, gene in enumerate(columns)}
    with events.stage("copy counts", total=atlas.n_spots) as advance:
        for table, own in atlas.table_spots():
            spots = place[own]
            wanted = _parts_of(rows, spots, missing)
            if not wanted:
                advance(table.n_spots)
                continue
            counts = (sources or {}).get(table.name) or readable_counts(
                table, working, budget_bytes=budget_bytes
            )
            lut = np.array([place_of_gene.get(str(gene), -1) for gene in table.var_names()], dtype=np.int32)
            if len(lut) and lut.max() < 0:
                raise BadOption(
                    f"table {table.name!r} has none of the genes to copy; leave it out by --tables"
                )
            job = _TableCopy(table, counts, spots, lut, rows, wanted)
            for n_rows in job.run(working, budget_bytes, n_workers):
                advance(n_rows)
    return rows


def _inverse(order: np.ndarray, n_spots: int) -> np.ndarray:
    place = np.full(n_spots, -1, dtype=np.int32 if len(order) < 2**31 else np.int64)
    place[order] = np.arange(len(order), dtype=place.dtype)
    return place


def _parts_of(rows: PartedCsr, places: np.ndarray, missing: set[int]) -> list[Part]:
    kept = places[places >= 0]
    if not kept.size:
        return []
    lowest, highest = int(kept.min()), int(kept.max())
    return [
        part for part in rows.parts if part.index in missing and part.start <= highest and part.stop > lowest
    ]


@dataclass(frozen=True)
class _TableCopy:
    """One table on its way: its rows' working places, the new columns, the parts still missing."""

    table: TableHandle
    counts: CountSource
    places: np.ndarray
    lut: np.ndarray
    rows: PartedCsr
    wanted: list[Part]

    def run(self, working: WorkingCopy, budget_bytes: int, n_workers: int) -> Iterator[int]:
        """Copy; yields the number of spots of every block read."""
        nnz_a_row = max(self.counts.nnz / max(self.counts.n_rows, 1), 1.0)
        most = int(budget_bytes / (4 * n_workers * _BYTES_A_VALUE * nnz_a_row))
        block_rows = min(max(most, 64), PART_ROWS)
        with (
            Spill(working.path, len(self.wanted), budget_bytes // 2) as spill,
            ThreadPoolExecutor(n_workers, thread_name_prefix="copy") as pool,
        ):
            waiting: set[Future[None]] = set()
            for start in range(0, self.counts.n_rows, block_rows):
                stop = min(start + block_rows, self.counts.n_rows)
                if (self.places[start:stop] >= 0).any():
                    block = self.counts.read(start, stop)
                    waiting.add(pool.submit(self._scatter, block, start, spill))
                    waiting = _drain(waiting, n_workers)
                yield stop - start
            _drain(waiting, 0)
            waiting = set()
            for bucket in range(len(self.wanted)):
                waiting.add(pool.submit(self._land, bucket, spill))
                waiting = _drain(waiting, n_workers)
            _drain(waiting, 0)

    def _scatter(self, block: Csr, start: int, spill: Spill) -> None:
        places = self.places[start : start + block.n_rows]
        bounds = np.array([part.stop for part in self.wanted])
        bucket = np.searchsorted(bounds, places, side="right")
        inside = bucket < len(self.wanted)
        begins = np.array([part.start for part in self.wanted])
        inside &= places >= begins[np.minimum(bucket, len(self.wanted) - 1)]
        chosen = np.flatnonzero(inside)
        chosen = chosen[np.argsort(bucket[chosen], kind="stable")]
        parts = block.indptr, block.indices, smallest_counts(block.data)
        if not np.array_equal(self.lut, np.arange(len(self.lut))):
            parts = select_columns(*parts, self.lut)
        narrow = np.uint16 if self.rows.n_cols <= 2**16 else np.uint32
        indptr, indices, data = take_rows(parts[0], parts[1].astype(narrow, copy=False), parts[2], chosen)
        lengths = np.diff(indptr)
        edges = np.searchsorted(bucket[chosen], np.arange(len(self.wanted) + 1))
        for i in np.flatnonzero(np.diff(edges)).tolist():
            lo, hi = edges[i], edges[i + 1]
            span = slice(indptr[lo], indptr[hi])
            # copies: a view would keep the whole block alive while it waits
            spill.add(
                i, places[chosen[lo:hi]], lengths[lo:hi].copy(), indices[span].copy(), data[span].copy()
            )

    def _land(self, bucket: int, spill: Spill) -> None:
        part = self.wanted[bucket]
        places, lengths, indices, data = spill.take(bucket)
        indptr = np.zeros(len(lengths) + 1, dtype=np.int64)
        np.cumsum(lengths, out=indptr[1:])
        order = np.argsort(places, kind="stable")
        self.rows.write_part(
            part.index, Csr(*take_rows(indptr, indices, data, order), n_cols=self.rows.n_cols)
        )


def _drain(waiting: set[Future[None]], most: int) -> set[Future[None]]:
    """Wait until at most ``most`` tasks are under way; raise what a finished one raised."""
    while len(waiting) > most:
        done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        for future in done:
            future.result()
    return waiting
