"""What SpatialFuser can be told, checked once, and what it asks of the atlas. Light: no torch here."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from atlasnmf.errors import BadOption
from atlasnmf.options import Options, split_list
from atlasnmf.schema import FrameNeeds, Needs

__all__ = [
    "CLASS_NAME",
    "OWN_COMPONENTS",
    "PRESETS",
    "RESULTS",
    "SHARES_STEPS",
    "SUMMARY",
    "TAKES_TENSORS",
    "Params",
    "check",
    "needs",
    "quality_lines",
    "wanted_genes",
]

#: Pairs of slices whose figures are told one by one.
_LINKS_NAMED = 8

SUMMARY = "Embed slices by graph attention, match their spots by transport and fuse them (SpatialFuser)."
CLASS_NAME = "SpatialFuser"
SHARES_STEPS = True
#: Batches may hold tensors of the device.
TAKES_TENSORS = True
RESULTS = {
    "obsm": ("X_spatialfuser", "spatialfuser_aligned", "spatialfuser_denoised"),
    "tables": ("spatialfuser_matches",),
}


class Params(Options):
    """Parameters of SpatialFuser; the defaults are those of the ``default`` preset."""

    features: Literal["scores", "genes"] = Field(
        "scores",
        description="What encoders read: leading components of averaged log counts, or genes as published.",
    )
    components: int = Field(16, ge=2, description="Components the encoders read.")
    averaging: int = Field(2, ge=0, le=8, description="Rounds of averaging of the components that are read.")
    hidden: tuple[int, ...] = Field(
        (32, 32), description="Widths of the layers, the last the embedding's; with --start how many count."
    )
    heads: int = Field(1, ge=1, description="Attention heads; every width is a multiple of them.")
    similarity: bool = Field(True, description="Weigh neighbours by how alike the last embeddings are.")
    alpha: float = Field(0.0, ge=0, lt=1, description="Share of spots alike far away in every average.")
    far_neighbors: int = Field(5, ge=1, description="Spots alike that are looked at far away, for --alpha.")
    start: bool = Field(
        True,
        description="Begin at the components and learn what to add; without it, as published, from chance.",
    )
    pretrain_steps: int = Field(
        50, ge=0, description="Optimisation steps of the autoencoders alone (published: 500)."
    )
    fuse_steps: int = Field(100, ge=0, description="Steps of matching and fusing (published: 200 to 500).")
    match_every: int = Field(20, ge=1, description="Steps between two matchings.")
    batch_spots: int | Literal["auto"] = Field(
        "auto",
        description="Spots of each slice in a step, over all workers; "
        "auto takes all where they fit, tiles where not.",
    )
    encoders: Literal["auto", "shared", "own"] = Field(
        "auto", description="One encoder for slices with the same features (auto), or one for each slice."
    )
    partners: Literal["chain", "first"] = Field(
        "chain", description="Match each slice with the one before it, or all with the first."
    )
    register_by: Literal["auto", "icp", "ndt", "features", "none"] = Field(
        "auto", description="How slices are brought into one frame; none takes the coordinates as they are."
    )
    reflection: bool = Field(False, description="Let the registration turn slices over.")
    max_distance: float | None = Field(
        None,
        gt=0,
        description="Spots match within this distance (coordinate unit); "
        "ten spacings by default, fewer in large slices.",
    )
    own_weight: float = Field(
        1.0,
        ge=0,
        description="Weight of what a spot itself expresses, beside its embedding, in the matching.",
    )
    tau: float = Field(0.05, gt=0, description="Temperature of the matching.")
    top_k: int = Field(3, ge=1, description="Spots match that are among each other's top k.")
    bin_score: float | None = Field(
        None, description="Score of staying unmatched; the median of the candidates' when not given."
    )
    margin: float = Field(1.0, gt=0, description="Margin of the triplets.")
    reconstruction_weight: float = Field(
        60.0, ge=0, description="Weight of the reconstruction while fusing (published: 1 to 60)."
    )
    direction_weight: float = Field(0.1, ge=0, description="Weight of the common direction of embeddings.")
    denoise: str | None = Field(
        None, description="Write denoised log counts of these genes: all, a comma list, or a file of names."
    )
    learning_rate: float = Field(1e-3, gt=0, description="Learning rate.")
    weight_decay: float = Field(1e-4, ge=0, description="Weight decay.")

    @field_validator("hidden", mode="before")
    @classmethod
    def _widths(cls, value: Any) -> Any:
        return split_list(value)

    @field_validator("batch_spots")
    @classmethod
    def _some_spots(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 8:
            raise ValueError("at least 8 spots are needed")
        return value

    @model_validator(mode="after")
    def _widths_go_with_heads(self) -> Params:
        if not self.hidden or any(width % self.heads or width < self.heads for width in self.hidden):
            raise ValueError(
                f"--hidden {','.join(map(str, self.hidden))} are no multiples of --heads {self.heads}"
            )
        if self.alpha and self.denoise:
            raise ValueError("--denoise goes by tiles and --alpha over whole slices; leave one of them out")
        if self.features == "scores" and self.components < self.heads:
            raise ValueError(
                f"{self.heads} heads cannot share {self.components} components; ask for fewer --heads"
            )
        return self

    @property
    def depth(self) -> int:
        """Rounds of message passing of the encoder."""
        return len(self.hidden)


#: Components of a spot's own features that it is matched by.
OWN_COMPONENTS = 32
#: Pairs of spots that a matching should go over at most.
CANDIDATES = 30_000_000

PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "published": {
        "features": "genes",
        "hidden": (512, 32),
        "heads": 4,
        "start": False,
        "pretrain_steps": 500,
        "fuse_steps": 300,
        "encoders": "own",
        "own_weight": 0.0,
        "reconstruction_weight": 1.0,
    },
}


def check(params: Params, genes: tuple[str, ...], seed: int) -> None:
    """Refuse genes to denoise that the slices do not have; raises BadOption."""
    wanted_genes(params, genes)


def wanted_genes(params: Params, genes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the genes to denoise, in the order they were asked for; raises BadOption for an unknown one."""
    if params.denoise is None:
        return ()
    if params.denoise == "all":
        return genes
    wanted = tuple(name.strip() for name in params.denoise.split(",") if name.strip())
    for name in wanted:
        if name not in genes:
            near = get_close_matches(name, genes, 1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise BadOption(f"--denoise: {name!r} is no gene of the fit{meant}")
    return wanted


def spacings(n_spots: int) -> float:
    """Return the distance within which spots match when nobody says, in spacings of the coarser slice.

    Ten; fewer where that would make more candidates than transport should go over, but three at least.

    Examples
    --------
    >>> spacings(5000), round(spacings(500_000), 1)
    (10.0, 4.4)
    """
    return float(min(10.0, max(3.0, (CANDIDATES / (3.1416 * max(n_spots, 1))) ** 0.5)))


def needs(params: Params, n_spots: int) -> Needs:
    """Return what ``prepare`` must provide; encoder and decoder attend in turn, twice the depth."""
    scores = params.features == "scores"
    n_components = max(params.components, OWN_COMPONENTS if params.own_weight else 0)
    return Needs(
        integer_counts=False,
        min_genes=params.heads + 1,  # as many components as heads, and a gene more
        n_hvgs=3000,
        n_components=n_components if scores else 0,
        component_hops=params.averaging if scores else 0,
        standardise_genes=None,
        halo=2 * params.depth,
        frame=FrameNeeds(params.register_by, params.reflection, params.partners, params.encoders),
    )


def quality_lines(quality: Mapping[str, Any]) -> list[str]:
    """Return the figures of the matching for people: of many pairs of slices, in a line for all."""
    links = quality.get("links", [])
    if len(links) > _LINKS_NAMED:
        least, most = (end(links, key=lambda link: link["unmatched"]) for end in (min, max))
        return [
            f"{len(links)} pairs of slices: {sum(link['n_pairs'] for link in links):,} pairs, "
            f"{sum(link['n_passed'] for link in links):,} of them above chance; spots unmatched from "
            f"{least['unmatched']:.0%} ({least['source']} and {least['target']}) to {most['unmatched']:.0%} "
            f"({most['source']} and {most['target']})"
        ]
    return [
        f"{link['source']} and {link['target']}: {link['n_pairs']:,} pairs, {link['n_passed']:,} of "
        f"them above chance; {link['unmatched']:.0%} of the spots unmatched"
        for link in links
    ]
