"""What INSPIRE can be told, checked once, and what it asks of the atlas. Light: no torch here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from atlasnmf.options import FactorCount, Options
from atlasnmf.schema import Needs

__all__ = [
    "CLASS_NAME",
    "EXAMPLE",
    "FACTOR_LADDER",
    "GAT_SPOTS",
    "LATENT",
    "PRESETS",
    "RESULTS",
    "SHARES",
    "SHARES_STEPS",
    "SUMMARY",
    "TAKES_TENSORS",
    "TRAINED_ONLY",
    "Params",
    "encoder_of",
    "needs",
]

SUMMARY = "Integrate slices into one embedding and one set of non-negative spatial factors (INSPIRE)."
CLASS_NAME = "Inspire"
EXAMPLE = "--n-factors 20 --memory-budget 4GB"
RESULTS = {
    "obsm": ("X_inspire", "inspire_factors", "inspire_discriminator"),
    "varm": ("inspire_loadings",),
}
SHARES = ("inspire_factors",)
#: The discriminators compare trained slices and say nothing of new ones.
TRAINED_ONLY = ("inspire_discriminator",)

#: Several workers can share a step.
SHARES_STEPS = True

#: Batches may hold tensors of the device.
TAKES_TENSORS = True

#: Width of the embedding, P in the paper.
LATENT = 32

#: ``encoder="auto"`` attends over neighbours below this many spots and averages them above.
GAT_SPOTS = 50_000

#: What ``n_factors="auto"`` tries, the largest first; the last is taken when none is diverse enough.
FACTOR_LADDER = (60, 40, 30, 20, 12, 8)


class Params(Options):
    """Parameters of INSPIRE; the defaults are those of the ``default`` preset."""

    n_factors: FactorCount = Field(
        20, description="Spatial factors K: 20 for part of an organ, 40 an organ, 60 an organism; or auto."
    )
    steps: int = Field(500, ge=0, description="Optimisation steps (published: 10 000, from a random start).")
    encoder: Literal["auto", "lgcn", "gat"] = Field(
        "auto", description="lgcn averages neighbours, gat attends over them; auto goes by the atlas's size."
    )
    features: Literal["scores", "genes"] = Field(
        "scores",
        description="What the encoder reads: compact scores of averaged log counts, or genes as published.",
    )
    batch_spots: int = Field(512, ge=8, description="Spots of each slice in a step.")
    warm_start: bool = Field(
        True, description="Start at the smoothed components and the factors of a sample's clusters."
    )
    head: Literal["linear", "elu"] = Field("linear", description="Activation before the factor head.")
    hidden: int = Field(512, ge=1, description="Width of the hidden layers.")
    learning_rate: float = Field(5e-4, gt=0, description="Learning rate of both optimisers.")
    weight_decay: float = Field(1e-4, ge=0, description="Weight decay of both optimisers.")
    nmf_weight: float = Field(1.0, ge=0, description="Weight of the factorisation.")
    ae_weight: float = Field(1.0, ge=0, description="Weight of the reconstruction.")
    geometry_weight: float = Field(0.02, ge=0, description="Weight of the geometry term, per 2048 spots.")
    prior_weight: float = Field(1.0, ge=0, description="Weight of the term that keeps factors alive.")
    prior_memory: float = Field(
        0.0, ge=0, lt=1, description="Memory of the running mean of the factors in that term."
    )
    gan_weight: float = Field(1.0, ge=0, description="Weight of the adversaries that mix slices; 0: none.")
    radius_rule: Literal["spacing", "published"] = Field(
        "spacing",
        description="Without --radius: each slice's spacing, or 1.1 x the smallest distance of the first.",
    )
    margin: float = Field(
        5.0, gt=0, description="Adversaries ignore spots with a logit beyond this (paper: 50)."
    )
    precision: Literal["float32", "tf32", "bf16"] = Field(
        "float32", description="Products of dense layers: tf32 on CUDA devices, or bf16; other last bits."
    )
    margin_warmup: int = Field(100, ge=0, description="Steps before the margin holds.")


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "published": {
        "steps": 10_000,
        "features": "genes",
        "batch_spots": 2048,
        "head": "elu",
        "warm_start": False,
        "radius_rule": "published",
    },
}


def needs(params: Params, n_spots: int) -> Needs:
    """Return what ``prepare`` must provide for these parameters.

    A published attention decoder attends over neighbours whose own embedding attends over theirs: two hops.
    """
    gat = encoder_of(params, n_spots) == "gat"
    common = Needs(
        min_slices=2 if params.gan_weight else 1,
        min_genes=2 if params.n_factors == "auto" else params.n_factors,
        n_hvgs=6000,
        radius_rule=params.radius_rule,
    )
    if params.features == "scores":
        return replace(
            common,
            n_components=LATENT,
            component_hops=2,
            standardise_genes=True,
            halo=1 if gat else 0,
        )
    return replace(common, hops=0 if gat else 1, halo=2 if gat else 0)


def encoder_of(params: Params, n_spots: int) -> Literal["lgcn", "gat"]:
    """Resolve ``encoder="auto"``."""
    if params.encoder != "auto":
        return params.encoder
    return "gat" if n_spots < GAT_SPOTS else "lgcn"
