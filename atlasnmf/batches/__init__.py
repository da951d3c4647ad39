"""Which rows a step sees (samplers), where they are (sources), and reading them in time (loader)."""

from __future__ import annotations

from atlasnmf.batches.loader import Loader
from atlasnmf.batches.residency import choose_residency, planned_bytes
from atlasnmf.batches.samplers import BlockSampler, TileSampler, spread_rows
from atlasnmf.batches.sources import HeldCsr, HeldDense, SpotSource

__all__ = [
    "BlockSampler",
    "HeldCsr",
    "HeldDense",
    "Loader",
    "SpotSource",
    "TileSampler",
    "choose_residency",
    "planned_bytes",
    "spread_rows",
]
