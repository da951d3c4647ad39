"""What factors and embeddings say about the tissue; reads results, writes results."""

from atlasnmf.analysis.baseline import quality, quality_beside_baseline
from atlasnmf.analysis.domains import assign_domains, domains

__all__ = ["assign_domains", "domains", "quality", "quality_beside_baseline"]
