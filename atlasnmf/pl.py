"""Plots of stored results (scverse's ``pl``); every function returns Axes."""

from atlasnmf.plots import *  # noqa: F403 - the room's public names
from atlasnmf.plots import __all__ as __all__
