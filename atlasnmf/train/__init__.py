"""The one loop, its checkpoints and its listeners."""

from __future__ import annotations

from atlasnmf.train.callbacks import EarlyStop, Progress, RefuseDivergence
from atlasnmf.train.checkpoint import Checkpoint, fit_key
from atlasnmf.train.history import History
from atlasnmf.train.loop import run
from atlasnmf.train.method import Callback, Method, Units

__all__ = [
    "Callback",
    "Checkpoint",
    "EarlyStop",
    "History",
    "Method",
    "Progress",
    "RefuseDivergence",
    "Units",
    "fit_key",
    "run",
]
