"""Figures of stored results; nothing here changes matplotlib's settings."""

from atlasnmf.plots.compositions import proportions
from atlasnmf.plots.correspondences import label_flow, matches, registration
from atlasnmf.plots.curves import history
from atlasnmf.plots.embeddings import embedding
from atlasnmf.plots.gene_figures import gene_networks, loadings, marker_heatmap
from atlasnmf.plots.gene_maps import genes
from atlasnmf.plots.maps import domains, factors
from atlasnmf.plots.pair_figures import factor_types, holdout, imputed
from atlasnmf.plots.projections import projections
from atlasnmf.plots.region_figures import region_bubbles
from atlasnmf.plots.stability import instability
from atlasnmf.plots.stacks import stack3d

__all__ = [
    "domains",
    "embedding",
    "factor_types",
    "factors",
    "gene_networks",
    "genes",
    "history",
    "holdout",
    "imputed",
    "instability",
    "label_flow",
    "loadings",
    "marker_heatmap",
    "matches",
    "projections",
    "proportions",
    "region_bubbles",
    "registration",
    "stack3d",
]
