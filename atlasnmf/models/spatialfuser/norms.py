"""Batch normalisation of slices whose core rows lie in a batch with a halo, or on several ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from atlasnmf.models.spatialfuser.graph import Graph
    from atlasnmf.train.method import Ranks

__all__ = ["Norm", "normalised"]


class Norm(nn.Module):
    """Batch normalisation over the core rows; each slice has its own mean and variance.

    In training they are those of the batch, over all ranks that share it; afterwards those that were measured
    over all spots of the slice.
    """

    EPS = 1e-5
    mean: Tensor
    var: Tensor

    def __init__(self, width: int, n_slices: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("mean", torch.zeros(n_slices, width))
        self.register_buffer("var", torch.ones(n_slices, width))

    def forward(self, rows: Tensor, graph: Graph) -> Tensor:
        """Return the normalised rows of one slice."""
        if not self.training:
            mean, var = self.mean[graph.place], self.var[graph.place]
            return nn.functional.batch_norm(rows, mean, var, self.weight, self.bias, eps=self.EPS)
        # torch's own is quicker; it refuses a single row
        if graph.ranks is None and graph.rings[0] == len(rows) > 1:
            return nn.functional.batch_norm(
                rows, None, None, self.weight, self.bias, training=True, eps=self.EPS
            )
        return _by_cores([self], [rows], [graph])[0]

    def measured(self, place: int, mean: Tensor, var: Tensor) -> None:
        """Take the statistics of all spots of a slice."""
        self.mean[place], self.var[place] = mean, var


def normalised(norms: Sequence[Norm], rows: Sequence[Tensor], graphs: Sequence[Graph]) -> list[Tensor]:
    """Return the rows of several slices, each by its own normalisation: of ranks, one message for all."""
    if norms[0].training and graphs[0].ranks is not None:
        return _by_cores(norms, rows, graphs)
    return [norm(own, graph) for norm, own, graph in zip(norms, rows, graphs, strict=True)]


def _by_cores(norms: Sequence[Norm], rows: Sequence[Tensor], graphs: Sequence[Graph]) -> list[Tensor]:
    cores = tuple((graph.rings[0], graph.n_step) for graph in graphs)
    weights, biases = [norm.weight for norm in norms], [norm.bias for norm in norms]
    return list(_Normalised.apply(graphs[0].ranks, cores, *rows, *weights, *biases))


class _Normalised(torch.autograd.Function):
    """Rows of slices under mean and variance of their core rows, of which each rank has a part.

    With x^ = (x - mean) / sd and g the gradient of w x^ + b, that of a core row is
    w / sd (g - mean(g) - x^ mean(g x^)), where both means are sums over all rows of all ranks, halos
    included, over the number of core rows; that of a row of the halo is w g / sd.
    """

    @staticmethod
    def forward(
        ctx: Any, ranks: Ranks | None, cores: tuple[tuple[int, int], ...], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        n = len(cores)
        rows, weights, biases = tensors[:n], tensors[n : 2 * n], tensors[2 * n :]
        moments = [
            _sums(own[:here]) / everywhere for own, (here, everywhere) in zip(rows, cores, strict=True)
        ]
        if ranks is not None:
            ranks.sum(moments)
        out, spreads = [], []
        for own, weight, bias, (mean, square) in zip(rows, weights, biases, moments, strict=True):
            spreads.append(torch.rsqrt((square - mean.square()).clamp(min=0) + Norm.EPS))
            scale = weight * spreads[-1]
            out.append(torch.addcmul((bias - mean * scale).to(own.dtype), own, scale.to(own.dtype)))
        ctx.ranks, ctx.cores = ranks, cores
        ctx.save_for_backward(*rows, *weights, *(mean for mean, _ in moments), *spreads)
        return tuple(out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        n = len(ctx.cores)
        rows, weights, means, spreads = (ctx.saved_tensors[at * n : (at + 1) * n] for at in range(4))
        own_sums = []
        for grad, own, mean, spread in zip(grads, rows, means, spreads, strict=True):
            total = grad.sum(0, dtype=torch.float64)
            along = ((grad * own).sum(0, dtype=torch.float64) - mean * total) * spread
            own_sums.append(torch.stack([total, along]))
        sums = [both.clone() for both in own_sums]
        if ctx.ranks is not None:
            ctx.ranks.sum(sums)
        of_rows = []
        for grad, own, weight, mean, spread, (total, along), (here, everywhere) in zip(
            grads, rows, weights, means, spreads, sums, ctx.cores, strict=True
        ):
            scale = weight * spread
            moved = grad * scale.to(grad.dtype)
            slope = -scale * spread * along / everywhere
            moved[:here] += torch.addcmul(
                (-scale * total / everywhere - slope * mean).to(own.dtype), own[:here], slope.to(own.dtype)
            )
            of_rows.append(moved)
        of_weights = [both[1].to(weight.dtype) for both, weight in zip(own_sums, weights, strict=True)]
        of_biases = [both[0].to(weight.dtype) for both, weight in zip(own_sums, weights, strict=True)]
        return None, None, *of_rows, *of_weights, *of_biases


def _sums(rows: Tensor) -> Tensor:
    """Return the sums of rows and of their squares, float64, shape (2, d)."""
    exact = rows.double()  # variances are differences of these
    return torch.stack([exact.sum(0), exact.square().sum(0)])
