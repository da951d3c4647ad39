"""Plots of stored results (scverse's ``pl``); every function returns Axes."""

from atlasnmf.plots import (
    domains,
    factor_types,
    factors,
    gene_networks,
    history,
    holdout,
    imputed,
    instability,
    marker_heatmap,
    projections,
    region_bubbles,
)

__all__ = [
    "domains",
    "factor_types",
    "factors",
    "gene_networks",
    "history",
    "holdout",
    "imputed",
    "instability",
    "marker_heatmap",
    "projections",
    "region_bubbles",
]
