"""One pass over a stored array of factors: its maps, and where each factor lives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from atlasnmf.plots.report.mosaic import Mosaic
from atlasnmf.store.runs import obsm_runs

if TYPE_CHECKING:
    from atlasnmf.store.tables import TableHandle

__all__ = ["Groups", "Survey", "survey"]


@dataclass(frozen=True)
class Groups:
    """Groups of spots, such as slices or domains: names, and the group of every spot, -1 for none."""

    title: str
    names: tuple[str, ...]
    codes: np.ndarray


@dataclass(frozen=True)
class Survey:
    """What a pass over factors found.

    Parameters
    ----------
    means
        Mean of the spots behind every pixel, float32, shape (pixels, K): NaN where no spot lies, -inf where
        spots lie that have no value.
    by_group
        Mean of each factor over the spots of each group, by title, shape (n_groups, K).
    overall
        Mean of each factor, shape (K,).
    n_spots, n_missing
        Spots, and those without values.
    """

    means: np.ndarray
    by_group: Mapping[str, np.ndarray]
    overall: np.ndarray
    n_spots: int
    n_missing: int

    @property
    def n_factors(self) -> int:
        """Number of factors."""
        return len(self.overall)


def survey(
    tables: Sequence[TableHandle], key: str, mosaic: Mosaic, place: np.ndarray, groups: Sequence[Groups] = ()
) -> Survey:
    """Read factors once, in runs of rows.

    Parameters
    ----------
    tables
        The tables that have them; spots are theirs, one table after the other.
    key
        obsm key.
    mosaic
        The picture.
    place
        Column of the mosaic's weights of every spot, int64, shape (n,).
    groups
        Groups to average over.

    Notes
    -----
    Holds two arrays of pixels by factors in float32 and one run of rows. A million spots of 40 factors take
    about three seconds.
    """
    import scipy.sparse

    sums = seen = totals = None
    by_group: dict[str, np.ndarray] = {}
    sizes = {group.title: np.zeros(len(group.names)) for group in groups}
    n_spots = n_known = 0
    for start, stored in obsm_runs(tables, key):
        rows: np.ndarray = np.asarray(stored, np.float32)
        stop = start + len(rows)
        known = np.isfinite(rows).all(axis=1)
        rows = np.where(known[:, None], rows, np.float32(0))
        columns = mosaic.weights[:, place[start:stop]]
        if sums is None or seen is None or totals is None:
            sums = np.zeros((mosaic.n_pixels, rows.shape[1]), np.float32)
            seen = np.zeros(mosaic.n_pixels, np.float32)
            totals = np.zeros(rows.shape[1])
            by_group = {group.title: np.zeros((len(group.names), rows.shape[1])) for group in groups}
        touched = np.unique(columns.indices)
        sums[touched] += columns.tocsr()[touched] @ rows
        seen += columns @ known.astype(np.float32)
        totals += rows.sum(axis=0, dtype=np.float64)
        for group in groups:
            codes = group.codes[start:stop]
            inside = np.flatnonzero(known & (codes >= 0))
            ones = np.ones(len(inside)), (codes[inside], inside)
            member = scipy.sparse.csr_matrix(ones, shape=(len(group.names), len(rows)))
            by_group[group.title] += member @ rows
            sizes[group.title] += np.bincount(codes[inside], minlength=len(group.names))
        n_spots, n_known = n_spots + len(rows), n_known + int(known.sum())
    assert sums is not None
    assert seen is not None
    assert totals is not None
    covered = np.asarray(mosaic.weights.sum(axis=1)).ravel() > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        means = sums / seen[:, None]
        found = {title: sum_ / sizes[title][:, None] for title, sum_ in by_group.items()}
    means[seen <= 0] = np.where(covered[seen <= 0], -np.inf, np.nan)[:, None]
    return Survey(means, found, totals / max(n_known, 1), n_spots, n_spots - n_known)


def commonest(mosaic: Mosaic, place: np.ndarray, codes: np.ndarray, n_groups: int) -> np.ndarray:
    """Return the commonest group behind every pixel: -1 where no spot lies, -2 where none has a group."""
    import scipy.sparse

    known = np.flatnonzero(codes >= 0)
    member = scipy.sparse.csr_matrix(
        (np.ones(len(known), np.float32), (known, codes[known])), shape=(len(codes), n_groups)
    )
    counts = (mosaic.weights[:, place] @ member).tocsr()
    covered = np.asarray(mosaic.weights.sum(axis=1)).ravel() > 0
    leading = np.where(covered, -2, -1)
    n_here = np.diff(counts.indptr)
    filled = np.flatnonzero(n_here)
    if not len(filled):
        return leading
    # argmax of a sparse matrix takes its rows one by one, and there is a row for every pixel
    starts = counts.indptr[filled]
    most = np.maximum.reduceat(counts.data, starts)
    candidates = np.where(counts.data == np.repeat(most, n_here[filled]), counts.indices, n_groups)
    leading[filled] = np.minimum.reduceat(candidates, starts)
    return leading
