"""Tools: what to do with an atlas and its results (scverse's ``tl``)."""

from atlasnmf.analysis.domains import domains
from atlasnmf.pipeline.baselines import baseline

__all__ = ["baseline", "domains"]
