"""Which labelled layer a factor belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from atlasnmf.analysis.spots import stored_labels
from atlasnmf.analysis.stored_patterns import stored_patterns
from atlasnmf.errors import BadInput
from atlasnmf.metrics.differences import rank_sum_test
from atlasnmf.metrics.enrichment import benjamini_hochberg
from atlasnmf.store.results import ResultWriter, refuse_existing

if TYPE_CHECKING:
    import pandas as pd

    from atlasnmf.store.atlas import AtlasLike

__all__ = ["layer_enrichment"]


def layer_enrichment(
    atlas: AtlasLike,
    label_key: str = "domains",
    key: str = "inspire",
    *,
    min_effect: float = 0.3,
    key_added: str | None = None,
    overwrite: bool = False,
) -> pd.DataFrame:
    """Test every factor in every labelled layer against the other layers, and name the factor's layer.

    Parameters
    ----------
    atlas
        An open atlas, the path of a store, or data in memory (which is changed).
    label_key
        obs column of layers or domains; spots without a label are left out.
    key
        Name of the result.
    min_effect
        Effect from which a factor is said to belong to its best layer.
    key_added
        uns key to write, ``<key>_<label_key>_enrichment`` by default: ``labels``, ``layer`` of each factor
        (empty where none reaches ``min_effect``), and ``effect``, ``p``, ``q``, ``fold`` of shape (K,
        n_labels).
    overwrite
        Replace an older one.

    Returns
    -------
    pandas.DataFrame
        ``factor``, ``label``, ``mean``, ``fold`` (mean inside over mean outside), ``effect`` (rank-biserial
        correlation, 2 AUC - 1: 1 when every spot of the layer has more of the factor than every other),
        ``lowest`` (the smallest effect in a single slice with the layer), ``p`` and ``q`` of the rank sum
        (Benjamini and Hochberg over all), ``layer`` (the label this factor belongs to, the same in all its
        rows); the largest effect of a factor first.

    Raises
    ------
    BadInput
        There is no such result or column, or fewer than two labels have spots with factors.

    Notes
    -----
    O(K n log n), one factor at a time.

    Examples
    --------
    >>> import anndata, pandas as pd
    >>> obs = pd.DataFrame({"domains": ["a"] * 5 + ["b"] * 5}, index=[f"spot{i}" for i in range(10)])
    >>> adata = anndata.AnnData(np.ones((10, 1)), obs=obs)
    >>> adata.obsm["inspire_factors"] = np.repeat([[0.9, 0.1], [0.2, 0.8]], 5, axis=0)
    >>> layer_enrichment(adata).drop_duplicates("factor")[["factor", "layer", "effect"]].to_numpy().tolist()
    [[0, 'a', 1.0], [1, 'b', 1.0]]
    """
    import pandas as pd

    read = stored_patterns(atlas, key)
    written = key_added or f"{key}_{label_key}_enrichment"
    refuse_existing(read.atlas, uns=[written], overwrite=overwrite)
    labels = stored_labels(read.atlas, label_key, read.tables)
    known = np.flatnonzero(read.finite & (labels.codes >= 0))
    codes, n_labels = labels.codes[known], len(labels.names)
    if len(np.unique(codes)) < 2:
        raise BadInput(
            f"fewer than two labels of obs[{label_key!r}] have spots with {key!r}; give another column"
        )
    slices = read.atlas.slice_codes()[read.spots][known]
    shape = (read.n_patterns, n_labels)
    effect, p, lowest = np.empty(shape), np.empty(shape), np.empty(shape)
    mean, fold = np.empty(shape), np.empty(shape)
    sizes = np.bincount(codes, minlength=n_labels)
    for k in range(read.n_patterns):
        values = read.patterns[known, k].astype(np.float64)
        _, p[k], auc = rank_sum_test(values, codes, n_labels)
        effect[k] = 2 * auc - 1
        lowest[k] = _lowest(values, codes, slices, n_labels)
        sums = np.bincount(codes, weights=values, minlength=n_labels)
        mean[k] = sums / np.maximum(sizes, 1)
        outside = (sums.sum() - sums) / np.maximum(len(codes) - sizes, 1)
        fold[k] = mean[k] / np.maximum(outside, 1e-12)
    q = benjamini_hochberg(p.ravel()).reshape(shape)
    best = np.nanargmax(effect, axis=1)
    reached = effect[np.arange(len(best)), best] >= min_effect
    layer = [labels.names[at] if good else "" for at, good in zip(best, reached, strict=True)]
    arrays = {"mean": mean, "fold": fold, "effect": effect, "lowest": lowest, "p": p, "q": q}
    frame = pd.DataFrame(
        {
            "factor": np.repeat(np.arange(read.n_patterns), n_labels),
            "label": list(labels.names) * read.n_patterns,
            **{name: values.ravel() for name, values in arrays.items()},
            "layer": np.repeat(np.array(layer, dtype=object), n_labels),
        }
    )
    record = {"labels": list(labels.names), "layer": layer, **arrays}
    with ResultWriter(read.atlas, overwrite=overwrite) as writer:
        writer.uns(written, record, tables=read.names)
    return frame.sort_values(["factor", "effect"], ascending=[True, False], kind="stable", ignore_index=True)


def _lowest(values: np.ndarray, codes: np.ndarray, slices: np.ndarray, n_labels: int) -> np.ndarray:
    """Return the smallest effect over the slices that have a label and others."""
    found = []
    for one in np.unique(slices):
        own = slices == one
        found.append(2 * rank_sum_test(values[own], codes[own], n_labels)[2] - 1)
    stacked = np.stack(found)
    empty = np.isnan(stacked).all(axis=0)
    return np.where(empty, np.nan, np.nanmin(np.where(empty, 0, stacked), axis=0))
