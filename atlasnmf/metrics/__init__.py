"""Plain arrays in, numbers out."""

from atlasnmf.metrics.coherence import (
    CoOccurrence,
    add_cooccurrence,
    cooccurrence,
    factor_coherence,
)
from atlasnmf.metrics.differences import (
    GroupSums,
    rank_sum_from_histograms,
    rank_sum_test,
    welch_test,
)
from atlasnmf.metrics.enrichment import Gsea, benjamini_hochberg, over_representation, preranked_gsea
from atlasnmf.metrics.factors import (
    FactorMatch,
    factor_diversity,
    hungarian_match,
    matched_correlation,
    specific_genes,
    top_genes,
)
from atlasnmf.metrics.imputation import (
    GENE_SCORES,
    gene_scores,
    jensen_shannon,
    pearson,
    poisson_ceiling,
    predicted_zeros,
    r_squared,
    spearman,
    spot_baselines,
    structural_similarity,
    z_rmse,
)
from atlasnmf.metrics.labels import (
    adjusted_rand,
    completeness,
    homogeneity,
    label_codes,
    normalised_mutual_information,
    silhouette,
    v_measure,
)
from atlasnmf.metrics.markers import (
    Markers,
    genes_per_pattern,
    marker_genes,
    patterns_per_gene,
    reconstruction_similarity,
)
from atlasnmf.metrics.reconstruction import (
    ReconstructionSums,
    reconstruction_correlation,
    reconstruction_sums,
)
from atlasnmf.metrics.regions import RegionSums, adjacency_on_graph, adjacency_on_grid, region_sums
from atlasnmf.metrics.spatial import morans_i

__all__ = [
    "GENE_SCORES",
    "CoOccurrence",
    "FactorMatch",
    "GroupSums",
    "Gsea",
    "Markers",
    "ReconstructionSums",
    "RegionSums",
    "add_cooccurrence",
    "adjacency_on_graph",
    "adjacency_on_grid",
    "adjusted_rand",
    "benjamini_hochberg",
    "completeness",
    "cooccurrence",
    "factor_coherence",
    "factor_diversity",
    "gene_scores",
    "genes_per_pattern",
    "homogeneity",
    "hungarian_match",
    "jensen_shannon",
    "label_codes",
    "marker_genes",
    "matched_correlation",
    "morans_i",
    "normalised_mutual_information",
    "over_representation",
    "patterns_per_gene",
    "pearson",
    "poisson_ceiling",
    "predicted_zeros",
    "preranked_gsea",
    "r_squared",
    "rank_sum_from_histograms",
    "rank_sum_test",
    "reconstruction_correlation",
    "reconstruction_similarity",
    "reconstruction_sums",
    "region_sums",
    "silhouette",
    "spearman",
    "specific_genes",
    "spot_baselines",
    "structural_similarity",
    "top_genes",
    "v_measure",
    "welch_test",
    "z_rmse",
]
