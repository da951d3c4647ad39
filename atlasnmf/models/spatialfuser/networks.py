"""MCGATE: a multi-head collaborative graph attention autoencoder on edge lists.

Layer k of the encoder, with h the head and S_i the neighbours of spot i, itself included (paper, Methods):

    g_j = W1 x_j,  a_ij = softmax_j( p_ij sigmoid(v1 . g_i + v2 . g_j) ),  x'_i = BN( sum_j a_ij g_j ),
    out_i = BN( ELU(W2 x'_i + b) + x'_i );

layer k of the decoder, with the same a and W1: ELU( sum_j a_ij y_j W1 ). Head h sees block h of the columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import elu

from atlasnmf.models.spatialfuser.attention import Edges, aggregate, edge_shares
from atlasnmf.models.spatialfuser.graph import Graph
from atlasnmf.models.spatialfuser.losses import reconstruction
from atlasnmf.models.spatialfuser.norms import Norm, normalised

__all__ = ["Fuser", "Heads", "Layer", "Mcgate", "errors"]


class Heads(nn.Module):
    """A linear map without bias in H blocks: block h of the input gives block h of the output."""

    def __init__(self, n_in: int, n_out: int, n_heads: int, generator: torch.Generator) -> None:
        super().__init__()
        self.n_in, self.n_out = n_in, n_out
        self.pad = -n_in % n_heads
        width = (n_in + self.pad) // n_heads
        bound = (6 / (width + n_out // n_heads)) ** 0.5
        self.weight = nn.Parameter(torch.empty(n_heads, width, n_out // n_heads))
        with torch.no_grad():
            self.weight.uniform_(-bound, bound, generator=generator)

    def forward(self, rows: Tensor) -> Tensor:
        """Return W1 x, shape (n, n_out)."""
        heads = len(self.weight)
        if heads == 1:
            return rows @ self.weight[0]
        padded = nn.functional.pad(rows, (0, self.pad)) if self.pad else rows
        by_head = padded.unflatten(1, (heads, -1)).transpose(0, 1)
        return torch.bmm(by_head, self.weight).transpose(0, 1).reshape(len(rows), self.n_out)

    def back(self, rows: Tensor) -> Tensor:
        """Return y W1, shape (n, n_in)."""
        heads = len(self.weight)
        if heads == 1:
            return rows @ self.weight[0].T
        by_head = rows.unflatten(1, (heads, -1)).transpose(0, 1)
        out = torch.bmm(by_head, self.weight.transpose(1, 2)).transpose(0, 1)
        return out.flatten(1)[:, : self.n_in]


class Layer(nn.Module):
    """One layer of the encoder, and the layer of the decoder that mirrors it."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        n_heads: int,
        *,
        n_slices: int,
        alpha: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.heads = Heads(n_in, n_out, n_heads, generator)
        width = n_out // n_heads
        bound = (6 / (width + 1)) ** 0.5
        self.ends = nn.Parameter(torch.empty(2, n_heads, width).uniform_(-bound, bound, generator=generator))
        self.dense = nn.Linear(n_out, n_out)
        bound = (6 / (2 * n_out)) ** 0.5
        with torch.no_grad():
            self.dense.weight.uniform_(-bound, bound, generator=generator)
            self.dense.bias.zero_()
        self.before, self.after = Norm(n_out, n_slices), Norm(n_out, n_slices)

    def begin_at(self, spread: Tensor) -> None:
        """Pass the inputs on as they are, averaged: the layer starts as attention alone.

        Parameters
        ----------
        spread
            Standard deviation of each input, shape (n_in,) = (n_out,).
        """
        with torch.no_grad():
            for weight in self.heads.weight:
                weight.copy_(torch.eye(len(weight)))
            self.dense.weight.zero_()
            self.before.weight.copy_(spread)
            self.after.weight.copy_(spread)

    def shares(self, projected: Tensor, edges: Edges, prior: Tensor | None) -> Tensor:
        """Return a of some edges, shape (E, H)."""
        own, other = self._logits(projected)
        return edge_shares(edges, own, other, prior)

    def _logits(self, projected: Tensor) -> Tensor:
        """Return what rows give to the logits of edges that begin and that end there, shape (2, n, H)."""
        blocks = projected.unflatten(1, (self.ends.shape[1], -1))
        return torch.einsum("nhc,ehc->enh", blocks, self.ends)

    def encode(self, rows: Tensor, graph: Graph, hops_left: int) -> tuple[Tensor, list[Tensor]]:
        """Return the layer's output for the rows that are still needed, and its attention."""
        (out,), (shares,) = _encoded([self], [rows], [graph], hops_left)
        return out, shares

    def average(self, rows: Tensor, graph: Graph, hops_left: int) -> tuple[Tensor, list[Tensor]]:
        """Return the attentive average, before it is normalised, and the attention."""
        projected = self.heads(rows)
        n_rows = graph.n_rows(hops_left)
        edges = graph.local.within(n_rows)
        prior = None if graph.prior is None else graph.prior[: edges.n_edges]
        shares = [self.shares(projected, edges, prior)]
        if graph.far is None:
            return self.mix(projected, shares, graph, n_rows), shares
        everywhere = graph.beyond(projected)
        own, other = self._logits(projected)[0], self._logits(everywhere)[1]
        shares.append(edge_shares(graph.far.within(n_rows), own, other, None))
        return self.mix(projected, shares, graph, n_rows, everywhere), shares

    def feed(self, mixed: Tensor) -> Tensor:
        """Return the feed-forward part, before it is normalised."""
        return elu(self.dense(mixed)) + mixed

    def mix(
        self,
        rows: Tensor,
        shares: Sequence[Tensor],
        graph: Graph,
        n_rows: int,
        everywhere: Tensor | None = None,
    ) -> Tensor:
        """Return (1 - alpha) times the local and alpha times the long-range average of the rows."""
        edges = graph.local.within(n_rows)
        near = aggregate(edges, shares[0][: edges.n_edges], rows)
        if graph.far is None:
            return near
        far_edges = graph.far.within(n_rows)
        everywhere = graph.beyond(rows) if everywhere is None else everywhere
        far = aggregate(far_edges, shares[1][: far_edges.n_edges], everywhere)
        # a spot without anything alike elsewhere keeps its neighbours in full
        alpha = self.alpha * (far_edges.indptr.diff() > 0).to(rows.dtype)[:, None]
        return (1 - alpha) * near + alpha * far

    def decode(
        self, rows: Tensor, shares: Sequence[Tensor], graph: Graph, hops_left: int, *, last: bool
    ) -> Tensor:
        """Return the mirrored layer's output for the rows that are still needed."""
        # averaged at the narrow side: the same numbers as after the product
        out = self.heads.back(self.mix(rows, shares, graph, graph.n_rows(hops_left)))
        return out if last else elu(out)


def _encoded(
    layers: Sequence[Layer], rows: Sequence[Tensor], graphs: Sequence[Graph], hops_left: int
) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Take the rows of several slices through a layer of their encoders, side by side."""
    averaged, shares = [], []
    for layer, own, graph in zip(layers, rows, graphs, strict=True):
        average, attention = layer.average(own, graph, hops_left)
        averaged.append(average)
        shares.append(attention)
    mixed = normalised([layer.before for layer in layers], averaged, graphs)
    fed = [layer.feed(own) for layer, own in zip(layers, mixed, strict=True)]
    return normalised([layer.after for layer in layers], fed, graphs), shares


class Mcgate(nn.Module):
    """The autoencoder.

    Parameters
    ----------
    n_in
        Features of a spot.
    widths
        Of the layers; the last is that of the embedding.
    n_heads
        H; every width is a multiple of it.
    n_slices
        Slices it embeds, each with its own statistics.
    alpha
        Weight of the long-range edges.
    linear
        Leave out the last ELU: features that have no lower bound.
    """

    def __init__(
        self,
        n_in: int,
        widths: Sequence[int],
        n_heads: int,
        *,
        n_slices: int = 1,
        alpha: float,
        linear: bool,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.linear = linear
        sizes = [n_in, *widths]
        self.layers = [
            Layer(before, after, n_heads, n_slices=n_slices, alpha=alpha, generator=generator)
            for before, after in pairwise(sizes)
        ]
        # torch knows modules by being told of them; the list keeps their type
        self.stack = nn.ModuleList(self.layers)

    @property
    def depth(self) -> int:
        """Number of layers: rounds of message passing of the encoder, and as many of the decoder."""
        return len(self.layers)

    def norms(self) -> list[Norm]:
        """Return the normalisations in the order in which rows pass them."""
        return [norm for layer in self.layers for norm in (layer.before, layer.after)]

    def before_norm(self, number: int, rows: Tensor, graph: Graph) -> Tensor:
        """Return what reaches a normalisation, for the core."""
        n_whole, half = divmod(number, 2)
        for at in range(n_whole):
            rows, _ = self.layers[at].encode(rows, graph, n_whole - at)
        layer = self.layers[n_whole]
        averaged, _ = layer.average(rows, graph, 0)
        return layer.feed(layer.before(averaged, graph)) if half else averaged

    def encode(self, rows: Tensor, graph: Graph, *, spare: int = 0) -> tuple[Tensor, list[list[Tensor]]]:
        """Return the embedding of the core and of ``spare`` rings around it, and the attention by layer."""
        attention = []
        for number, layer in enumerate(self.layers):
            rows, shares = layer.encode(rows, graph, self.depth - 1 - number + spare)
            attention.append(shares)
        return rows, attention

    def decode(
        self, latent: Tensor, attention: list[list[Tensor]], graph: Graph, *, down_to: int = 0
    ) -> Tensor:
        """Return the features of the core from the embedding of the core and ``depth`` rings.

        ``down_to`` stops at the input of an earlier layer, with the rings that are still needed there.
        """
        rows = latent
        for number in reversed(range(down_to, self.depth)):
            layer = self.layers[number]
            rows = layer.decode(rows, attention[number], graph, number, last=self.linear and number == 0)
        return rows

    def forward(self, rows: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """Return embedding and reconstruction of the core."""
        latent, attention = self.encode(rows, graph, spare=self.depth)
        return latent[: graph.rings[0]], self.decode(latent, attention, graph)

    def missed(self, rows: Tensor, latent: Tensor, attention: list[list[Tensor]], graph: Graph) -> Tensor:
        """Return the mean square by which the reconstruction of the core misses.

        Of ranks that share the core each returns its part of the mean.
        """
        n_core = graph.rings[0]
        first, shares = self.layers[0], attention[0]
        hidden = first.mix(self.decode(latent, attention, graph, down_to=1), shares, graph, n_core)
        return reconstruction(
            hidden, first.heads.weight, rows[:n_core], linear=self.linear, n_rows=graph.n_step
        )


def errors(
    nets: Sequence[Mcgate], rows: Sequence[Tensor], graphs: Sequence[Graph]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return by slice the embedding of the core, and the mean square by which its reconstruction misses.

    Slices go through their encoders side by side, so that ranks need one sum a normalisation for all of them.
    """
    depth, latents = nets[0].depth, list(rows)
    attention: list[list[list[Tensor]]] = [[] for _ in nets]
    for number in range(depth):
        layers = [net.layers[number] for net in nets]
        latents, shares = _encoded(layers, latents, graphs, 2 * depth - 1 - number)
        for kept, own in zip(attention, shares, strict=True):
            kept.append(own)
    given = list(zip(nets, rows, latents, attention, graphs, strict=True))
    return [latent[: graph.rings[0]] for _, _, latent, _, graph in given], [
        net.missed(own, latent, shares, graph) for net, own, latent, shares, graph in given
    ]


class Fuser(nn.Module):
    """The autoencoders of all slices and what brings their embeddings into one space.

    Parameters
    ----------
    encoders
        The autoencoders.
    encoder_of
        Which of them embeds each slice, and its place there.
    width
        Of the embedding.
    start
        Begin by leaving embeddings as they are; the published projection begins at chance.
    """

    def __init__(
        self,
        encoders: Sequence[Mcgate],
        encoder_of: Sequence[tuple[int, int]],
        width: int,
        *,
        start: bool,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.encoders = tuple(encoders)
        self.stack = nn.ModuleList(encoders)
        self.encoder_of = tuple(encoder_of)
        self.start = start
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        bound = (6 / (2 * width)) ** 0.5
        with torch.no_grad():
            for layer in (self.first, self.second):
                layer.weight.uniform_(-bound, bound, generator=generator)
                layer.bias.zero_()
            if start:
                self.second.weight.zero_()

    def of(self, slice_index: int) -> Mcgate:
        """Return the autoencoder of a slice."""
        return self.encoders[self.encoder_of[slice_index][0]]

    def place(self, slice_index: int) -> int:
        """Return which of its autoencoder's slices a slice is."""
        return self.encoder_of[slice_index][1]

    def project(self, latent: Tensor) -> Tensor:
        """Return embeddings in the common space."""
        added = self.second(elu(self.first(latent)))
        return latent + added if self.start else added
