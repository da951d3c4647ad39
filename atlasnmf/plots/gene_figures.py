"""Genes of patterns: a heat map of markers, and networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.metrics.markers import marker_genes
from atlasnmf.plots.axes import axes_grid, colour_bar, one_axes
from atlasnmf.plots.stored import coefficients_of, record_of
from atlasnmf.plots.style import CONTINUOUS, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from atlasnmf.store.atlas import AtlasLike

__all__ = ["gene_networks", "loadings", "marker_heatmap"]


def marker_heatmap(
    atlas: AtlasLike,
    key: str = "stanmf",
    *,
    n_top: int | None = 5,
    cmap: str = CONTINUOUS,
    panel_width: float = 3.2,
    axes: Axes | None = None,
) -> Axes:
    """Draw what markers take of each pattern: a row per gene, a column per pattern, colour the gene's share.

    Parameters
    ----------
    atlas
        An open atlas, the path of a store, or data in memory.
    key
        A result with coefficients.
    n_top
        Genes of each pattern, the most important; None draws all genes of the model, without names.
    cmap
        A matplotlib colour map.
    panel_width
        Inches.
    axes
        Axes to draw on; a new figure when not given.

    Returns
    -------
    matplotlib.axes.Axes
        Genes are sorted by their main pattern, then by importance a_kj / sum_k a_kj.

    Raises
    ------
    BadInput
        There is no such result.

    Examples
    --------
    >>> import atlasnmf as an
    >>> axes = an.pl.marker_heatmap("brain.zarr", "stanmf", n_top=3)
    >>> len(axes.get_yticklabels())
    12
    """
    names, coefficients = coefficients_of(atlas, key)
    markers = marker_genes(coefficients)
    ranked = [markers.ranked(pattern, n_top) for pattern in range(coefficients.shape[1])]
    genes = np.concatenate(ranked)
    if not len(genes):
        raise BadInput(f"no gene takes part in a pattern of {key!r}; fit the model again")
    shares = coefficients[genes] / coefficients[genes].sum(axis=1, keepdims=True)
    with styled():
        height = 5.0 if n_top is None else 0.13 * len(genes) + 0.8
        axes = one_axes(axes, panel_width, height)
        artist = axes.imshow(shares, aspect="auto", cmap=cmap, vmin=0, vmax=1, interpolation="nearest")
        axes.set_xticks(range(shares.shape[1]))
        axes.set_xlabel("pattern")
        if n_top is None:
            axes.set_yticks([])
            axes.set_ylabel(f"{len(genes)} genes")
        else:
            axes.set_yticks(range(len(genes)), names[genes], fontsize=6)
        for end in np.cumsum([len(part) for part in ranked])[:-1]:
            axes.axhline(end - 0.5, color="white", linewidth=0.6)
        axes.tick_params(length=0)
        colour_bar(artist, axes, "share of the gene", shrink=0.5, pad=0.02)
    return axes


def loadings(
    atlas: AtlasLike,
    key: str = "inspire",
    *,
    factors: Sequence[int] | None = None,
    n_top: int = 5,
    n_strong: int = 50,
    cmap: str = CONTINUOUS,
    panel_width: float = 4.0,
    axes: Axes | None = None,
) -> Axes:
    """Draw the genes that set factors apart: a row per gene, a column per factor.

    Parameters
    ----------
    atlas
        An open atlas, the path of a store, or data in memory.
    key
        A result with loadings or coefficients.
    factors
        Which factors, from 0; all when not given.
    n_top
        Genes of each factor: of its ``n_strong`` largest loadings, those largest relative to the gene's mean
        over factors. A gene is drawn once, at the first factor it tells.
    n_strong
        Genes among which they are chosen.
    cmap
        A matplotlib colour map.
    panel_width
        Inches.
    axes
        Axes to draw on; a new figure when not given.

    Returns
    -------
    matplotlib.axes.Axes
        Colours are loadings as a share of the gene's largest.

    Raises
    ------
    BadInput
        There is no such result.
    BadOption
        There is no such factor.

    Examples
    --------
    >>> import anndata, matplotlib
    >>> matplotlib.use("Agg")
    >>> adata = anndata.AnnData(np.ones((2, 3)), varm={"inspire_loadings": np.eye(3)[:, :2]})
    >>> adata.var_names = ["Shh", "Pax6", "Actb"]
    >>> [label.get_text() for label in loadings(adata, n_top=1).get_yticklabels()]
    ['Shh', 'Pax6']
    """
    names, weights = coefficients_of(atlas, key)
    usable = np.isfinite(weights).all(axis=1)
    names, weights = names[usable], np.asarray(weights[usable], np.float64)
    chosen = list(range(weights.shape[1])) if factors is None else [int(factor) for factor in factors]
    for factor in chosen:
        if not 0 <= factor < weights.shape[1]:
            raise BadOption(f"no factor {factor} in {key!r}; choose from 0 to {weights.shape[1] - 1}")
    lift = weights / np.maximum(weights.mean(axis=1, keepdims=True), 1e-30)
    genes: dict[int, None] = {}
    ends = []
    for factor in chosen:
        strong = np.argsort(-weights[:, factor], kind="stable")[:n_strong]
        strong = strong[weights[strong, factor] > 0]
        telling = strong[np.argsort(-lift[strong, factor], kind="stable")]
        genes.update(dict.fromkeys([g for g in telling.tolist() if g not in genes][:n_top]))
        ends.append(len(genes))
    if not genes:
        raise BadInput(f"no gene takes part in a factor of {key!r}; fit the model again")
    rows = weights[list(genes)]
    with styled():
        axes = one_axes(axes, panel_width, 0.13 * len(genes) + 0.8)
        shown = rows[:, chosen] / rows.max(axis=1, keepdims=True)
        artist = axes.imshow(shown, aspect="auto", cmap=cmap, vmin=0, vmax=1, interpolation="nearest")
        axes.set_xticks(range(len(chosen)), [str(factor) for factor in chosen], fontsize=6)
        axes.set_xlabel("factor")
        axes.set_yticks(range(len(genes)), names[list(genes)], fontsize=6)
        for end in ends[:-1]:
            axes.axhline(end - 0.5, color="white", linewidth=0.6)
        axes.tick_params(length=0)
        colour_bar(artist, axes, "share of the gene's largest loading", shrink=0.5, pad=0.02)
    return axes


def gene_networks(
    source: AtlasLike | Mapping[str, Any],
    key: str = "stanmf",
    *,
    patterns: Sequence[int] | None = None,
    cmap: str = CONTINUOUS,
    n_columns: int = 4,
    panel_width: float = 2.2,
    axes: Any = None,
) -> np.ndarray:
    """Draw the gene networks of patterns: nodes coloured by importance, edges by correlation.

    Parameters
    ----------
    source
        An open atlas, the path of a store, data in memory, or the record of ``tl.gene_networks`` itself.
    key
        The result; ``uns["<key>_networks"]`` is read.
    patterns
        Which patterns; all with genes when not given.
    cmap
        A matplotlib colour map.
    n_columns, panel_width
        Panels in a row, and inches.
    axes
        Axes to draw on, one a pattern; a new figure when not given.

    Returns
    -------
    numpy.ndarray
        Axes, shape (n_patterns,).

    Raises
    ------
    BadInput
        There are no networks.
    BadOption
        There is no such pattern, or another number of axes was given.

    Examples
    --------
    >>> import atlasnmf as an
    >>> _ = an.tl.gene_networks("brain.zarr", "stanmf", n_top=5)
    >>> an.pl.gene_networks("brain.zarr", "stanmf", patterns=[0, 1]).shape
    (2,)
    """
    record = record_of(source, f"{key}_networks", f"run tl.gene_networks with {key!r} first")
    nodes, edges = record.get("nodes"), record.get("edges")
    if not isinstance(nodes, Mapping) or not len(nodes["gene"]):
        raise BadInput(f"the networks of {key!r} have no genes; make them again with more genes")
    there = sorted({int(pattern) for pattern in nodes["pattern"]})
    chosen = there if patterns is None else [int(pattern) for pattern in patterns]
    for pattern in chosen:
        if pattern not in there:
            raise BadOption(f"no network of pattern {pattern}; there are {', '.join(map(str, there))}")
    with styled():
        made = axes_grid(
            axes, len(chosen), "network", n_columns=n_columns, width=panel_width, height=panel_width
        )
        for axis, pattern in zip(made, chosen, strict=True):
            _draw(axis, _network(pattern, nodes, edges), cmap)
            axis.set_title(f"pattern {pattern}")
    return made


def _network(pattern: int, nodes: Mapping[str, Any], edges: Any) -> Any:
    import networkx

    network = networkx.Graph()
    own = np.flatnonzero(np.asarray(nodes["pattern"]) == pattern)
    for i in own:
        network.add_node(str(nodes["gene"][i]), importance=float(nodes["importance"][i]))
    if isinstance(edges, Mapping):  # without any edge there are no columns
        for i in np.flatnonzero(np.asarray(edges["pattern"]) == pattern):
            ends = str(edges["source"][i]), str(edges["target"][i])
            network.add_edge(*ends, correlation=float(edges["correlation"][i]))
    return network


def _draw(axis: Axes, network: Any, cmap: str) -> None:
    import matplotlib as mpl
    import networkx

    places = networkx.circular_layout(network)
    strength = [correlation for _, _, correlation in network.edges(data="correlation")]
    importance = [value for _, value in network.nodes(data="importance")]
    networkx.draw_networkx_edges(
        network,
        places,
        ax=axis,
        edge_color=strength,
        edge_cmap=mpl.colormaps["Greys"],
        edge_vmin=0.0,
        edge_vmax=1.0,
        width=1.0,
    )
    networkx.draw_networkx_nodes(
        network, places, ax=axis, node_color=importance, cmap=cmap, vmin=0.0, vmax=1.0, node_size=40
    )
    for name, (x, y) in places.items():
        axis.text(1.38 * x, 1.18 * y, name, ha="center", va="center", fontsize=5)
    axis.set_axis_off()
    axis.set_xlim(-1.8, 1.8)
    axis.set_ylim(-1.4, 1.4)
