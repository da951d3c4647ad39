"""Plain arrays in, numbers out."""

from atlasnmf.metrics.coherence import (
    CoOccurrence,
    add_cooccurrence,
    cooccurrence,
    factor_coherence,
)
from atlasnmf.metrics.factors import (
    FactorMatch,
    factor_diversity,
    hungarian_match,
    matched_correlation,
    top_genes,
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
from atlasnmf.metrics.spatial import morans_i

__all__ = [
    "CoOccurrence",
    "FactorMatch",
    "add_cooccurrence",
    "adjusted_rand",
    "completeness",
    "cooccurrence",
    "factor_coherence",
    "factor_diversity",
    "homogeneity",
    "hungarian_match",
    "label_codes",
    "matched_correlation",
    "morans_i",
    "normalised_mutual_information",
    "silhouette",
    "top_genes",
    "v_measure",
]
