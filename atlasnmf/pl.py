"""Plots of stored results (scverse's ``pl``); every function returns Axes."""

from atlasnmf.plots import (
    domains,
    factors,
    gene_networks,
    history,
    instability,
    marker_heatmap,
    projections,
    region_bubbles,
)

__all__ = [
    "domains",
    "factors",
    "gene_networks",
    "history",
    "instability",
    "marker_heatmap",
    "projections",
    "region_bubbles",
]
