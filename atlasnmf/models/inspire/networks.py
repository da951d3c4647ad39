"""The networks of INSPIRE: two encoders over two kinds of features, decoder, factor head, discriminators."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import elu, linear

from atlasnmf.train.sparse_rows import SparseRows, stack_rows

__all__ = [
    "AttentiveDense",
    "AttentiveGenes",
    "AttentiveScores",
    "Decoder",
    "Dense",
    "DenseScores",
    "Discriminator",
    "Edges",
    "FactorHead",
    "GeneLayer",
    "Inputs",
    "InspireGat",
    "InspireLgcn",
    "Start",
    "stack_inputs",
]


@dataclass(frozen=True)
class Edges:
    """Neighbours (self included) of the first ``n_rows`` rows of a batch.

    Parameters
    ----------
    row, neighbour
        Ends of each edge as positions within the batch, int64, shape (E,), ordered by row.
    starts
        First edge of each row and the total, int64, shape (n_rows + 1,), on the host.
    """

    row: Tensor
    neighbour: Tensor
    starts: Tensor

    @property
    def n_rows(self) -> int:
        """Rows that have edges."""
        return len(self.starts) - 1

    def within(self, n_rows: int) -> Edges:
        """Keep the edges of the first ``n_rows`` rows."""
        if n_rows == self.n_rows:
            return self
        stop = int(self.starts[n_rows])
        return Edges(self.row[:stop], self.neighbour[:stop], self.starts[: n_rows + 1])


@dataclass(frozen=True)
class Inputs:
    """One slice's share of a step, on the device.

    Parameters
    ----------
    slice_index
        Position of the slice.
    rings
        Cumulative rows of the core and of each ring around it.
    counts
        Counts y of the core.
    features
        Log-normalised counts x of all rows, (n, G); None when the encoder reads scores.
    smoothed
        A~^h x for h = 1 .. hops, each (n, G), empty unless the encoder reads genes.
    scores
        Projections at every level of averaging, shape (n, levels * P); None when the encoder reads genes.
    edges
        Neighbours, or None for block batches.
    n_step
        Rows of the slice that carry the loss of this step, over all ranks; those here when not given.
    """

    slice_index: int
    rings: tuple[int, ...]
    counts: SparseRows
    features: SparseRows | None = None
    smoothed: tuple[SparseRows, ...] = ()
    scores: Tensor | None = None
    edges: Edges | None = None
    n_step: int = 0

    @property
    def n_core(self) -> int:
        """Rows that carry the loss."""
        return self.rings[0]

    @property
    def core_scores(self) -> Tensor:
        """Scores of the core."""
        assert self.scores is not None
        return self.scores[: self.n_core]

    @property
    def core_features(self) -> SparseRows:
        """Log-normalised counts of the core."""
        assert self.features is not None
        return self.features.first(self.n_core)


def stack_inputs(parts: Sequence[Inputs]) -> Inputs:
    """Put block batches of several slices under each other, so that each layer runs once."""
    n_rows = sum(part.n_core for part in parts)
    features = [part.features for part in parts if part.features is not None]
    scores = [part.scores for part in parts if part.scores is not None]
    return Inputs(
        -1,
        (n_rows,),
        stack_rows([part.counts for part in parts]),
        stack_rows(features) if features else None,
        tuple(stack_rows(level) for level in zip(*(part.smoothed for part in parts), strict=True)),
        torch.cat(scores) if scores else None,
    )


class Dense(nn.Linear):
    """A linear layer with the published initialisation: uniform +-sqrt(6 / (in + out)), bias 0."""

    def __init__(self, n_in: int, n_out: int, generator: torch.Generator, *, zero: bool = False) -> None:
        super().__init__(n_in, n_out)
        with torch.no_grad():
            self.weight.zero_() if zero else uniform(self.weight, n_in, n_out, generator)
            self.bias.zero_()
        #: Take the product in bfloat16; weights, sums over rows and what comes out stay in float32.
        self.in_bf16 = False

    def forward(self, rows: Tensor) -> Tensor:
        """Return W x + b, shape (n, n_out)."""
        if not self.in_bf16:
            return super().forward(rows)
        bias = self.bias.bfloat16()
        return linear(rows.bfloat16(), self.weight.bfloat16(), bias).float()


def uniform(weight: Tensor, n_in: int, n_out: int, generator: torch.Generator) -> Tensor:
    """Fill a weight with the published initialisation."""
    bound = math.sqrt(6 / (n_in + n_out))
    with torch.no_grad():
        return weight.uniform_(-bound, bound, generator=generator)


class Start(nn.Module):
    """Where the embedding starts: the leading components of the most averaged scores.

    Parameters
    ----------
    spread
        Standard deviation of each component's most averaged scores, shape (P,).

    Notes
    -----
    A component leads when its spread is RISE times that of the last one, which is noise: the further ones
    would only blur every distance. A leading component is divided by spread^POWER, half way between keeping
    the weight that strong components have and giving all the same.
    """

    RISE, POWER, LEAST = 1.3, 0.5, 1e-3
    spread: Tensor
    scale: Tensor

    def __init__(self, spread: Tensor) -> None:
        super().__init__()
        # fewer spots or genes than components: the last ones are rounding, not to be blown up
        spread = spread.clamp(min=self.LEAST * float(spread.max()))
        unit = spread / spread.mean()
        lead = spread >= self.RISE * spread[-1]
        lead[: min(4, len(lead))] = True
        self.register_buffer("spread", unit)
        self.register_buffer("scale", torch.where(lead, unit**-self.POWER, torch.zeros_like(unit)))

    def forward(self, scores: Tensor) -> Tensor:
        """Return the start from scores of all levels, shape (n, P); components that do not lead are 0."""
        return scores[:, -len(self.scale) :] * self.scale


class GeneLayer(nn.Module):
    """W [x, A~x, ..] + b from sparse rows; one (G, hidden) weight a level, gathered row by row."""

    def __init__(self, n_genes: int, n_levels: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weights = nn.ParameterList(torch.empty(n_genes, hidden) for _ in range(n_levels))
        for weight in self.weights:
            uniform(weight, n_genes * n_levels, hidden, generator)
        self.bias = nn.Parameter(torch.zeros(hidden))

    def forward(self, inputs: Inputs, n_rows: int) -> Tensor:
        """Return the first hidden layer before its activation, shape (n_rows, hidden)."""
        assert inputs.features is not None
        total: Tensor = self.bias
        for weight, rows in zip(self.weights, (inputs.features, *inputs.smoothed), strict=True):
            total = total + rows.first(n_rows).dot(weight)
        return total


class DenseScores(nn.Module):
    """W s + b from the scores, each component at unit spread."""

    scale: Tensor

    def __init__(self, scale: Tensor, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.dense = Dense(len(scale), hidden, generator)

    def forward(self, inputs: Inputs, n_rows: int) -> Tensor:
        """Return the first hidden layer before its activation, shape (n_rows, hidden)."""
        assert inputs.scores is not None
        return self.dense(inputs.scores[:n_rows] * self.scale)


def attend(logits: Tensor, rows: Tensor, edges: Edges) -> Tensor:
    """Average the rows of the neighbours, weights softmax of sigmoid(logits_i0 + logits_j1) over j.

    Parameters
    ----------
    logits
        Both ends' share of the logit, shape (n, 2).
    rows
        What is averaged, shape (n, width).
    edges
        Neighbours.

    Returns
    -------
    Tensor
        Shape (edges.n_rows, width).
    """
    # the logits lie in (0, 1), so their exponentials need no shift
    weight = torch.sigmoid(logits[edges.row, 0] + logits[edges.neighbour, 1]).exp()
    total = rows.new_zeros(edges.n_rows).index_add(0, edges.row, weight)
    share = weight / total[edges.row]
    out = rows.new_zeros(edges.n_rows, rows.shape[1])
    return out.index_add(0, edges.row, share[:, None] * rows[edges.neighbour])


class AttentiveDense(nn.Module):
    """sum_j alpha_ij (W u_j + b), one head.

    The weights of a spot sum to 1, so inputs are averaged before they are multiplied: the same numbers at the
    width of the input instead of that of the hidden layer.
    """

    def __init__(self, n_in: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.dense = Dense(n_in, hidden, generator)
        self.ends = nn.Parameter(uniform(torch.empty(hidden, 2), hidden, 1, generator))

    def forward(self, rows: Tensor, edges: Edges) -> Tensor:
        """Return the hidden layer of the rows that have edges, before its activation."""
        logits = rows @ (self.dense.weight.T @ self.ends) + self.dense.bias @ self.ends
        return self.dense(attend(logits, rows, edges))


class AttentiveScores(nn.Module):
    """:class:`AttentiveDense` over the scores, each component at unit spread."""

    scale: Tensor

    def __init__(self, scale: Tensor, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.layer = AttentiveDense(len(scale), hidden, generator)

    def forward(self, inputs: Inputs, n_rows: int) -> Tensor:
        """Return the first hidden layer before its activation, shape (n_rows, hidden)."""
        assert inputs.edges is not None
        assert inputs.scores is not None
        return self.layer(inputs.scores * self.scale, inputs.edges.within(n_rows))


class AttentiveGenes(nn.Module):
    """sum_j alpha_ij (W x_j + b) from sparse rows, one head, as published."""

    def __init__(self, n_genes: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(uniform(torch.empty(n_genes, hidden), n_genes, hidden, generator))
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.ends = nn.Parameter(uniform(torch.empty(hidden, 2), hidden, 1, generator))

    def forward(self, inputs: Inputs, n_rows: int) -> Tensor:
        """Return the first hidden layer before its activation, shape (n_rows, hidden)."""
        assert inputs.edges is not None
        assert inputs.features is not None
        rows = inputs.features.dot(self.weight) + self.bias
        return attend(rows @ self.ends, rows, inputs.edges.within(n_rows))


class InspireLgcn(nn.Module):
    """z = W2 ELU(W1 [features of the spot, of its averaged neighbourhood, ..]) (+ the start).

    Parameters
    ----------
    first
        The layer that reads the features.
    start
        Where the embedding starts, given its own trainable weights; None as published.
    hidden, latent
        Widths.
    """

    def __init__(
        self, first: nn.Module, start: Start | None, hidden: int, latent: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.first, self.start = first, start
        self.second = Dense(hidden, latent, generator, zero=start is not None)
        if start is not None:
            self.linear = nn.Parameter(torch.eye(latent, len(start.scale)))

    def forward(self, inputs: Inputs, n_rows: int) -> Tensor:
        """Return z of the first ``n_rows`` rows, shape (n_rows, latent)."""
        latent = self.second(elu(self.first(inputs, n_rows)))
        if self.start is None:
            return latent
        assert inputs.scores is not None
        return latent + self.start(inputs.scores[:n_rows]) @ self.linear.T


class InspireGat(InspireLgcn):
    """z = W2 ELU(sum_j alpha_ij W1 features_j) (+ the start): the first layer attends over neighbours.

    Attention logits are sigmoid(v0 . h_i + v1 . h_j), softmax over the neighbours, the spot included.
    """


class Decoder(nn.Module):
    """Hidden layer of the decoder from [z, e_s]; the loss applies the output weight."""

    def __init__(
        self,
        n_slices: int,
        latent: int,
        hidden: int,
        n_out: int,
        generator: torch.Generator,
        *,
        attention: bool,
    ) -> None:
        super().__init__()
        self.slices = nn.Parameter(torch.randn(n_slices, 4, generator=generator))
        self.attention = attention
        self.first = (AttentiveDense if attention else Dense)(latent + 4, hidden, generator)
        self.out = Dense(hidden, n_out, generator)

    def forward(self, latent: Tensor, slices: Tensor, edges: Edges | None) -> Tensor:
        """Return the hidden layer.

        Parameters
        ----------
        latent
            z of the core, and of the ring around it where the decoder attends.
        slices
            Slice of each of these rows.
        edges
            Neighbours of the core where the decoder attends.
        """
        rows = torch.cat([latent, self.slices[slices]], 1)
        return elu(self.first(rows, edges) if self.attention else self.first(rows))


class FactorHead(nn.Module):
    """beta = softmax(W act(z)): the weights of the factors in a spot; act is ELU as published, or nothing."""

    def __init__(self, latent: int, n_factors: int, generator: torch.Generator, *, linear: bool) -> None:
        super().__init__()
        self.linear = linear
        self.dense = Dense(latent, n_factors, generator)

    def forward(self, latent: Tensor) -> Tensor:
        """Return beta, rows sum to 1, shape (n, K)."""
        return torch.softmax(self.dense(latent if self.linear else elu(latent)), 1)


class Discriminator(nn.Module):
    """d: latent - hidden - hidden - 1, ReLU; the logit that z comes from the lower of two slices."""

    def __init__(self, latent: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            Dense(latent, hidden, generator),
            nn.ReLU(),
            Dense(hidden, hidden, generator),
            nn.ReLU(),
            Dense(hidden, 1, generator),
        )

    def forward(self, latent: Tensor) -> Tensor:
        """Return the logits, shape (n,)."""
        return self.layers(latent)[:, 0]
