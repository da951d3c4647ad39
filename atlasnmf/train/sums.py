"""What ranks tell each other: sums and rows of all inside a loss, and what one of them has found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from atlasnmf.tiles.parts import share_of

if TYPE_CHECKING:
    from torch import Tensor

    from atlasnmf.train.method import Ranks

__all__ = ["gathered", "sent_round", "summed"]


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


def gathered(tables: Sequence[Tensor], n_rows: Sequence[int], ranks: Ranks | None) -> list[Tensor]:
    """Put the rows of all ranks together inside a loss, those of one rank after those of the one before.

    Parameters
    ----------
    tables
        Rows of this rank, shape (n, d) each, of one floating type; every rank gives as many tables.
    n_rows
        Rows of each table over all ranks. A rank has those that :func:`~atlasnmf.tiles.parts.share_of` says.
    ranks
        The other ranks; None returns the tables as they are.

    Returns
    -------
    list of Tensor
        Shape (n_rows, d) each, the same bits on every rank.

    Notes
    -----
    Gradients are added over ranks, in a message of their own: what is made of the rows differs from rank to
    rank, and the losses of all ranks add up. A term that all ranks would have whole counts on one alone;
    :func:`summed` is for those.
    """
    if ranks is None or not tables:
        return list(tables)
    return list(_Gathered.apply(ranks, tuple(n_rows), *tables))


def sent_round(found: Sequence[np.ndarray], ranks: Ranks | None, device: torch.device) -> list[np.ndarray]:
    """Return on every rank vectors of which each was found by one, minutes of work that ranks take in turn.

    Parameters
    ----------
    found
        Whole numbers, int64; empty on all ranks but the one that found them.
    ranks
        The other ranks; None returns what is given.
    device
        Through whose memory they travel.
    """
    if ranks is None:
        return list(found)
    sizes = torch.tensor([len(vector) for vector in found], dtype=torch.int64, device=device)
    ranks.sum([sizes], late=True)
    sent = [torch.zeros(size, dtype=torch.int64, device=device) for size in sizes.tolist()]
    for vector, place in zip(found, sent, strict=True):
        if len(vector):
            place.copy_(torch.from_numpy(vector))
    ranks.sum(sent)
    return [vector.cpu().numpy() for vector in sent]


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ranks: Ranks, *parts: Tensor) -> tuple[Tensor, ...]:
        totals = tuple(part.detach().clone() for part in parts)
        ranks.sum(totals)
        return totals

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        return None, *grads


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ranks: Ranks, n_rows: tuple[int, ...], *tables: Tensor) -> tuple[Tensor, ...]:
        everyone = range(ranks.n_ranks)
        ctx.ranks, ctx.shapes = ranks, [table.shape for table in tables]
        ctx.runs = [[share_of(n, rank, ranks.n_ranks) for n in n_rows] for rank in everyone]
        shapes = [
            [(run.stop - run.start, table.shape[1]) for run, table in zip(runs, tables, strict=True)]
            for runs in ctx.runs
        ]
        sizes = [sum(n * d for n, d in of_rank) for of_rank in shapes]
        came = ranks.exchange([_packed(tables)] * ranks.n_ranks, sizes)
        by_rank = [_unpacked(flat, of_rank) for flat, of_rank in zip(came, shapes, strict=True)]
        whole = tuple(torch.cat(of_table) for of_table in zip(*by_rank, strict=True))
        needed = ctx.needs_input_grad[2:]
        ctx.mark_non_differentiable(*(rows for rows, asked in zip(whole, needed, strict=True) if not asked))
        return whole

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        asked = [at for at, needed in enumerate(ctx.needs_input_grad[2:]) if needed]
        sent = [_packed([grads[at][runs[at]] for at in asked]) for runs in ctx.runs]
        first, *others = ctx.ranks.exchange(sent, [len(sent[ctx.ranks.rank])] * ctx.ranks.n_ranks)
        own: list[Tensor | None] = [None] * len(grads)
        for at, part in zip(
            asked, _unpacked(sum(others, first), [ctx.shapes[at] for at in asked]), strict=True
        ):
            own[at] = part
        return None, None, *own


def _packed(tables: Sequence[Tensor]) -> Tensor:
    return torch.cat([table.detach().reshape(-1) for table in tables])


def _unpacked(flat: Tensor, shapes: Sequence[tuple[int, int]]) -> list[Tensor]:
    parts = flat.split([n * d for n, d in shapes])
    return [part.view(n, d) for part, (n, d) in zip(parts, shapes, strict=True)]
