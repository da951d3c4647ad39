"""Figures of stored results; nothing here changes matplotlib's settings."""

from atlasnmf.plots.curves import history
from atlasnmf.plots.gene_figures import gene_networks, marker_heatmap
from atlasnmf.plots.maps import domains, factors
from atlasnmf.plots.pair_figures import factor_types, holdout, imputed
from atlasnmf.plots.projections import projections
from atlasnmf.plots.region_figures import region_bubbles
from atlasnmf.plots.stability import instability

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
