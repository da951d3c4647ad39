"""Plots of stored results (scverse's ``pl``); every function returns Axes."""

from atlasnmf.plots import domains, factors, history

__all__ = ["domains", "factors", "history"]
