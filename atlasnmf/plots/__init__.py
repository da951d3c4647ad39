"""Figures of stored results; nothing here changes matplotlib's settings."""

from atlasnmf.plots.curves import history
from atlasnmf.plots.maps import domains, factors

__all__ = ["domains", "factors", "history"]
