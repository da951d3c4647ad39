"""What patterns in a store say: smoothness, reconstruction, markers, networks, rivals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.analysis.comparisons import comparison_patterns
from atlasnmf.analysis.gene_networks import gene_networks as networks_of
from atlasnmf.analysis.stored_patterns import StoredPatterns, stored_patterns
from atlasnmf.analysis.values import written_out
from atlasnmf.metrics import morans_i as moran
from atlasnmf.metrics.markers import genes_per_pattern, marker_genes, patterns_per_gene
from atlasnmf.metrics.reconstruction import (
    ReconstructionSums,
    reconstruction_correlation,
    reconstruction_sums,
)
from atlasnmf.options import at_least
from atlasnmf.store.results import ResultWriter, refuse_existing

if TYPE_CHECKING:
    import networkx
    import pandas as pd

    from atlasnmf.store.atlas import AtlasLike

__all__ = [
    "comparisons",
    "gene_networks",
    "markers",
    "morans_i",
    "reconstruction",
]


def _write_uns(read: StoredPatterns, key: str, record: dict[str, Any], overwrite: bool) -> None:
    with ResultWriter(read.atlas, overwrite=overwrite) as writer:
        writer.uns(key, record, tables=read.names)


def morans_i(
    atlas: AtlasLike,
    key: str = "stanmf",
    *,
    n_neighbors: int = 6,
    key_added: str | None = None,
    overwrite: bool = False,
) -> np.ndarray:
    """Measure how smoothly each pattern lies in space: Moran's I.

    Parameters
    ----------
    atlas
        An open atlas, the path of a store, or data in memory (which is changed).
    key
        Name of the result.
    n_neighbors
        Of spots that are no voxels. Voxels (``obsm["voxel"]``) are joined where they share a face.
    key_added
        uns key to write, ``<key>_morans_i`` by default.
    overwrite
        Replace an older one.

    Returns
    -------
    numpy.ndarray
        float64, shape (K,); over all slices, which are not joined.

    Raises
    ------
    BadInput
        There is no such result.
    BadOption
        The key exists.

    Examples
    --------
    >>> import atlasnmf as an
    >>> smoothness = an.tl.morans_i("brain.zarr", "stanmf")
    >>> smoothness.shape, bool(smoothness.min() > 0.3)
    ((4,), True)
    """
    read = stored_patterns(atlas, key)
    written = key_added or f"{key}_morans_i"
    refuse_existing(read.atlas, uns=[written], overwrite=overwrite)
    found = moran(read.patterns, read.graph(n_neighbors=n_neighbors))
    _write_uns(read, written, {"morans_i": found, "mean": float(np.nanmean(found))}, overwrite)
    return found


def reconstruction(
    atlas: AtlasLike,
    key: str = "stanmf",
    *,
    transform: str | None = None,
    target_sum: float | None = None,
    key_added: str | None = None,
    overwrite: bool = False,
) -> pd.Series:
    """Correlate every gene with what patterns times coefficients make of it.

    Parameters
    ----------
    atlas, key, overwrite
        As in :func:`morans_i`.
    transform, target_sum
        What was factorised, ``"log"`` or ``"none"``; as the fit noted when not given.
    key_added
        varm key to write, shape (G, 1), ``<key>_reconstruction`` by default.

    Returns
    -------
    pandas.Series
        Pearson correlation by gene; NaN for genes outside the model and constant ones.

    Notes
    -----
    One pass over the values, in runs of 8192 spots; what is held are sums of a few numbers a gene.

    Examples
    --------
    >>> import atlasnmf as an
    >>> by_gene = an.tl.reconstruction("brain.zarr", "stanmf")
    >>> len(by_gene), bool(by_gene.median() > 0.5)
    (60, True)
    """
    import pandas as pd

    read = stored_patterns(atlas, key)
    written = key_added or f"{key}_reconstruction"
    refuse_existing(read.atlas, varm=[written], overwrite=overwrite)
    sums, start = None, 0
    for rows in read.values(transform, target_sum):
        run = slice(start, start + rows.n_rows)
        start += rows.n_rows
        known = read.finite[run]
        part = reconstruction_sums(rows.to_scipy()[known], read.patterns[run][known])
        sums = part if sums is None else sums + part
    assert isinstance(sums, ReconstructionSums)
    found = reconstruction_correlation(sums, read.coefficients)
    with ResultWriter(read.atlas, overwrite=overwrite) as writer:
        writer.varm(written, found[:, None], read.genes, tables=read.names)
    return pd.Series(found, index=list(read.genes), name="pearson")


def markers(
    atlas: AtlasLike,
    key: str = "stanmf",
    *,
    n_top: int = 10,
    key_added: str | None = None,
    overwrite: bool = False,
) -> pd.DataFrame:
    """Give every gene to its main pattern and rank the genes of a pattern by importance.

    Parameters
    ----------
    atlas, key, overwrite
        As in :func:`morans_i`.
    n_top
        Genes returned of each pattern.
    key_added
        uns key to write, ``<key>_markers`` by default: ``genes``, ``pattern`` and ``importance`` of all
        genes, ``genes_per_pattern``, and ``patterns_per_gene``.

    Returns
    -------
    pandas.DataFrame
        ``pattern``, ``rank``, ``gene``, ``importance``.

    Examples
    --------
    >>> import atlasnmf as an
    >>> found = an.tl.markers("brain.zarr", "stanmf", n_top=3)
    >>> found[found["rank"] == 0]["pattern"].tolist()
    [0, 1, 2, 3]
    """
    import pandas as pd

    at_least(1, n_top=n_top)
    read = stored_patterns(atlas, key)
    written = key_added or f"{key}_markers"
    refuse_existing(read.atlas, uns=[written], overwrite=overwrite)
    found = marker_genes(read.coefficients)
    record = {
        "genes": list(read.genes),
        "pattern": found.pattern,
        "importance": found.importance,
        "genes_per_pattern": genes_per_pattern(read.coefficients),
        "patterns_per_gene": patterns_per_gene(read.coefficients),
    }
    _write_uns(read, written, record, overwrite)
    rows = [
        {"pattern": k, "rank": rank, "gene": read.genes[g], "importance": float(found.importance[g])}
        for k in range(read.n_patterns)
        for rank, g in enumerate(found.ranked(k, n_top).tolist())
    ]
    return pd.DataFrame(rows, columns=["pattern", "rank", "gene", "importance"])


def gene_networks(
    atlas: AtlasLike,
    key: str = "stanmf",
    *,
    top_share: float = 0.0025,
    n_top: int | None = None,
    edge_share: float = 0.05,
    key_added: str | None = None,
    overwrite: bool = False,
) -> list[networkx.Graph]:
    """Build a network of genes for each pattern; see :func:`atlasnmf.analysis.gene_networks.gene_networks`.

    Parameters
    ----------
    atlas, key, overwrite
        As in :func:`morans_i`.
    top_share, n_top, edge_share
        Which genes and which edges.
    key_added
        uns key to write, ``<key>_networks`` by default: ``nodes`` (pattern, gene, importance) and ``edges``
        (pattern, source, target, correlation).

    Returns
    -------
    list of networkx.Graph
        One a pattern.

    Examples
    --------
    >>> import atlasnmf as an
    >>> networks = an.tl.gene_networks("brain.zarr", "stanmf", n_top=5)
    >>> [len(network) for network in networks]
    [5, 5, 5, 5]
    """
    at_least(1, n_top=1 if n_top is None else n_top)
    read = stored_patterns(atlas, key)
    written = key_added or f"{key}_networks"
    refuse_existing(read.atlas, uns=[written], overwrite=overwrite)
    known = read.patterns[read.finite].astype(np.float64)
    networks = networks_of(
        read.coefficients,
        known.T @ known,
        known.sum(axis=0),
        len(known),
        genes=list(read.genes),
        top_share=top_share,
        n_top=n_top,
        edge_share=edge_share,
    )
    nodes = [
        {"pattern": k, "gene": gene, "importance": importance}
        for k, network in enumerate(networks)
        for gene, importance in network.nodes(data="importance")
    ]
    edges = [
        {"pattern": k, "source": source, "target": target, "correlation": correlation}
        for k, network in enumerate(networks)
        for source, target, correlation in network.edges(data="correlation")
    ]
    _write_uns(read, written, {"nodes": nodes, "edges": edges}, overwrite)
    return networks


def comparisons(
    atlas: AtlasLike,
    key: str = "stanmf",
    *,
    transform: str | None = None,
    target_sum: float | None = None,
    key_added: str = "comparison",
    overwrite: bool = False,
    random_state: int = 0,
) -> dict[str, np.ndarray]:
    """Find as many patterns by PCA, PCA + k-means, PCA + hierarchical, and hierarchical on the patterns.

    Parameters
    ----------
    atlas, key, overwrite
        As in :func:`morans_i`.
    transform, target_sum
        As in :func:`reconstruction`.
    key_added
        Start of the obsm keys: ``<key_added>_pca``, ``_pca_kmeans``, ``_pca_hierarchical`` and
        ``_stanmf_hierarchical``, to be given as ``key`` to the other functions.
    random_state
        Seed.

    Returns
    -------
    dict
        float32 of shape (n, K), by name.

    Examples
    --------
    >>> import atlasnmf as an
    >>> found = an.tl.comparisons("brain.zarr", "stanmf")
    >>> sorted(found)
    ['pca', 'pca_hierarchical', 'pca_kmeans', 'stanmf_hierarchical']
    >>> an.tl.morans_i("brain.zarr", "comparison_pca").shape
    (4,)
    """
    read = stored_patterns(atlas, key)
    names = ("pca", "pca_kmeans", "pca_hierarchical", "stanmf_hierarchical")
    refuse_existing(read.atlas, obsm=[f"{key_added}_{name}" for name in names], overwrite=overwrite)
    found = comparison_patterns(
        lambda: (written_out(rows.to_scipy()) for rows in read.values(transform, target_sum)),
        read.patterns,
        random_state=random_state,
    )
    with ResultWriter(read.atlas, overwrite=overwrite) as writer:
        for name, values in found.items():
            writer.per_spot(f"{key_added}_{name}", values.shape[1], tables=read.names)
            writer.put_spots(f"{key_added}_{name}", read.spots, values)
    return found
