"""Tools: what to do with an atlas and its results (scverse's ``tl``)."""

from atlasnmf.analysis.differential import differential
from atlasnmf.analysis.domains import domains
from atlasnmf.analysis.export import export_communication, usages_table
from atlasnmf.analysis.factor_genes import enrichment, factor_genes, marker_ranks
from atlasnmf.analysis.gene_sets import read_gene_sets, write_gene_sets
from atlasnmf.analysis.impute import impute
from atlasnmf.analysis.label_transfer import label_transfer
from atlasnmf.analysis.layer_enrichment import layer_enrichment
from atlasnmf.analysis.marker_agreement import marker_auc, purity_coverage
from atlasnmf.analysis.matches import match_summary
from atlasnmf.analysis.proportions import proportions
from atlasnmf.analysis.reading import (
    comparisons,
    gene_networks,
    markers,
    morans_i,
    reconstruction,
)
from atlasnmf.analysis.reconstruction_3d import reconstruct_3d
from atlasnmf.analysis.region_tables import read_regions, write_regions, write_tables
from atlasnmf.analysis.slice_mapping import map_slice
from atlasnmf.analysis.spatial_genes import spatial_genes
from atlasnmf.analysis.stored_regions import link_regions, predict_region
from atlasnmf.analysis.subtypes import subtypes
from atlasnmf.analysis.trajectory import trajectory
from atlasnmf.pipeline.baselines import baseline

__all__ = [
    "baseline",
    "comparisons",
    "differential",
    "domains",
    "enrichment",
    "export_communication",
    "factor_genes",
    "gene_networks",
    "impute",
    "label_transfer",
    "layer_enrichment",
    "link_regions",
    "map_slice",
    "marker_auc",
    "marker_ranks",
    "markers",
    "match_summary",
    "morans_i",
    "predict_region",
    "proportions",
    "purity_coverage",
    "read_gene_sets",
    "read_regions",
    "reconstruct_3d",
    "reconstruction",
    "spatial_genes",
    "subtypes",
    "trajectory",
    "usages_table",
    "write_gene_sets",
    "write_regions",
    "write_tables",
]
