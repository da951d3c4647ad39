"""Genes that a slice did not measure, from the nearest spots of the slices that did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.analysis.nearest import Nearest
from atlasnmf.analysis.spots import StoredRows, slice_numbers, stored_rows
from atlasnmf.analysis.values import GeneValues, gene_values, written_out
from atlasnmf.errors import BadInput, BadOption
from atlasnmf.options import at_least
from atlasnmf.seeds import rng_for
from atlasnmf.store.plain import columns_of
from atlasnmf.store.results import ResultWriter, refuse_existing

if TYPE_CHECKING:
    import pandas as pd
    import scipy.sparse

    from atlasnmf.store.atlas import AtlasLike

__all__ = ["Imputation", "PairSums", "impute"]

#: Bytes of imputed values made at a time.
_RUN_BYTES = 1 << 25


@dataclass(frozen=True)
class Imputation:
    """What was imputed, and how well hidden genes came back.

    Parameters
    ----------
    genes
        Genes imputed, columns of ``obsm[key_added]``.
    scores
        One row a hidden gene: ``gene``, ``pearson``, ``r2``; with a rival ``rival_pearson``, ``rival_r2``.
    """

    genes: tuple[str, ...]
    scores: pd.DataFrame


class PairSums:
    """Sums from which the correlation of two sets of columns follows, run by run.

    Parameters
    ----------
    n_columns
        Columns.
    """

    def __init__(self, n_columns: int) -> None:
        self._sums = np.zeros((6, n_columns))

    def add(self, left: np.ndarray, right: np.ndarray) -> None:
        """Add rows; cells that are not finite on both sides are left out."""
        known = np.isfinite(left) & np.isfinite(right)
        x = np.where(known, left, 0).astype(np.float64)
        y = np.where(known, right, 0).astype(np.float64)
        parts = (known, x, y, x * x, y * y, x * y)
        self._sums += np.stack([part.sum(axis=0) for part in parts])

    def pearson(self) -> np.ndarray:
        """Return the correlations; 0 where a side is constant, NaN without rows."""
        n, x, y, xx, yy, xy = self._sums
        with np.errstate(invalid="ignore", divide="ignore"):
            spread = (xx - x * x / n) * (yy - y * y / n)
            found = np.where(spread > 1e-18 * xx * yy, (xy - x * y / n) / np.sqrt(np.abs(spread)), 0.0)
        return np.where(n > 1, found, np.nan)


@dataclass(frozen=True)
class _Reference:
    """Spots that lend values: their neighbours' index, values, tables."""

    near: Nearest
    values: scipy.sparse.csr_matrix
    tables: np.ndarray
    measured: np.ndarray
    n_neighbors: int

    def predict(self, points: np.ndarray) -> np.ndarray:
        """Return the weighted mean of the nearest spots that measured each gene, float32, NaN without any."""
        import scipy.sparse

        k = min(self.n_neighbors, self.near.n_rows)
        distances, found = self.near.search(points, k)
        weights = np.where(found >= 0, 1 / np.maximum(distances.astype(np.float64), 1e-9), 0)
        weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-300)
        row = np.repeat(np.arange(len(points)), k)
        shape = (len(points), self.near.n_rows)
        lent = scipy.sparse.csr_matrix((weights.ravel(), (row, np.maximum(found, 0).ravel())), shape=shape)
        member = np.equal.outer(self.tables, np.arange(len(self.measured))).astype(np.float64)
        having = (lent @ member) @ self.measured
        total = written_out(lent @ self.values)
        empty = np.full(having.shape, np.nan)
        return np.divide(total, having, out=empty, where=having > 1e-12).astype(np.float32)


def impute(
    atlas: AtlasLike,
    genes: Sequence[str] | None = None,
    key: str = "X_inspire",
    *,
    target: str | Sequence[str] | None = None,
    source: str | Sequence[str] | None = None,
    n_neighbors: int = 60,
    n_sample: int = 100_000,
    hidden: int | Sequence[str] = 50,
    rival: str | None = "X_smoothed_pca",
    key_added: str = "imputed",
    overwrite: bool = False,
    random_state: int = 0,
) -> Imputation:
    """Impute genes of some slices from the nearest spots of others, and test it on genes that are hidden.

    The value is the mean of the log-normalised counts of the nearest spots that measured the gene, each
    weighed by the inverse of its distance in the embedding.

    Parameters
    ----------
    atlas
        An open atlas, the path of a store, or data in memory (which is changed).
    genes
        Genes to impute; those measured in the source and not in the target when not given. With every gene
        measured in all slices there are none, and only the test is done.
    key
        obsm key of an embedding of all slices.
    target, source
        Slices that get genes, and slices that lend them; by default the target are the slices of the tables
        with the fewest genes (the first slice where all have as many), the source all others.
    n_neighbors
        Spots that lend.
    n_sample
        Spots of the source among which the nearest are sought, at most.
    hidden
        Genes measured on both sides to impute as if they were not, drawn at random, or their names; 0 for no
        test.
    rival
        obsm key of another embedding to test in the same way, where a table has it (see
        :func:`atlasnmf.tl.baseline`); None for none.
    key_added
        obsm key of the imputed values, float32, shape (n, n_genes), and uns entry with their ``genes`` and
        the ``scores`` of the test; the latter alone where there is no gene to impute.
    overwrite
        Replace an older result.
    random_state
        Seed of the draws.

    Returns
    -------
    Imputation

    Raises
    ------
    BadInput
        There is no such embedding, one slice alone, or no gene to impute or to test.
    BadOption
        There is no such gene or slice, or the key exists.

    Notes
    -----
    The test hides genes from the neighbours' mean, not from the fit that made the embedding; fit a store
    without them for a test that hides them from both. What is held are the values of the genes in the sampled
    source, as sparse rows. INSPIRE, "imputation of gene expression across slices".

    Examples
    --------
    >>> import atlasnmf as an
    >>> found = an.tl.impute("embryo.zarr", key="X_inspire", target="slice_2", hidden=5)
    >>> found.genes, list(found.scores.columns), len(found.scores)
    ((), ['gene', 'pearson', 'r2'], 5)
    """
    at_least(1, n_neighbors=n_neighbors, n_sample=n_sample)
    at_least(0, hidden=hidden if isinstance(hidden, int) else 0)
    rows = stored_rows(atlas, key)
    from_, to = _ends(rows, source, target)
    values = gene_values(rows.atlas, tables=rows.tables)
    lenders, goal = np.isin(rows.slice_codes, from_), np.isin(rows.slice_codes, to)
    wanted = _wanted(rows, values, lenders, goal, genes)
    tested = _tested(values, rows, lenders, goal, hidden, random_state)
    if not wanted and not tested:
        raise BadInput("there is no gene to impute and none to test; name genes or hide some")
    groups = {"obsm": [key_added] if wanted else [], "uns": [key_added]}
    refuse_existing(rows.atlas, **groups, overwrite=overwrite)  # type: ignore[arg-type]
    scores = _scores(rows, values, tested, lenders, goal, rival, n_neighbors, n_sample, random_state)
    names = [
        table.name
        for table, run in zip(rows.tables, _table_runs(rows), strict=True)
        if goal[run.start : run.stop].any()
    ]
    record = {"key": key, "genes": list(wanted), "scores": columns_of(scores)}
    record |= {"source": _named(rows, from_), "target": _named(rows, to)}
    with ResultWriter(rows.atlas, overwrite=overwrite) as writer:
        writer.uns(key_added, record, tables=names)
        if wanted:
            writer.per_spot(key_added, len(wanted), tables=names)
            reference = _reference(rows, values, wanted, lenders, n_neighbors, n_sample, random_state)
            for run, points in rows.runs(max(_RUN_BYTES // (8 * len(wanted)), 64)):
                chosen = goal[run] & np.isfinite(points).all(axis=1)
                if chosen.any():
                    writer.put_spots(key_added, rows.spots[run][chosen], reference.predict(points[chosen]))
    return Imputation(tuple(wanted), scores)


def _named(rows: StoredRows, numbers: np.ndarray) -> list[str]:
    return [rows.atlas.slices[number].name for number in numbers]


def _table_runs(rows: StoredRows) -> list[slice]:
    ends = np.cumsum([0, *(table.n_spots for table in rows.tables)]).tolist()
    return [slice(start, stop) for start, stop in pairwise(ends)]


def _ends(rows: StoredRows, source: Any, target: Any) -> tuple[np.ndarray, np.ndarray]:
    present = np.unique(rows.slice_codes)
    if len(present) < 2:
        raise BadInput(
            f"{rows.atlas.name} has one slice with obsm[{rows.key!r}]; imputation needs another to lend genes"
        )
    if target is None:
        n_genes = {table.name: table.n_genes for table in rows.tables}
        sizes = np.array([n_genes[rows.atlas.slices[number].table] for number in present])
        to = present[sizes == sizes.min()] if sizes.min() < sizes.max() else present[:1]
        if source is not None:
            to = np.setdiff1d(to, slice_numbers(rows.atlas, source))
    else:
        to = slice_numbers(rows.atlas, target)
    from_ = np.setdiff1d(present, to) if source is None else slice_numbers(rows.atlas, source)
    if not len(from_) or not len(to) or np.intersect1d(from_, to).size:
        raise BadOption("target and source must be different slices; name both")
    return from_, to


def _measured(
    values: GeneValues, rows: StoredRows, chosen: np.ndarray, *, everywhere: bool = False
) -> np.ndarray:
    """Say which genes the tables of chosen spots measured: one of them, or all."""
    there = [
        own
        for own, run in zip(values.measured, _table_runs(rows), strict=True)
        if chosen[run.start : run.stop].any()
    ]
    return np.all(there, axis=0) if everywhere else np.any(there, axis=0)


def _wanted(
    rows: StoredRows, values: GeneValues, lenders: np.ndarray, goal: np.ndarray, genes: Sequence[str] | None
) -> list[str]:
    lent = _measured(values, rows, lenders)
    if genes is None:
        missing = lent & ~_measured(values, rows, goal, everywhere=True)
        return [gene for gene, there in zip(values.genes, missing, strict=True) if there]
    place = {gene: at for at, gene in enumerate(values.genes)}
    gene_values(rows.atlas, genes)
    for gene in genes:
        if not lent[place[gene]]:
            raise BadInput(f"no slice of the source measured gene {gene!r}; name other slices as source")
    return list(genes)


def _tested(
    values: GeneValues,
    rows: StoredRows,
    lenders: np.ndarray,
    goal: np.ndarray,
    hidden: int | Sequence[str],
    random_state: int,
) -> list[str]:
    both = _measured(values, rows, lenders) & _measured(values, rows, goal)
    shared = np.flatnonzero(both)
    if isinstance(hidden, int):
        rng = rng_for(random_state, "impute", "hidden")
        drawn = np.sort(rng.choice(shared, min(hidden, len(shared)), replace=False))
        return [values.genes[g] for g in drawn]
    gene_values(rows.atlas, hidden)
    known = {values.genes[g] for g in shared}
    for gene in hidden:
        if gene not in known:
            raise BadInput(f"gene {gene!r} cannot be hidden: it is not measured in both target and source")
    return list(hidden)


def _reference(
    rows: StoredRows,
    values: GeneValues,
    genes: Sequence[str],
    lenders: np.ndarray,
    n_neighbors: int,
    n_sample: int,
    random_state: int,
) -> _Reference:
    strata = np.where(lenders, rows.slice_codes, -1)
    drawn = rows.sample(n_sample, strata, random_state=random_state, where="impute", among=rows.finite())
    if not len(drawn):
        raise BadInput(f"no spot of the source has a finite obsm[{rows.key!r}]; fit the model again")
    some = GeneValues(values.atlas, values.tables, tuple(genes))
    held = some.take(drawn).astype(np.float32)
    starts = [run.start for run in _table_runs(rows)]
    tables = np.searchsorted(starts, drawn, side="right") - 1
    near = Nearest(rows.take(drawn), "imputation")
    return _Reference(near, held, tables, some.measured.astype(np.float64), n_neighbors)


def _scores(
    rows: StoredRows,
    values: GeneValues,
    tested: Sequence[str],
    lenders: np.ndarray,
    goal: np.ndarray,
    rival: str | None,
    n_neighbors: int,
    n_sample: int,
    random_state: int,
) -> pd.DataFrame:
    import pandas as pd

    frame = pd.DataFrame({"gene": list(tested)})
    embeddings = {"": rows}
    if rival is not None and all(rival in table.keys("obsm") for table in rows.tables):
        embeddings["rival_"] = StoredRows(rows.atlas, rival, rows.tables)
    for prefix, embedding in embeddings.items():
        if not tested:
            frame[f"{prefix}pearson"] = frame[f"{prefix}r2"] = np.empty(0)
            continue
        reference = _reference(embedding, values, tested, lenders, n_neighbors, n_sample, random_state)
        some = GeneValues(values.atlas, values.tables, tuple(tested))
        sums = PairSums(len(tested))
        for number, run, own in some.dense_runs():
            if not goal[run].any():
                continue
            points = _points(embedding, number, run, rows)
            chosen = goal[run] & np.isfinite(points).all(axis=1)
            truth = np.where(some.measured[number], own[chosen], np.nan)
            for start in range(0, int(chosen.sum()), 8192):
                part = slice(start, start + 8192)
                sums.add(truth[part], reference.predict(points[chosen][part]))
        frame[f"{prefix}pearson"] = sums.pearson()
        frame[f"{prefix}r2"] = sums.pearson() ** 2
    return frame


def _points(embedding: StoredRows, number: int, run: slice, rows: StoredRows) -> np.ndarray:
    first = _table_runs(rows)[number].start
    table = embedding.tables[number]
    return np.asarray(table.obsm_rows(embedding.key, run.start - first, run.stop - first), np.float32)
