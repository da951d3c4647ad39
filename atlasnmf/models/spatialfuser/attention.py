"""Multi-head attention over edges that torch can differentiate through, with memory linear in the spots.

Two forms with one interface: on the host the numba kernels, elsewhere torch's own gathers, a run of edges
at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atlasnmf.kernels.cpu import attention as host

__all__ = ["Edges", "aggregate", "cosine_shares", "edge_shares"]

#: Edges gathered at once on a device: bounds the scratch at CHUNK x width values.
CHUNK = 1 << 20
# numba's own types know only calls of few arguments
_shares_gradients: Any = host.edge_shares_gradients
_sum_gradients: Any = host.aggregate_gradients


@dataclass(frozen=True)
class Edges:
    """Neighbours of the first ``n_rows`` rows of a batch.

    Parameters
    ----------
    indptr
        First edge of each row and the total, int64, shape (n_rows + 1,).
    neighbour
        Position of the other end within the batch, int64, shape (E,).
    """

    indptr: Tensor
    neighbour: Tensor

    @property
    def n_rows(self) -> int:
        """Rows that have edges."""
        return len(self.indptr) - 1

    @property
    def n_edges(self) -> int:
        """Number of edges."""
        return len(self.neighbour)

    @cached_property
    def row(self) -> Tensor:
        """Row of every edge."""
        lengths = self.indptr.diff()
        rows = torch.arange(len(lengths), device=lengths.device)
        # the size is known: nothing waits for the device to count
        return rows.repeat_interleave(lengths, output_size=self.n_edges)

    def within(self, n_rows: int) -> Edges:
        """Keep the edges of the first ``n_rows`` rows."""
        if n_rows == self.n_rows:
            return self
        stop = int(self.indptr[n_rows])
        return Edges(self.indptr[: n_rows + 1], self.neighbour[:stop])

    def plain(self) -> tuple[np.ndarray, np.ndarray]:
        """Return both parts as arrays."""
        return self.indptr.numpy(), self.neighbour.numpy()


def edge_shares(edges: Edges, own: Tensor, other: Tensor, prior: Tensor | None) -> Tensor:
    """Return the softmax over neighbours j of ``p_ij sigmoid(own_i + other_j)``, shape (E, H).

    Parameters
    ----------
    edges
        The graph.
    own, other
        Both ends' share of the logit, shape (m, H); differentiable.
    prior
        p, constant, shape (E, H); None for 1.
    """
    if own.device.type == "cpu":
        return _HostShares.apply(edges, own, other, prior)
    return _device_shares(edges, own, other, prior)


def _device_shares(edges: Edges, own: Tensor, other: Tensor, prior: Tensor | None) -> Tensor:
    logits = torch.sigmoid(own[edges.row] + other[edges.neighbour])
    weight = (logits if prior is None else prior * logits).exp()
    total = weight.new_zeros(edges.n_rows, weight.shape[1]).index_add(0, edges.row, weight)
    return weight / total[edges.row]


def aggregate(edges: Edges, shares: Tensor, rows: Tensor) -> Tensor:
    """Return ``sum_j shares_ij rows_j``, each head over its own block of columns, shape (n, d).

    Parameters
    ----------
    edges
        The graph.
    shares
        Weights, shape (E, H); differentiable.
    rows
        Shape (m, d), d a multiple of H; differentiable.
    """
    form = _HostSum if rows.device.type == "cpu" else _DeviceSum
    return form.apply(edges, shares, rows)


@torch.no_grad()
def cosine_shares(edges: Edges, rows: Tensor, n_heads: int) -> Tensor:
    """Return the softmax over neighbours of the cosine of the ends, by head, shape (E, H); no gradient."""
    if rows.device.type == "cpu":
        return torch.from_numpy(host.cosine_shares(*edges.plain(), _plain(rows), n_heads))
    return _device_cosine_shares(edges, rows, n_heads)


def _device_cosine_shares(edges: Edges, rows: Tensor, n_heads: int) -> Tensor:
    unit = torch.nn.functional.normalize(rows.unflatten(1, (n_heads, -1)), dim=2)
    cosine = torch.cat(
        [
            (unit[row] * unit[neighbour]).sum(2)
            for row, neighbour in zip(edges.row.split(CHUNK), edges.neighbour.split(CHUNK), strict=True)
        ]
    )
    weight = cosine.exp()
    total = weight.new_zeros(edges.n_rows, n_heads).index_add(0, edges.row, weight)
    return weight / total[edges.row]


def _plain(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().numpy())


class _HostShares(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, edges: Edges, own: Tensor, other: Tensor, prior: Tensor | None) -> Tensor:
        given = np.empty((0, own.shape[1]), _plain(own).dtype) if prior is None else _plain(prior)
        shares, gates = host.edge_shares(*edges.plain(), _plain(own), _plain(other), given)
        ctx.kept = (edges, shares, gates, given, len(own), len(other))
        return torch.from_numpy(shares)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, Tensor, None]:
        edges, shares, gates, prior, n_own, n_other = ctx.kept
        own, other = _shares_gradients(*edges.plain(), shares, gates, prior, _plain(grads[0]), n_own, n_other)
        return None, torch.from_numpy(own), torch.from_numpy(other), None


class _HostSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, edges: Edges, shares: Tensor, rows: Tensor) -> Tensor:
        ctx.edges = edges
        ctx.save_for_backward(shares, rows)
        return torch.from_numpy(host.aggregate(*edges.plain(), _plain(shares), _plain(rows)))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, Tensor]:
        shares, rows = ctx.saved_tensors
        of_shares, of_rows = _sum_gradients(
            *ctx.edges.plain(), _plain(shares), _plain(rows), _plain(grads[0])
        )
        return None, torch.from_numpy(of_shares), torch.from_numpy(of_rows)


class _DeviceSum(torch.autograd.Function):
    """Gathers in chunks, forward and back, so that no array of E x d values is kept."""

    @staticmethod
    def forward(ctx: Any, edges: Edges, shares: Tensor, rows: Tensor) -> Tensor:
        ctx.edges = edges
        ctx.save_for_backward(shares, rows)
        heads = shares.shape[1]
        blocks = rows.unflatten(1, (heads, -1))
        out = blocks.new_zeros(edges.n_rows, heads, blocks.shape[2])
        for part in _chunks(edges.n_edges):
            out.index_add_(0, edges.row[part], shares[part, :, None] * blocks[edges.neighbour[part]])
        return out.reshape(edges.n_rows, rows.shape[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, Tensor]:
        edges: Edges = ctx.edges
        shares, rows = ctx.saved_tensors
        heads = shares.shape[1]
        blocks = rows.unflatten(1, (heads, -1))
        grad = grads[0].unflatten(1, (heads, -1))
        of_shares, of_rows = torch.empty_like(shares), torch.zeros_like(blocks)
        for part in _chunks(edges.n_edges):
            here = grad[edges.row[part]]
            of_shares[part] = (here * blocks[edges.neighbour[part]]).sum(2)
            of_rows.index_add_(0, edges.neighbour[part], shares[part, :, None] * here)
        return None, of_shares, of_rows.reshape(rows.shape)


def _chunks(n_edges: int) -> list[slice]:
    return [slice(start, start + CHUNK) for start in range(0, n_edges, CHUNK)]
