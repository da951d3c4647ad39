"""Genes that make a factor, where marker genes rank in it, and what it is enriched for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.analysis.gene_sets import PlacedSets, placed_sets, read_gene_sets
from atlasnmf.analysis.stored_patterns import StoredPatterns, stored_patterns
from atlasnmf.errors import BadInput, BadOption
from atlasnmf.metrics.enrichment import benjamini_hochberg, over_representation, preranked_gsea
from atlasnmf.metrics.factors import specific_genes
from atlasnmf.options import at_least
from atlasnmf.store.plain import columns_of
from atlasnmf.store.results import ResultWriter, refuse_existing

if TYPE_CHECKING:
    import pandas as pd

    from atlasnmf.store.atlas import AtlasLike

__all__ = ["enrichment", "factor_genes", "marker_ranks"]


def _model(read: StoredPatterns) -> tuple[list[str], np.ndarray]:
    """Return names and loadings of the genes the model has."""
    inside = np.isfinite(read.coefficients).all(axis=1)
    if not inside.any():
        raise BadInput(f"the loadings of {read.key!r} have no finite row; fit the model again")
    return [gene for gene, there in zip(read.genes, inside, strict=True) if there], read.coefficients[inside]


def factor_genes(
    atlas: AtlasLike,
    key: str = "inspire",
    *,
    n_top: int = 50,
    key_added: str | None = None,
    overwrite: bool = False,
) -> pd.DataFrame:
    """Rank the genes of each factor and say which are its own.

    A gene is a factor's own when it is among its ``n_top`` genes and has a larger loading on it than on every
    other factor.

    Parameters
    ----------
    atlas
        An open atlas, the path of a store, or data in memory (which is changed).
    key
        Name of the result.
    n_top
        Genes ranked of each factor.
    key_added
        uns key to write, ``<key>_genes`` by default: the columns of what is returned.
    overwrite
        Replace an older one.

    Returns
    -------
    pandas.DataFrame
        ``factor``, ``rank`` (from 0), ``gene``, ``loading``, ``fold`` (loading over the largest on another
        factor) and ``specific``.

    Raises
    ------
    BadInput
        There is no such result.
    BadOption
        The key exists.

    References
    ----------
    INSPIRE, "Identification of genes specific to a spatial factor".

    Examples
    --------
    >>> import anndata
    >>> loadings = np.array([[0.7, 0.1], [0.2, 0.4], [0.1, 0.5]])
    >>> adata = anndata.AnnData(np.ones((4, 3)), varm={"inspire_loadings": loadings})
    >>> adata.obsm["inspire_factors"] = np.full((4, 2), 0.5)
    >>> factor_genes(adata, n_top=2)[["factor", "gene", "specific"]].to_numpy().tolist()
    [[0, '0', True], [0, '1', False], [1, '2', True], [1, '1', True]]
    """
    import pandas as pd

    at_least(1, n_top=n_top)
    read = stored_patterns(atlas, key)
    written = key_added or f"{key}_genes"
    refuse_existing(read.atlas, uns=[written], overwrite=overwrite)
    names, loadings = _model(read)
    own = specific_genes(loadings, n_top)
    order = np.argsort(-loadings, axis=0, kind="stable")[:n_top]
    rest = _largest_elsewhere(loadings)
    rows = [
        (k, rank, names[g], loadings[g, k], _ratio(loadings[g, k], rest[g, k]), bool(own[g, k]))
        for k in range(loadings.shape[1])
        for rank, g in enumerate(order[:, k].tolist())
    ]
    frame = pd.DataFrame(rows, columns=["factor", "rank", "gene", "loading", "fold", "specific"])
    with ResultWriter(read.atlas, overwrite=overwrite) as writer:
        writer.uns(written, columns_of(frame), tables=read.names)
    return frame


def _ratio(above: float, below: float) -> float:
    return above / below if below > 0 else float("inf")


def _largest_elsewhere(loadings: np.ndarray) -> np.ndarray:
    """Return for each factor a gene's largest loading on another one."""
    if loadings.shape[1] == 1:
        return np.zeros_like(loadings)
    two = np.sort(loadings, axis=1)[:, -2:]
    return np.where(loadings == two[:, 1:], two[:, :1], two[:, 1:])


def marker_ranks(
    atlas: AtlasLike,
    markers: Any,
    key: str = "inspire",
    *,
    ignore_case: bool = False,
    key_added: str | None = None,
    overwrite: bool = False,
) -> pd.DataFrame:
    """Say where sets of marker genes rank among the genes of each factor.

    Parameters
    ----------
    atlas, key, overwrite
        As in :func:`factor_genes`.
    markers
        Sets of genes: see :func:`atlasnmf.tl.read_gene_sets`.
    ignore_case
        Take ``ACTA2`` for ``Acta2``.
    key_added
        uns key to write, ``<key>_marker_ranks`` by default: ``genes`` with their ``ranks``, shape
        (n_genes, K), and ``gene_sets`` by ``factor``.

    Returns
    -------
    pandas.DataFrame
        ``gene_set``, ``factor``, ``n_genes``, ``median_rank`` (from 0), ``best_rank``, ``best_gene`` and
        ``auc``, the chance that a gene of the set ranks before another; the best factor of a set first.

    Raises
    ------
    BadInput
        There is no such result, or no gene of the sets is in it.

    Examples
    --------
    >>> import anndata
    >>> loadings = np.array([[0.7, 0.1], [0.2, 0.4], [0.1, 0.5]])
    >>> adata = anndata.AnnData(np.ones((4, 3)), varm={"inspire_loadings": loadings})
    >>> adata.obsm["inspire_factors"] = np.full((4, 2), 0.5)
    >>> found = marker_ranks(adata, {"late": ["1", "2"]})
    >>> found[["factor", "best_gene", "auc"]].to_numpy().tolist()
    [[1, '2', 1.0], [0, '1', 0.0]]
    """
    import pandas as pd

    read = stored_patterns(atlas, key)
    written = key_added or f"{key}_marker_ranks"
    refuse_existing(read.atlas, uns=[written], overwrite=overwrite)
    names, loadings = _model(read)
    sets = placed_sets(read_gene_sets(markers), names, f"the result {key!r}", ignore_case=ignore_case)
    n_genes = len(names)
    ranks = np.argsort(np.argsort(-loadings, axis=0, kind="stable"), axis=0, kind="stable")
    rows = []
    for s, name in enumerate(sets.names):
        own = sets.members[sets.starts[s] : sets.starts[s + 1]]
        mean = ranks[own].mean(axis=0)
        auc = 1 - (mean - (len(own) - 1) / 2) / (n_genes - len(own))
        for k in np.argsort(-auc, kind="stable").tolist():
            best = own[ranks[own, k].argmin()]
            figures = (
                len(own),
                float(np.median(ranks[own, k])),
                int(ranks[best, k]),
                names[best],
                float(auc[k]),
            )
            rows.append((name, k, *figures))
    columns = ["gene_set", "factor", "n_genes", "median_rank", "best_rank", "best_gene", "auc"]
    frame = pd.DataFrame(rows, columns=columns)
    used = np.unique(sets.members)
    record = {"genes": [names[g] for g in used], "ranks": ranks[used]}
    with ResultWriter(read.atlas, overwrite=overwrite) as writer:
        writer.uns(written, record | columns_of(frame), tables=read.names)
    return frame


def enrichment(
    atlas: AtlasLike,
    gene_sets: Any,
    key: str = "inspire",
    *,
    method: str = "both",
    n_top: int = 50,
    min_genes: int = 5,
    max_genes: int = 500,
    n_permutations: int = 1000,
    ignore_case: bool = False,
    key_added: str | None = None,
    overwrite: bool = False,
    random_state: int = 0,
) -> pd.DataFrame:
    """Test every factor against sets of genes, by over-representation and by their place in the ranking.

    Over-representation counts a factor's own genes (see :func:`factor_genes`) in the set against the genes of
    the model. GSEA ranks all genes of the model by the log ratio of their loading on the factor to the mean
    of those on the others.

    Parameters
    ----------
    atlas, key, n_top, overwrite
        As in :func:`factor_genes`.
    gene_sets
        Sets of genes: see :func:`atlasnmf.tl.read_gene_sets`.
    method
        ``"over_representation"``, ``"gsea"`` or ``"both"``.
    min_genes, max_genes
        Sets with fewer or more genes of the model are left out.
    n_permutations
        Random sets of each size that GSEA compares with.
    ignore_case
        Take ``ACTA2`` for ``Acta2``.
    key_added
        uns key to write, ``<key>_enrichment`` by default: ``gene_sets``, ``n_genes``, and of each method a
        mapping of arrays of shape (K, n_sets).
    random_state
        Seed of the random sets.

    Returns
    -------
    pandas.DataFrame
        ``factor``, ``gene_set``, ``n_genes``; ``n_common``, ``fold``, ``p``, ``q`` and ``genes`` (joined by
        commas) of over-representation; ``score``, ``normalised_score``, ``gsea_p`` and ``gsea_q`` of GSEA. q
        values are Benjamini and Hochberg's within a factor. The smallest q of a factor first.

    Raises
    ------
    BadInput
        There is no such result, or the sets share no gene with it.
    BadOption
        The key exists, or there is no such method.

    Notes
    -----
    Scores are those of gseapy's ``prerank``; random sets are shared by all sets of a size and all factors,
    which is what makes thousands of sets quick.

    Examples
    --------
    >>> import anndata
    >>> loadings = np.array([[0.7, 0.1], [0.2, 0.4], [0.1, 0.5]])
    >>> adata = anndata.AnnData(np.ones((4, 3)), varm={"inspire_loadings": loadings})
    >>> adata.obsm["inspire_factors"] = np.full((4, 2), 0.5)
    >>> found = enrichment(adata, {"late": ["1", "2"]}, min_genes=1, n_top=2, n_permutations=50)
    >>> found[["factor", "gene_set", "n_common", "genes"]].to_numpy().tolist()
    [[0, 'late', 0, ''], [1, 'late', 2, '1,2']]
    """
    if method not in ("over_representation", "gsea", "both"):
        raise BadOption(f"no method {method!r} of enrichment; choose over_representation, gsea or both")
    at_least(1, n_top=n_top, n_permutations=n_permutations, min_genes=min_genes)
    read = stored_patterns(atlas, key)
    written = key_added or f"{key}_enrichment"
    refuse_existing(read.atlas, uns=[written], overwrite=overwrite)
    names, loadings = _model(read)
    limits = {"min_genes": min_genes, "max_genes": max_genes, "ignore_case": ignore_case}
    sets = placed_sets(read_gene_sets(gene_sets), names, f"the result {key!r}", **limits)  # type: ignore[arg-type]
    record: dict[str, Any] = {"gene_sets": list(sets.names), "n_genes": sets.sizes}
    chosen = specific_genes(loadings, n_top)
    if method != "gsea":
        record["over_representation"] = _counted(sets, chosen)
    if method != "over_representation":
        found = preranked_gsea(
            _log_ratios(loadings),
            sets.members,
            sets.starts,
            n_permutations=n_permutations,
            random_state=random_state,
        )
        q = benjamini_hochberg(found.p)
        record["gsea"] = {"score": found.score, "normalised_score": found.normalised, "p": found.p, "q": q}
    with ResultWriter(read.atlas, overwrite=overwrite) as writer:
        params = {"method": method, "n_top": n_top, "n_permutations": n_permutations, "seed": random_state}
        writer.uns(written, record | {"params": params}, tables=read.names)
    return _frame(record, sets, chosen, names)


def _counted(sets: PlacedSets, chosen: np.ndarray) -> dict[str, np.ndarray]:
    n_common = (sets.indicator(len(chosen)) @ chosen.astype(np.int32)).T
    fold, p = over_representation(n_common, chosen.sum(axis=0)[:, None], sets.sizes[None], len(chosen))
    return {"n_common": n_common, "fold": fold, "p": p, "q": benjamini_hochberg(p)}


def _log_ratios(loadings: np.ndarray) -> np.ndarray:
    """Log of a loading over the mean of those on the other factors, both raised by a tenth of the average."""
    n_factors = loadings.shape[1]
    shares = loadings / np.maximum(loadings.sum(axis=0), 1e-300)
    others = (shares.sum(axis=1, keepdims=True) - shares) / max(n_factors - 1, 1)
    floor = 0.1 / len(loadings)
    return np.log2((shares + floor) / (others + floor))


def _frame(
    record: dict[str, Any], sets: PlacedSets, chosen: np.ndarray, names: Sequence[str]
) -> pd.DataFrame:
    import pandas as pd

    n_factors, n_sets = chosen.shape[1], len(sets.names)
    columns: dict[str, Any] = {
        "factor": np.repeat(np.arange(n_factors), n_sets),
        "gene_set": pd.Categorical.from_codes(np.tile(np.arange(n_sets), n_factors), list(sets.names)),
        "n_genes": np.tile(sets.sizes, n_factors),
    }
    if "over_representation" in record:
        columns |= {name: values.ravel() for name, values in record["over_representation"].items()}
        columns["genes"] = _common(sets, chosen, names)
    for name, values in record.get("gsea", {}).items():
        columns[name if "score" in name else f"gsea_{name}"] = values.ravel()
    frame = pd.DataFrame(columns)
    order = ["factor", "q" if "q" in frame else "gsea_q"]
    return frame.sort_values(order, kind="stable", ignore_index=True)


def _common(sets: PlacedSets, chosen: np.ndarray, names: Sequence[str]) -> list[str]:
    indicator = sets.indicator(len(chosen)).tocsc()
    found: list[str] = []
    for k in range(chosen.shape[1]):
        own = np.flatnonzero(chosen[:, k])
        common = indicator[:, own].tocsr()
        common.sort_indices()
        edges = common.indptr
        texts = [names[own[at]] for at in common.indices]
        found += [",".join(texts[edges[s] : edges[s + 1]]) for s in range(len(sets.names))]
    return found
