"""The networks put together for one atlas: what the net step trains."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from atlasnmf.models.inspire.networks import (
    AttentiveGenes,
    AttentiveScores,
    Decoder,
    DenseScores,
    FactorHead,
    GeneLayer,
    Inputs,
    InspireGat,
    InspireLgcn,
    Start,
)
from atlasnmf.models.inspire.params import LATENT, Params, encoder_of
from atlasnmf.schema import AtlasFacts

__all__ = ["InspireNet", "Shape"]


@dataclass(frozen=True)
class Shape:
    """What of the networks is only known when the first batch is seen.

    Parameters
    ----------
    n_factors
        K.
    n_levels
        Levels of averaging the encoder reads, the spot itself included.
    """

    n_factors: int
    n_levels: int


class InspireNet(nn.Module):
    """Encoder, decoder and factorisation.

    Parameters
    ----------
    params, facts, shape
        What they are made for.
    generator
        Of the initial weights.

    Notes
    -----
    An encoder that reads scores has a decoder that aims at the leading smoothed components, and a geometry
    term that keeps their cosines: all three live in the space the embedding starts in. One that reads genes
    aims at all log counts, as published.
    """

    def __init__(self, params: Params, facts: AtlasFacts, shape: Shape, generator: torch.Generator) -> None:
        super().__init__()
        gat = encoder_of(params, int(facts.n_spots.sum())) == "gat"
        n_genes, hidden = facts.n_genes, params.hidden
        self.reads_scores = params.features == "scores"
        first: nn.Module
        if self.reads_scores:
            assert facts.component_scale is not None
            self.start = Start(torch.from_numpy(facts.component_scale))
            scale = (1 / self.start.spread).repeat(shape.n_levels)
            first = (AttentiveScores if gat else DenseScores)(scale, hidden, generator)
            n_out = len(facts.component_scale)
        else:
            first = (
                AttentiveGenes(n_genes, hidden, generator)
                if gat
                else GeneLayer(n_genes, shape.n_levels, hidden, generator)
            )
            n_out = n_genes
        start = self.start if self.reads_scores and params.warm_start else None
        self.encoder = (InspireGat if gat else InspireLgcn)(first, start, hidden, LATENT, generator)
        self.decoder = Decoder(
            facts.n_slices, LATENT, hidden, n_out, generator, attention=gat and not self.reads_scores
        )
        self.head = FactorHead(LATENT, shape.n_factors, generator, linear=params.head == "linear")
        bound = (6 / (shape.n_factors + n_genes)) ** 0.5
        self.log_loadings = nn.Parameter(
            torch.empty(n_genes, shape.n_factors).uniform_(-bound, bound, generator=generator)
        )
        self.gamma = nn.Parameter(torch.zeros(facts.n_slices, n_genes))

    @property
    def loadings(self) -> Tensor:
        """mu, one row per gene, columns sum to 1, shape (G, K)."""
        return torch.softmax(self.log_loadings, 0)

    def encode(self, inputs: Inputs, *, wide: bool = False) -> Tensor:
        """Return z of the core; ``wide`` adds the ring that an attention decoder looks at.

        Parameters
        ----------
        inputs
            One slice.
        wide
            Whether the decoder follows.

        Returns
        -------
        Tensor
            Shape (n_core, 32), or (rings[1], 32).
        """
        ring = 1 if wide and self.decoder.attention and len(inputs.rings) > 2 else 0
        return self.encoder(inputs, inputs.rings[ring])
