"""Genes that differ between domains, from one pass over the values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.analysis.spots import SpotLabels, stored_labels
from atlasnmf.analysis.values import TARGET_SUM, GeneValues, gene_values, written_out
from atlasnmf.errors import BadInput, BadOption
from atlasnmf.kernels.cpu.histograms import add_histograms
from atlasnmf.metrics.differences import GroupSums, rank_sum_from_histograms, welch_test
from atlasnmf.metrics.enrichment import benjamini_hochberg
from atlasnmf.store.atlas import opened
from atlasnmf.store.names import no_such
from atlasnmf.store.results import ResultWriter, refuse_existing

if TYPE_CHECKING:
    import pandas as pd

    from atlasnmf.store.atlas import AtlasLike

__all__ = ["differential", "group_sums"]

#: Intervals a gene's values are counted in, and bytes of the counts of some genes.
_N_BINS, _HISTOGRAM_BYTES = 1024, 1 << 27
#: Added to mean counts per 10^4 before their ratio, so that a gene nearly absent has no large fold.
_FOLD_FLOOR = 0.01


def differential(
    atlas: AtlasLike,
    label_key: str = "domains",
    *,
    groups: Sequence[str] | None = None,
    reference: str = "rest",
    method: str = "welch",
    source: str | None = None,
    genes: Sequence[str] | None = None,
    key_added: str | None = None,
    overwrite: bool = False,
) -> pd.DataFrame:
    """Find the genes that differ between domains.

    Parameters
    ----------
    atlas
        An open atlas, the path of a store, or data in memory (which is changed).
    label_key
        obs column of domains or labels.
    groups
        Labels to take part; all when not given.
    reference
        What each is compared with: ``"rest"``, all other groups, or one label.
    method
        ``"welch"``, means without equal variances, or ``"wilcoxon"``, rank sums.
    source
        Values: None for the logarithm of counts per 10^4, a layer (taken as it is), or the name of a result
        (its factors times loadings: denoised or imputed genes).
    genes
        Genes; all when not given.
    key_added
        uns key to write, ``<label_key>_differential`` by default: ``groups``, ``genes``, and ``score``,
        ``p``, ``q``, ``log_fold``, ``mean``, ``share`` of shape (n_groups, G).
    overwrite
        Replace an older one.

    Returns
    -------
    pandas.DataFrame
        ``group``, ``gene``, ``score`` (Welch's t, or the normal deviate of the rank sum), ``p``, ``q``
        (Benjamini and Hochberg within a group), ``log_fold`` (log2 ratio of mean counts per 10^4; for layers
        and results difference of means), ``mean``, ``mean_rest``, ``share``, ``share_rest``, and ``auc`` for
        rank sums; the highest score of a group first.

    Raises
    ------
    BadInput
        There is no such column, or fewer than two groups have spots.
    BadOption
        There is no such group, gene, layer, result or method, or the key exists.

    Notes
    -----
    Welch's test takes one pass and sums of a few numbers a group and gene. Rank sums count values in 1024
    intervals of a gene's range, zero apart, so that values within a hundredth of each other tie; a pass for
    every 128 MB of counts, and one for the ranges of a layer or a result. Spots as replicates make p values
    too small wherever spots are alike: rank by them, and look at ``log_fold`` and ``share``.

    Examples
    --------
    >>> import anndata, pandas as pd
    >>> obs = pd.DataFrame({"domains": list("aaabbb")}, index=list("uvwxyz"))
    >>> counts = np.array([[9, 1], [8, 2], [7, 2], [1, 9], [2, 8], [1, 7]], np.float32)
    >>> found = differential(anndata.AnnData(counts, obs=obs))
    >>> found.query("score > 0")[["group", "gene"]].to_numpy().tolist()
    [['a', '0'], ['b', '1']]
    """
    if method not in ("welch", "wilcoxon"):
        raise BadOption(f"no method {method!r} of comparing; choose welch or wilcoxon")
    found = opened(atlas)
    written = key_added or f"{label_key}_differential"
    refuse_existing(found, uns=[written], overwrite=overwrite)
    labels = _chosen(stored_labels(found, label_key), groups, reference, label_key, found.name)
    values = gene_values(found, genes, source)
    against = None if reference == "rest" else labels.names.index(reference)
    own = group_sums(values, labels.codes, len(labels.names))
    rest = own.others(against)
    figures: dict[str, np.ndarray] = {}
    if method == "welch":
        figures["score"], figures["p"] = welch_test(own, rest)
    else:
        figures["score"], figures["p"], figures["auc"] = _rank_sums(values, labels, own, against)
    if against is not None:
        for name in figures:
            figures[name][against] = np.nan
    figures["q"] = benjamini_hochberg(figures["p"])
    figures["log_fold"] = _fold(own, rest, counts=source is None)
    figures |= {"mean": own.mean, "mean_rest": rest.mean, "share": own.share, "share_rest": rest.share}
    record = {"groups": list(labels.names), "genes": list(values.genes), **figures}
    params = {"label_key": label_key, "reference": reference, "method": method, "values": source or "counts"}
    with ResultWriter(found, overwrite=overwrite) as writer:
        writer.uns(written, record | {"params": params})
    return _frame(figures, labels.names, values.genes, against)


def _chosen(
    labels: SpotLabels, groups: Sequence[str] | None, reference: str, label_key: str, where: str
) -> SpotLabels:
    wanted = list(labels.names if groups is None else groups)
    for name in [*wanted, *([] if reference == "rest" else [reference])]:
        if name not in labels.names:
            raise BadOption(no_such("group", name, labels.names, f"obs[{label_key!r}] of {where}"))
    if reference != "rest" and reference not in wanted:
        wanted.append(reference)
    if len(wanted) < 2:
        raise BadInput(f"obs[{label_key!r}] of {where} has fewer than two groups to compare; name another")
    place = np.full(len(labels.names) + 1, -1, np.int32)
    for at, name in enumerate(wanted):
        place[labels.names.index(name)] = at
    return SpotLabels(place[labels.codes], tuple(wanted))


def group_sums(values: GeneValues, codes: np.ndarray, n_groups: int) -> GroupSums:
    """Sum the values of groups of spots, in one pass.

    Parameters
    ----------
    values
        What is summed.
    codes
        Group of each spot, shape (n,), -1 for none.
    n_groups
        Groups.
    """
    import scipy.sparse

    shape = (n_groups, len(values.genes))
    sums = [np.zeros(shape) for _ in range(4)]
    for number, run, rows in values.runs():
        own = codes[run].copy()
        if isinstance(rows, np.ndarray):
            own[~np.isfinite(rows).all(axis=1)] = -1
        kept = np.flatnonzero(own >= 0)
        ones = np.ones(len(kept))
        member = scipy.sparse.csr_matrix((ones, (own[kept], kept)), shape=(n_groups, len(own)))
        wide: Any = (
            np.nan_to_num(rows.astype(np.float64)) if isinstance(rows, np.ndarray) else rows.astype(float)
        )
        squares = wide**2 if isinstance(rows, np.ndarray) else wide.multiply(wide)
        sizes = np.bincount(own[kept], minlength=n_groups)[:, None] * values.measured[number]
        for total, part in zip(
            sums, (sizes, member @ wide, member @ squares, member @ (wide != 0)), strict=True
        ):
            total += written_out(part) if scipy.sparse.issparse(part) else part
    return GroupSums(*sums)


def _fold(own: GroupSums, rest: GroupSums, *, counts: bool) -> np.ndarray:
    if not counts:
        return own.mean - rest.mean
    return np.log2((np.expm1(own.mean) + _FOLD_FLOOR) / (np.expm1(rest.mean) + _FOLD_FLOOR))


def _ranges(values: GeneValues) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.zeros(len(values.genes)), np.full(len(values.genes), np.log1p(TARGET_SUM))
    if values.source is None:
        return low, high
    high[:] = 0
    for _, _, rows in values.runs():
        if not isinstance(rows, np.ndarray):
            rows = rows.tocsc()
            low = np.minimum(low, written_out(rows.min(axis=0)).ravel())
            high = np.maximum(high, written_out(rows.max(axis=0)).ravel())
            continue
        known = rows[np.isfinite(rows).all(axis=1)]
        if len(known):
            low, high = np.minimum(low, known.min(axis=0)), np.maximum(high, known.max(axis=0))
    return low, np.maximum(high, low + 1e-12)


def _rank_sums(
    values: GeneValues, labels: SpotLabels, sums: GroupSums, against: int | None
) -> tuple[np.ndarray, ...]:
    n_groups, n_genes = sums.total.shape
    low, high = _ranges(values)
    step = max(_HISTOGRAM_BYTES // (4 * n_groups * _N_BINS), 1)
    parts = []
    for start in range(0, n_genes, step):
        genes = slice(start, min(start + step, n_genes))
        some = replace(values, genes=values.genes[genes])
        counts = _histograms(some, labels.codes, n_groups, low[genes], high[genes])
        # zeros are not stored: what is missing to the number of spots, at the place of zero
        missing = np.rint(sums.n_spots[:, genes] - counts.sum(axis=2).T).T
        # values equal to zero sort between the negative and the positive ones
        zero = np.clip(((0 - low[genes]) * _N_BINS / (high - low)[genes]).astype(np.int64), 0, _N_BINS)
        wide = np.zeros((*counts.shape[:2], _N_BINS + 1), np.float64)
        below = np.arange(_N_BINS) < zero[:, None]
        wide[..., :_N_BINS] = np.where(below[:, None], counts, 0)
        wide[..., 1:] += np.where(below[:, None], 0, counts)
        np.put_along_axis(wide, zero[:, None, None], missing[..., None], axis=2)
        parts.append(rank_sum_from_histograms(wide, against))
    return tuple(np.concatenate(part).T.copy() for part in zip(*parts, strict=True))


def _histograms(
    values: GeneValues, codes: np.ndarray, n_groups: int, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    import scipy.sparse

    counts = np.zeros((len(values.genes), n_groups, _N_BINS), np.int32)
    scale = _N_BINS / (high - low)
    for _, run, rows in values.runs():
        own = codes[run].copy()
        if isinstance(rows, np.ndarray):
            own[~np.isfinite(rows).all(axis=1)] = -1
            rows = scipy.sparse.csr_matrix(np.nan_to_num(rows))
        add_histograms(rows.indptr, rows.indices, rows.data, own, low, scale, counts)
    return counts


def _frame(
    figures: dict[str, np.ndarray], groups: Sequence[str], genes: Sequence[str], against: int | None
) -> pd.DataFrame:
    import pandas as pd

    columns: dict[str, Any] = {
        "group": pd.Categorical.from_codes(np.repeat(np.arange(len(groups)), len(genes)), list(groups)),
        "gene": np.tile(np.asarray(genes, object), len(groups)),
    }
    frame = pd.DataFrame(columns | {name: values.ravel() for name, values in figures.items()})
    if against is not None:
        frame = frame[frame["group"] != groups[against]]
    return frame.sort_values(["group", "score"], ascending=[True, False], kind="stable", ignore_index=True)
