"""Tools: what to do with an atlas and its results (scverse's ``tl``)."""

from atlasnmf.analysis.domains import domains
from atlasnmf.analysis.reading import (
    comparisons,
    gene_networks,
    markers,
    morans_i,
    reconstruction,
)
from atlasnmf.analysis.stored_regions import link_regions, predict_region
from atlasnmf.analysis.subtypes import subtypes
from atlasnmf.pipeline.baselines import baseline

__all__ = [
    "baseline",
    "comparisons",
    "domains",
    "gene_networks",
    "link_regions",
    "markers",
    "morans_i",
    "predict_region",
    "reconstruction",
    "subtypes",
]
