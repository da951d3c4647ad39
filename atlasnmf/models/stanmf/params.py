"""What staNMF can be told, checked once, and what it asks of the atlas. Light: no numerics here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from atlasnmf.errors import BadOption
from atlasnmf.options import Options
from atlasnmf.schema import Needs

__all__ = [
    "CLASS_NAME",
    "EXAMPLE",
    "PRESETS",
    "RESULTS",
    "SUMMARY",
    "Params",
    "needs",
    "parse_ranks",
    "quality_lines",
    "sketch_width",
    "stack_width",
]

SUMMARY = "Find the stable rank of an atlas and its principal patterns (staNMF)."
CLASS_NAME = "StaNMF"
EXAMPLE = "--ranks 8-30 --replicates 20 --memory-budget 4GB"
#: Columns of a sketch at least.
LEAST_WIDTH = 64
#: Subspace iterations of a start, and the directions that each fit's carry along beyond its rank
#: (scikit-learn's, and its ``n_oversamples``).
START_ITERATIONS, OVERSAMPLED = 7, 10
RESULTS = {"obsm": ("stanmf_patterns",), "varm": ("stanmf_coefficients",)}


def parse_ranks(value: Any) -> tuple[int, ...]:
    """Read ranks such as ``8-30``, ``4,8,12``, a range or a list; ascending, each once.

    Raises
    ------
    ValueError
        Nothing that can be read, or a rank below 2.

    Examples
    --------
    >>> parse_ranks("4-6,10"), parse_ranks(range(8, 11))
    ((4, 5, 6, 10), (8, 9, 10))
    """
    ranks: set[int] = set()
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, Iterable) else [value]
    for part in parts:
        found = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", str(part))
        if not found:
            raise ValueError("write ranks like 8-30 or 4,8,12")
        ranks |= set(range(int(found[1]), int(found[2] or found[1]) + 1))
    if not ranks:
        raise ValueError("no rank is left; write ranks like 8-30 or 4,8,12")
    if min(ranks) < 2:
        raise ValueError("a rank below 2 has no stability to measure; start at 2")
    return tuple(sorted(ranks))


class Params(Options):
    """Parameters of staNMF; the defaults are those of the ``default`` preset."""

    ranks: tuple[int, ...] = Field(
        tuple(range(8, 31)), description="Ranks to compare, such as 8-30 or 4,8,12."
    )
    replicates: int = Field(20, ge=2, description="Fits of every rank (published: 100).")
    perturbation: Literal["genes", "spots", "seeds"] = Field(
        "genes",
        description="What differs between the fits of a rank: resampled genes (published), resampled spots, "
        "or random starts.",
    )
    path: Literal["auto", "compressed", "exact"] = Field(
        "auto",
        description="compressed reads the data in some iterations and a sketch in memory in the others; "
        "exact reads the data in all; auto takes compressed where it pays and fits the memory budget.",
    )
    sketch_width: int | None = Field(
        None,
        ge=2,
        description="Columns of the sketch; four times the largest rank, at least 64, when not given. The "
        "iterations of a rank use twice as many as it has patterns, at least 64.",
    )
    power_iterations: int = Field(2, ge=0, description="Extra passes that sharpen the sketch.")
    max_iterations: int = Field(200, ge=1, description="Most iterations of a fit.")
    tol: float = Field(
        1e-4, ge=0, description="A fit ends when its violation has shrunk to this share of the first."
    )
    exact_iterations: int = Field(
        12, ge=1, description="First iterations of a fit that read the data on the compressed path."
    )
    anchor_every: int = Field(
        2,
        ge=1,
        description="Afterwards every so many iterations read the data, at first; the less the sketch is "
        "found to be off, the fewer.",
    )
    learn_spots: int = Field(
        65_536,
        ge=0,
        description="Spots, in blocks from everywhere, that the coefficients of a larger atlas are learned "
        "from before all spots are gone over; 0 learns from all.",
    )
    last_iterations: int = Field(
        3, ge=1, description="Iterations over all spots after that, and more until the loss settles."
    )
    ranks_together: int | None = Field(
        None,
        ge=1,
        description="Ranks whose fits share every pass; 1 on a sketch, and on the data as many as the memory "
        "budget allows, when not given.",
    )
    warm_ranks: bool = Field(False, description="Start every rank from the fits of the rank before.")
    keep_patterns: Literal["auto", "keep", "recompute"] = Field(
        "auto",
        description="Keep the patterns of all fits of a rank between iterations, or find them anew from the "
        "coefficients; auto keeps them when they fit the memory budget.",
    )
    keep_values: Literal["auto", "keep", "reread"] = Field(
        "auto",
        description="Keep the transformed values of the spots that are learned from and go over them in "
        "this process, or read them in every pass, on workers too; auto keeps them when they fit the budget.",
    )
    transform: Literal["auto", "log", "none"] = Field(
        "auto",
        description="log: counts per 10^4, log1p; none: values as they are; auto: log for counts.",
    )
    precision: Literal["single", "double"] = Field("single", description="Of tiles; sums are always double.")

    @field_validator("ranks", mode="before")
    @classmethod
    def _read_ranks(cls, value: Any) -> tuple[int, ...]:
        return parse_ranks(value)

    @model_validator(mode="after")
    def _one_start(self) -> Params:
        if self.warm_ranks and self.perturbation == "seeds":
            raise ValueError("with --perturbation seeds fits must start by chance; leave --warm-ranks out")
        if self.warm_ranks and (self.ranks_together or 1) > 1:
            raise ValueError("--warm-ranks takes one rank after the other; leave --ranks-together out")
        return self

    @property
    def steps(self) -> None:
        """Unknown: a study ends when its last rank has settled."""
        return None


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "published": {"replicates": 100, "path": "exact", "precision": "double", "learn_spots": 0},
}


def sketch_width(params: Params) -> int:
    """Return the columns of the sketch: four for each pattern of the largest rank, at least 64."""
    return params.sketch_width or max(4 * params.ranks[-1], LEAST_WIDTH)


def stack_width(params: Params, rank: int) -> int:
    """Return the leading columns of the sketch that the iterations of a rank use."""
    return min(max(2 * rank, LEAST_WIDTH), sketch_width(params))


def needs(params: Params, n_spots: int) -> Needs:
    """Return what ``prepare`` must provide: all shared genes, no graph."""
    if params.ranks[-1] >= n_spots:
        raise BadOption(f"--ranks: {params.ranks[-1]} patterns need more than {n_spots} spots; lower it")
    return Needs(integer_counts=False, min_genes=params.ranks[-1] + 1, n_hvgs=0, passes=True)


def quality_lines(quality: Mapping[str, Any]) -> list[str]:
    """Return the chosen rank and the curve it was chosen by.

    Examples
    --------
    >>> quality_lines({"rank": 8, "instability": {"8": 0.02, "9": 0.1}})
    ['chosen rank 8; instability by rank: 8 0.020, 9 0.100']
    """
    curve = ", ".join(f"{rank} {value:.3f}" for rank, value in quality["instability"].items())
    return [f"chosen rank {quality['rank']}; instability by rank: {curve}"]
