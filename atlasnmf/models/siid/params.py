"""What SIID can be told, checked once, and what it asks of the pair. Light: no numerics here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from atlasnmf.options import FactorCount, Options
from atlasnmf.schema import Needs, PairNeeds

__all__ = [
    "CLASS_NAME",
    "EXAMPLE",
    "FACTOR_LADDER",
    "PRESETS",
    "RESULTS",
    "SHARES",
    "SUMMARY",
    "Params",
    "check",
    "needs",
    "quality_lines",
]

SUMMARY = "Impute a targeted panel and deconvolve a coarse slice of the same tissue (SIID)."
CLASS_NAME = "Siid"
EXAMPLE = "--fine xenium --coarse visium --n-factors 20 --holdout 0.1"
RESULTS = {
    "obsm": ("siid_factors", "siid_proportions"),
    "varm": ("siid_loadings",),
    "obs": ("siid_type", "siid_depth"),
}
SHARES = ("siid_factors", "siid_proportions")

#: What ``n_factors="auto"`` compares.
FACTOR_LADDER = (8, 12, 16, 20, 24, 32, 40)


class Params(Options):
    """Parameters of SIID; the defaults are those of the ``default`` preset."""

    fine: str | None = Field(None, description="Table of the fine slice: cells, a targeted panel.")
    coarse: str | None = Field(None, description="Table of the coarse slice: spots, many genes.")
    n_factors: FactorCount = Field(
        20, description="Factors h shared by both slices; auto compares some on molecules set aside."
    )
    max_distance: float | None = Field(
        None,
        gt=0,
        description="Cells farther than this from every coarse spot are not linked, in the coordinates' "
        "unit; the spacing of the coarse spots when not given.",
    )
    links: int = Field(
        1, ge=1, le=16, description="Coarse spots a cell is shared among, by distance (published: 1)."
    )
    affine: str | None = Field(
        None, description="Moves the fine coordinates first: rows of [A | b], such as 1,0,5;0,1,-2."
    )
    align: bool = Field(
        False, description="Estimate a rotation and shift of the fine coordinates first, with a score."
    )
    holdout: str | None = Field(
        None,
        description="Panel genes hidden from the fine slice and scored: a file, a comma list, a share "
        "such as 0.1, or 10fold.",
    )
    impute: str | None = Field(
        None,
        description="Genes whose imputed counts are written for every cell: a file, a comma list, panel or "
        "all; any can be computed later from the factors.",
    )
    coarse_counts: Literal["poisson", "negative-binomial"] = Field(
        "poisson", description="Distribution of the coarse counts."
    )
    out_of_panel: Literal["after", "jointly", "none"] = Field(
        "after",
        description="Genes of the coarse slice alone: fitted when the rest is done, or with it, or left out.",
    )
    restarts: int = Field(3, ge=1, description="Starts that share the first passes; the best goes on.")
    restart_passes: int = Field(15, ge=1, description="Passes after which the best start goes on alone.")
    passes: int = Field(200, ge=1, description="Most passes over both slices.")
    tol: float = Field(
        5e-4, ge=0, description="Done when a pass lowers the loss by less than this share of it."
    )
    sweeps: int = Field(1, ge=1, le=8, description="Rounds over a cell in a pass.")
    entropy_lambda: float | None = Field(
        None,
        gt=0,
        description="Concentrate cells on few factors: 1000 for imputation, 500 for deconvolution "
        "(published); the schedule takes all passes.",
    )

    @property
    def tables(self) -> tuple[str, ...] | None:
        """The tables of the pair, the fine one first; None when they are not named."""
        if self.fine is None or self.coarse is None:
            return None
        return self.fine, self.coarse


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "deconvolution": {"entropy_lambda": 500.0, "passes": 80, "restart_passes": 20},
    "published": {
        "entropy_lambda": 1000.0,
        "out_of_panel": "none",
        "passes": 150,
        "restart_passes": 150,
        "tol": 0.0,
    },
}


def check(params: Params, genes: tuple[str, ...], seed: int) -> None:
    """Refuse a holdout that does not go with the genes both slices have."""
    from atlasnmf.models.siid.holdout import held_out

    held_out(params.holdout, genes, seed=seed)


def needs(params: Params, n_spots: int) -> Needs:
    """Return what ``prepare`` must provide: both slices in one frame, linked."""
    return Needs(
        min_slices=2,
        min_genes=2 if params.n_factors == "auto" else params.n_factors,
        n_hvgs=0,
        gene_union=True,
        passes=True,
        pair=PairNeeds(
            max_distance=params.max_distance,
            n_links=params.links,
            affine=params.affine,
            align=params.align,
            coarse_only=params.out_of_panel != "none",
        ),
    )


def quality_lines(quality: Mapping[str, Any]) -> list[str]:
    """Return the number of factors, their agreement with known types, and the scores of a holdout.

    Examples
    --------
    >>> quality_lines({"n_factors": 8, "r2": 0.2, "n_genes": 31, "baselines": {"A": 0.02}})
    ['8 factors', '31 genes held out: mean R2 0.200; baselines A 0.020']
    """
    lines = [f"{quality['n_factors']} factors"] if "n_factors" in quality else []
    if "ari" in quality:
        lines.append(f"types of cells: ARI {quality['ari']:.3f}, NMI {quality['nmi']:.3f}")
    if "r2" in quality:
        plain = ", ".join(f"{name} {value:.3f}" for name, value in quality["baselines"].items())
        lines.append(f"{quality['n_genes']} genes held out: mean R2 {quality['r2']:.3f}; baselines {plain}")
    return lines
