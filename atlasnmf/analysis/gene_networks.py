"""Genes that go together in a pattern: its most important ones, joined where reconstructions agree most."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.metrics.markers import marker_genes, reconstruction_similarity

if TYPE_CHECKING:
    import networkx

__all__ = ["gene_networks"]


def gene_networks(
    coefficients: np.ndarray,
    gram: np.ndarray,
    sums: np.ndarray,
    n_spots: int,
    *,
    genes: np.ndarray | list[str] | None = None,
    top_share: float = 0.0025,
    n_top: int | None = None,
    edge_share: float = 0.05,
) -> list[networkx.Graph]:
    """Build a network of genes for each pattern.

    Parameters
    ----------
    coefficients
        Shape (G, K), non-negative.
    gram, sums
        Sums over spots of d d', shape (K, K), and of d, shape (K,), with d the patterns of a spot.
    n_spots
        Spots summed.
    genes
        Names of the genes; numbers when not given.
    top_share
        Genes of a network: this share of all genes, the most important of the pattern (0.25 % as published).
    n_top
        Or: this many genes.
    edge_share
        Edges: this share of the pairs of a network's genes, those whose reconstructions correlate most.

    Returns
    -------
    list of networkx.Graph
        One a pattern. Nodes are genes with ``importance``; edges have ``correlation``.

    Raises
    ------
    BadInput
        Coefficients or names do not fit.
    BadOption
        A share is out of range.

    References
    ----------
    Cahill et al., PNAS (2024), "sGCNs"; Wu et al., PNAS 113 (2016).

    Notes
    -----
    Correlations of reconstructions follow from the patterns' Gram matrix: no spot is read.

    Examples
    --------
    >>> patterns = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> loadings = np.array([[3.0, 0.0], [2.0, 1.0], [0.0, 1.0]])
    >>> first, second = gene_networks(
    ...     loadings, patterns.T @ patterns, patterns.sum(axis=0), 3, genes=["a", "b", "c"], n_top=2
    ... )
    >>> list(first.nodes), list(first.edges), list(second.nodes)
    (['a', 'b'], [('a', 'b')], ['c'])
    """
    import networkx

    for name, share in (("top_share", top_share), ("edge_share", edge_share)):
        if not 0 < share <= 1:
            raise BadOption(f"{name} must lie in (0, 1], got {share}")
    loadings = np.asarray(coefficients, np.float64)
    names = [str(g) for g in range(len(loadings))] if genes is None else [str(gene) for gene in genes]
    if len(names) != len(loadings):
        raise BadInput(f"{len(names)} names for {len(loadings)} genes; pass one per gene")
    markers = marker_genes(loadings)
    n_genes = max(round(top_share * len(loadings)), 2) if n_top is None else n_top
    networks = []
    for pattern in range(loadings.shape[1]):
        chosen = markers.ranked(pattern, n_genes)
        network = networkx.Graph(pattern=pattern)
        for gene in chosen.tolist():
            network.add_node(names[gene], importance=float(markers.importance[gene]))
        similarity = reconstruction_similarity(loadings[chosen], gram, sums, n_spots)
        first, second = np.triu_indices(len(chosen), 1)
        n_edges = int(np.ceil(edge_share * len(first)))
        strongest = np.argsort(-similarity[first, second], kind="stable")[:n_edges]
        for a, b in zip(first[strongest].tolist(), second[strongest].tolist(), strict=True):
            network.add_edge(names[chosen[a]], names[chosen[b]], correlation=float(similarity[a, b]))
        networks.append(network)
    return networks
