"""How well marker genes tell domains: areas under curves, purity and coverage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.analysis.gene_sets import placed_sets, read_gene_sets
from atlasnmf.analysis.spots import SpotLabels, stored_labels
from atlasnmf.analysis.values import GeneValues, gene_values
from atlasnmf.errors import BadInput, BadOption
from atlasnmf.store.atlas import opened
from atlasnmf.store.names import no_such
from atlasnmf.store.plain import columns_of
from atlasnmf.store.results import ResultWriter, refuse_existing

if TYPE_CHECKING:
    import pandas as pd

    from atlasnmf.store.atlas import Atlas, AtlasLike

__all__ = ["marker_auc", "purity_coverage"]


def _areas(values: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of each column, ties at their mean rank; NaN without spots on either side."""
    from scipy.stats import rankdata

    n_in = int(inside.sum())
    n_out = len(inside) - n_in
    if not n_in or not n_out:
        return np.full(values.shape[1], np.nan)
    ranks = rankdata(values, axis=0)[inside].sum(axis=0)
    return (ranks - n_in * (n_in + 1) / 2) / (n_in * n_out)


def _domain(labels: SpotLabels, domain: str, label_key: str, where: str) -> int:
    if domain not in labels.names:
        raise BadInput(no_such("label", domain, labels.names, f"obs[{label_key!r}] of {where}"))
    return labels.names.index(domain)


def _columns(values: GeneValues) -> np.ndarray:
    """Return the values of few genes in all spots, NaN where a table lacks a gene."""
    parts = []
    for number, _, rows in values.dense_runs():
        rows[:, ~values.measured[number]] = np.nan
        parts.append(rows)
    return np.concatenate(parts)


def _source_name(source: str | None) -> str:
    return "counts" if source is None else source


def marker_auc(
    atlas: AtlasLike,
    label_key: str,
    markers: Any,
    *,
    before: str | None = None,
    after: str | None = "inspire",
    key_added: str | None = None,
    overwrite: bool = False,
) -> pd.DataFrame:
    """Measure how well each marker gene tells its domain from the others, by two kinds of values.

    Parameters
    ----------
    atlas
        An open atlas, the path of a store, or data in memory (which is changed).
    label_key
        obs column of the domains.
    markers
        Genes of each domain, named as the labels are: see :func:`atlasnmf.tl.read_gene_sets`.
    before, after
        Values to compare: None for log-normalised counts, a layer, or the name of a result (its factors times
        loadings).
    key_added
        uns key to write, ``<label_key>_marker_auc`` by default.
    overwrite
        Replace an older one.

    Returns
    -------
    pandas.DataFrame
        ``label``, ``gene``, ``before``, ``after``: areas under the ROC curve over all spots with a label and
        the gene.

    Raises
    ------
    BadInput
        A marker set is named as no label is, or shares no gene with the atlas.
    BadOption
        There is no such layer or result.

    Notes
    -----
    The values of the markers alone are held, 4 bytes per spot and gene.

    Examples
    --------
    >>> import anndata, pandas as pd
    >>> obs = pd.DataFrame({"domains": ["a"] * 5 + ["b"] * 5}, index=[f"spot{i}" for i in range(10)])
    >>> adata = anndata.AnnData(np.repeat([[9.0, 1.0], [1.0, 9.0]], 5, axis=0), obs=obs)
    >>> adata.layers["smooth"] = adata.X[::-1].copy()
    >>> marker_auc(adata, "domains", {"a": ["0"]}, after="smooth").to_numpy().tolist()
    [['a', '0', 1.0, 0.0]]
    """
    import pandas as pd

    found = opened(atlas)
    written = key_added or f"{label_key}_marker_auc"
    refuse_existing(found, uns=[written], overwrite=overwrite)
    labels = stored_labels(found, label_key)
    sets = read_gene_sets(markers)
    codes = {name: _domain(labels, name, label_key, found.name) for name in sets}
    placed = placed_sets(sets, found.genes, found.name)
    used = [found.genes[g] for g in np.unique(placed.members)]
    sources = [gene_values(found, used, source) for source in (before, after)]
    known = labels.codes >= 0
    areas = []
    for values in sources:
        columns = _columns(values)
        own: dict[tuple[str, str], float] = {}
        for name in placed.names:
            for gene in (gene for gene in sets[name] if gene in used):
                column = columns[:, used.index(gene)]
                kept = known & np.isfinite(column)
                own[name, gene] = float(_areas(column[kept, None], labels.codes[kept] == codes[name])[0])
        areas.append(own)
    rows = [(*pair, area, areas[1][pair]) for pair, area in areas[0].items()]
    frame = pd.DataFrame(rows, columns=["label", "gene", "before", "after"])
    values_named = {"values_before": _source_name(before), "values_after": _source_name(after)}
    with ResultWriter(found, overwrite=overwrite) as writer:
        writer.uns(written, columns_of(frame) | values_named)
    return frame


def purity_coverage(
    atlas: AtlasLike,
    label_key: str,
    markers: Any,
    *,
    quantiles: Sequence[float] = (0.5, 0.6, 0.7, 0.8, 0.9),
    source: str | None = None,
    key_added: str | None = None,
    overwrite: bool = False,
) -> pd.DataFrame:
    """Compare domains with the spots where their markers are high, at several thresholds.

    The score of a spot is the mean of its markers' z-scores. Purity is the share of a domain's spots above
    the quantile of the score, coverage the share of the spots above it that are in the domain.

    Parameters
    ----------
    atlas, label_key, markers, overwrite
        As in :func:`marker_auc`.
    quantiles
        Of the score over all spots with a label.
    source
        Values: None for log-normalised counts, a layer, or the name of a result.
    key_added
        uns key to write, ``<label_key>_purity`` by default.

    Returns
    -------
    pandas.DataFrame
        ``label``, ``quantile``, ``purity``, ``coverage``.

    References
    ----------
    SpatialFuser, "Purity-Coverage analysis".

    Examples
    --------
    >>> import anndata, pandas as pd
    >>> obs = pd.DataFrame({"domains": ["a"] * 5 + ["b"] * 5}, index=[f"spot{i}" for i in range(10)])
    >>> counts = np.repeat([[9.0, 1.0], [1.0, 9.0]], 5, axis=0)
    >>> found = purity_coverage(anndata.AnnData(counts, obs=obs), "domains", {"a": ["0"]}, quantiles=[0.4])
    >>> found.to_numpy().tolist()
    [['a', 0.4, 1.0, 1.0]]
    """
    import pandas as pd

    if not all(0 < q < 1 for q in quantiles):
        raise BadOption("quantiles must lie between 0 and 1")
    found = opened(atlas)
    written = key_added or f"{label_key}_purity"
    refuse_existing(found, uns=[written], overwrite=overwrite)
    labels = stored_labels(found, label_key)
    sets = read_gene_sets(markers)
    codes = {name: _domain(labels, name, label_key, found.name) for name in sets}
    placed = placed_sets(sets, found.genes, found.name)
    rows = []
    for name in placed.names:
        score = _score(found, [gene for gene in sets[name] if gene in set(found.genes)], source)
        known = (labels.codes >= 0) & np.isfinite(score)
        inside, score = labels.codes[known] == codes[name], score[known]
        for quantile in quantiles:
            high = score > np.quantile(score, quantile)
            common = (high & inside).sum()
            rows.append((name, quantile, common / max(inside.sum(), 1), common / max(high.sum(), 1)))
    frame = pd.DataFrame(rows, columns=["label", "quantile", "purity", "coverage"])
    with ResultWriter(found, overwrite=overwrite) as writer:
        writer.uns(written, columns_of(frame) | {"values": _source_name(source)})
    return frame


def _score(atlas: Atlas, genes: Sequence[str], source: str | None) -> np.ndarray:
    columns = _columns(gene_values(atlas, genes, source)).astype(np.float64)
    spread = np.nanstd(columns, axis=0)
    scaled = (columns - np.nanmean(columns, axis=0)) / np.where(spread > 0, spread, 1)
    measured = np.isfinite(scaled)
    total = np.where(measured, scaled, 0).sum(axis=1)
    return np.divide(total, measured.sum(axis=1), out=np.full(len(total), np.nan), where=measured.any(axis=1))
