"""One pass over the counts of a table: are they counts, and how many has every spot and gene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from atlasnmf.errors import BadInput
from atlasnmf.events import SILENT, Events
from atlasnmf.features.source import TILE_ROWS, RowSource, read_tile, row_tiles, rows_by_slice
from atlasnmf.kernels.cpu.moments import gene_moments
from atlasnmf.kernels.cpu.rows import row_nnz, row_sums, select_columns, validate_counts
from atlasnmf.reduce import Reduction, add, run_reduction
from atlasnmf.schema import Csr

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["BadValue", "CountCheck", "Survey", "refuse_bad_counts", "survey"]


class BadValue(NamedTuple):
    """One stored value that cannot be a count, as an example."""

    row: int
    gene: int
    value: float


@dataclass(frozen=True)
class CountCheck:
    """What is wrong with the stored values of a table.

    Parameters
    ----------
    n_values
        Stored values looked at.
    n_negative, n_nonfinite, n_fractional
        Negative values, NaN or infinite ones, and finite ones that are not whole.
    maximum
        The largest finite value.
    examples
        First bad value by kind: ``"negative"``, ``"nonfinite"``, ``"fractional"``.
    """

    n_values: int = 0
    n_negative: int = 0
    n_nonfinite: int = 0
    n_fractional: int = 0
    maximum: float = 0.0
    examples: tuple[tuple[str, BadValue], ...] = ()

    def __add__(self, other: CountCheck) -> CountCheck:
        """Join the checks of two runs of rows; the earlier examples stay."""
        examples = dict(other.examples) | dict(self.examples)
        return CountCheck(
            self.n_values + other.n_values,
            self.n_negative + other.n_negative,
            self.n_nonfinite + other.n_nonfinite,
            self.n_fractional + other.n_fractional,
            max(self.maximum, other.maximum),
            tuple(sorted(examples.items())),
        )


@dataclass(frozen=True)
class Survey:
    """What one pass over a table found.

    Parameters
    ----------
    check
        Whether its values are counts (see :func:`refuse_bad_counts`).
    totals
        Counts of each spot over the genes in use, float64, shape (n,).
    n_genes
        Genes in use that each spot has, int32, shape (n,).
    kept
        Spots that belong to a slice and have at least ``min_genes`` genes, bool, shape (n,).
    n_spots
        Kept spots of each slice, int64, shape (S,).
    sums, squares
        Per slice and gene, sum of the counts and of their squares over the kept spots, float64,
        shape (S, G); 0 for genes not in use.
    gene_n_spots
        Kept spots of the slice that have the gene, int64, shape (S, G).
    """

    check: CountCheck
    totals: np.ndarray
    n_genes: np.ndarray
    kept: np.ndarray
    n_spots: np.ndarray
    sums: np.ndarray
    squares: np.ndarray
    gene_n_spots: np.ndarray


def survey(
    counts: RowSource,
    slice_codes: np.ndarray,
    *,
    n_slices: int,
    n_cols: int,
    use: np.ndarray | None = None,
    min_genes: int = 0,
    tile_rows: int = TILE_ROWS,
    client: Client | None = None,
    n_workers: int = 1,
    events: Events = SILENT,
    stage: str | None = None,
) -> Survey:
    """Read the counts of a table once and sum what quality control and gene choice need.

    Parameters
    ----------
    counts
        Rows of the table, in any order; columns within the table and ascending, which the store sees to.
    slice_codes
        Slice of each row, -1 for rows that belong to none, shape (n,).
    n_slices, n_cols
        Number of slices S and of genes G of the table.
    use
        Genes that count, bool, shape (G,); the others (mitochondrial ones) are only checked.
    min_genes
        Spots with fewer genes in use are not kept.
    tile_rows, client, n_workers, events, stage
        Rows read at once, and how the tiles are run (see :func:`~atlasnmf.reduce.run_reduction`).

    Returns
    -------
    survey
        Sums of whole numbers are exact, so the same in any order of rows.

    Notes
    -----
    O(nnz); a worker holds one tile and S_tile x 3 G sums.
    """
    codes = np.ascontiguousarray(slice_codes, dtype=np.int32)
    own_numbers = None if use is None or np.all(use) else np.where(use, np.arange(n_cols), -1)
    chunk = partial(_survey_tile, codes=codes, lut=own_numbers, min_genes=min_genes)
    reduction = Reduction(chunk, add, partial(_finish, n_slices=n_slices, n_cols=n_cols))
    return run_reduction(
        reduction,
        row_tiles(len(codes), tile_rows),
        partial(read_tile, counts),
        client=client,
        n_workers=n_workers,
        events=events,
        stage=stage,
    )


def _survey_tile(
    tile: range, rows: Csr, *, codes: np.ndarray, lut: np.ndarray | None, min_genes: int
) -> tuple[Any, ...]:
    check = _check(rows, tile.start)
    if lut is not None:
        rows = Csr(*select_columns(rows.indptr, rows.indices, rows.data, lut), rows.n_cols)
    n_genes = row_nnz(rows.indptr, rows.data).astype(np.int32)
    own = codes[tile.start : tile.stop]
    kept = (own >= 0) & (n_genes >= min_genes)
    n_spots, moments = {}, {}
    for code, part in rows_by_slice(rows, np.where(kept, own, -1)):
        n_spots[code] = part.n_rows
        moments[code] = np.stack(gene_moments(part.indptr, part.indices, part.data, part.n_cols))
    return check, [row_sums(rows.indptr, rows.data)], [n_genes], [kept], n_spots, moments


def _check(rows: Csr, first_row: int) -> CountCheck:
    problems = validate_counts(rows.data)
    examples = []
    finders = (
        ("fractional", problems.n_fractional, lambda x: np.isfinite(x) & (x != np.floor(x))),
        ("negative", problems.n_negative, lambda x: x < 0),
        ("nonfinite", problems.n_nonfinite, lambda x: ~np.isfinite(x)),
    )
    for kind, n_bad, is_bad in finders:
        if n_bad:
            at = int(np.argmax(is_bad(rows.data)))
            row = int(np.searchsorted(rows.indptr, at, side="right")) - 1
            examples.append((kind, BadValue(first_row + row, int(rows.indices[at]), float(rows.data[at]))))
    return CountCheck(rows.nnz, *problems, tuple(examples))


def _finish(part: tuple[Any, ...], *, n_slices: int, n_cols: int) -> Survey:
    check, totals, n_genes, kept, n_spots, moments = part
    sums = np.zeros((3, n_slices, n_cols), dtype=np.float64)
    for code, found in moments.items():
        sums[:, code] = found
    spots = np.zeros(n_slices, dtype=np.int64)
    for code, number in n_spots.items():
        spots[code] = number
    return Survey(
        check,
        np.concatenate(totals),
        np.concatenate(n_genes),
        np.concatenate(kept),
        spots,
        sums[0],
        sums[1],
        sums[2].astype(np.int64),
    )


def refuse_bad_counts(
    check: CountCheck,
    *,
    where: str,
    spots: Sequence[str] | np.ndarray,
    genes: Sequence[str] | np.ndarray,
    integer: bool = True,
    count_layers: Sequence[str] = (),
) -> None:
    """Refuse a table whose values are not counts.

    Parameters
    ----------
    check
        From :func:`survey`.
    where
        What was read, for the message, such as ``"table 'x', layer 'y'"``.
    spots, genes
        Names of rows and columns.
    integer
        Refuse values that are not whole: a Poisson model needs counts.
    count_layers
        Names of layers of the table that hold whole numbers, to be named as the mend.

    Raises
    ------
    BadInput
        Saying how many values are wrong, the first of them, and the mend.
    """
    mend = "no layer holds them either; put them into X or a layer, from adata.raw or the platform's files"
    if count_layers:
        mend = "use --layer " + " or ".join(count_layers) + ", which holds whole numbers"
    kinds = (
        ("nonfinite", check.n_nonfinite, "NaN or infinite", "remove or repair these values"),
        ("negative", check.n_negative, "negative", f"no counts (fill in what -1 marks as missing): {mend}"),
        ("fractional", check.n_fractional if integer else 0, "not whole", f"raw counts are needed: {mend}"),
    )
    for kind, n_bad, adjective, advice in kinds:
        if n_bad:
            example = dict(check.examples)[kind]
            raise BadInput(
                f"{where} holds {n_bad} values of {check.n_values} that are {adjective} "
                f"(first: {example.value:g} in spot {str(spots[example.row])!r}, "
                f"gene {str(genes[example.gene])!r}); {advice}"
            )
