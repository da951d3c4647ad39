"""The terms of SpatialFuser's losses (paper, Methods: Decoder, Fusion layer).

Each is a sum over rows, or a function of one, divided by a number that is the same wherever rows are: so the
parts of several workers add up to the term of all rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize, relu

__all__ = ["direction", "heading", "reconstruction", "triplets"]

#: Rows whose features are decoded at a time.
_ROWS = 512


def reconstruction(
    hidden: Tensor, weight: Tensor, rows: Tensor, *, linear: bool, n_rows: int | None = None
) -> Tensor:
    """Return the mean square of ``ELU(hidden W1) - rows``, each head over its own columns.

    Parameters
    ----------
    hidden
        What the last layer of the decoder multiplies, shape (n, H w).
    weight
        W1 by head, shape (H, g, w), H g at least the number of features G.
    rows
        Features, constant, shape (n, G).
    linear
        Leave out the ELU.
    n_rows
        Rows that the mean is over, where these are a part of them; these when not given.

    Notes
    -----
    Decoded features are formed a few rows at a time and dropped: value and gradients come out of one pass,
    and nothing of n x G values is kept for the backward pass.
    """
    return _Reconstruction.apply(hidden, weight, rows, linear, len(rows) if n_rows is None else n_rows)


class _Reconstruction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, rows: Tensor, linear: bool, n_rows: int) -> Tensor:
        n_heads, n_features = len(weight), rows.shape[1]
        of_hidden, of_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        total = hidden.new_zeros((), dtype=torch.float64)
        for start in range(0, len(rows), _ROWS):
            target = rows[start : start + _ROWS]
            given = hidden[start : start + _ROWS].reshape(len(target), n_heads, -1).transpose(0, 1)
            decoded = torch.bmm(given, weight.transpose(1, 2))
            flat = decoded.transpose(0, 1).reshape(len(target), -1)
            slope = flat.new_zeros(flat.shape)
            if linear:
                slope[:, :n_features] = flat[:, :n_features] - target
                total += slope.square().sum()
            else:
                # where the ELU bends its slope is its value and one
                bent = torch.nn.functional.elu(flat)
                difference = bent[:, :n_features] - target
                total += difference.square().sum()
                slope[:, :n_features] = difference * (bent[:, :n_features].clamp(max=0) + 1)
            by_head = slope.reshape(len(target), n_heads, -1).transpose(0, 1)
            of_weight += torch.bmm(by_head.transpose(1, 2), given)
            back = torch.bmm(by_head, weight).transpose(0, 1)
            of_hidden[start : start + _ROWS] = back.reshape(len(target), -1)
        scale = 1 / (n_rows * n_features)
        ctx.save_for_backward(of_hidden.mul_(2 * scale), of_weight.mul_(2 * scale))
        return (total * scale).to(hidden.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        of_hidden, of_weight = ctx.saved_tensors
        return grads[0] * of_hidden, grads[0] * of_weight, None, None, None


def triplets(
    anchor: Tensor,
    positive: Tensor,
    away: Tensor,
    away_positive: Tensor,
    margin: float,
    n_pairs: int | None = None,
) -> Tensor:
    """Return the mean over pairs of ``|a-p| + (|a-p| - |a-n| + m)+ + (|a-p| - |p-n'| + m)+``.

    Parameters
    ----------
    anchor, positive
        Matched spots of two slices, shape (n, d).
    away, away_positive
        A spot of the anchor's, and of the positive's slice, far from each, shape (n, d).
    margin
        m.
    n_pairs
        Pairs that the mean is over, where these are a part of them; these when not given.
    """
    near = _distance(anchor, positive)
    first = relu(near - _distance(anchor, away) + margin)
    second = relu(near - _distance(positive, away_positive) + margin)
    return (near + first + second).sum() / (len(anchor) if n_pairs is None else n_pairs)


def _distance(left: Tensor, right: Tensor) -> Tensor:
    # the root of zero has no gradient
    return ((left - right).square().sum(1) + 1e-12).sqrt()


def heading(rows: Tensor, n_rows: int) -> Tensor:
    """Return the sum of the unit rows over their number, shape (d,)."""
    return normalize(rows, dim=1).sum(0) / n_rows


def direction(left: Tensor, right: Tensor) -> Tensor:
    """Return 1 - the mean cosine over all pairs of rows of two sets, from their headings.

    The mean over all pairs of the product of unit rows is the product of their means: O(n + m) for all.
    """
    return 1 - torch.dot(left, right)
