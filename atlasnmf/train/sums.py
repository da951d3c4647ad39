"""Sums over ranks inside a loss: a part of a batch in, the sum over all of it out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from atlasnmf.train.method import Ranks

__all__ = ["pooled", "summed"]


def summed(parts: Sequence[Tensor], ranks: Ranks | None) -> list[Tensor]:
    """Add tensors over ranks inside a loss.

    Parameters
    ----------
    parts
        Sums over the rows that are here, of any shapes and one floating type.
    ranks
        The other ranks; None returns the parts as they are.

    Returns
    -------
    list of Tensor
        The sums over all ranks' rows, the same bits on every rank.

    Notes
    -----
    The gradient passes through unchanged: each rank's gradient is that of its own rows, and the gradients of
    all ranks add up to that of the whole batch. So a term that is no sum over rows, such as a function of a
    mean, is exact when it is written as a function of sums.
    """
    if ranks is None:
        return list(parts)
    return list(_Summed.apply(ranks, *parts))


def pooled(parts: Sequence[Tensor], ranks: Ranks | None) -> list[Tensor]:
    """Add tensors over ranks that every rank's own rows go on from, such as the mean of a normalisation.

    Parameters
    ----------
    parts
        Sums over the rows that are here, of any shapes and one floating type; every rank gives as many of
        the same shapes, and takes the gradient of at least one of what it gets.
    ranks
        The other ranks; None returns the parts as they are.

    Returns
    -------
    list of Tensor
        The sums over all ranks' rows, the same bits on every rank.

    Notes
    -----
    Gradients are added over ranks too, in a message of their own: what is made of the sums differs from rank
    to rank, and the losses of all ranks add up. A term that all ranks would have whole counts on one alone;
    :func:`summed` is for those.
    """
    if ranks is None:
        return list(parts)
    return list(_Pooled.apply(ranks, *parts))


class _Pooled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ranks: Ranks, *parts: Tensor) -> tuple[Tensor, ...]:
        ctx.ranks = ranks
        return _added(ranks, parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        return None, *_added(ctx.ranks, grads)


def _added(ranks: Ranks, parts: Sequence[Tensor]) -> tuple[Tensor, ...]:
    totals = tuple(part.detach().clone() for part in parts)
    ranks.sum(totals)
    return totals


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ranks: Ranks, *parts: Tensor) -> tuple[Tensor, ...]:
        return _added(ranks, parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        return None, *grads
