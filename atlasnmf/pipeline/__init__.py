"""Wires the stages: the only room that knows them all."""

from __future__ import annotations

from atlasnmf.pipeline.baselines import baseline
from atlasnmf.pipeline.commands import (
    FitOutcome,
    check,
    estimate,
    fit,
    info,
    load_fit,
    prepare,
    prepare_store,
    resume,
)
from atlasnmf.pipeline.fitting import Fit, train
from atlasnmf.pipeline.prepared import Prepared
from atlasnmf.pipeline.request import FitRequest

__all__ = [
    "Fit",
    "FitOutcome",
    "FitRequest",
    "Prepared",
    "baseline",
    "check",
    "estimate",
    "fit",
    "info",
    "load_fit",
    "prepare",
    "prepare_store",
    "resume",
    "train",
]
