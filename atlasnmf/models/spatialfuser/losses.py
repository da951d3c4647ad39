"""The terms of SpatialFuser's fusion (paper, Methods: Fusion layer)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize, relu

__all__ = ["direction", "triplets"]


def triplets(anchor: Tensor, positive: Tensor, away: Tensor, away_positive: Tensor, margin: float) -> Tensor:
    """Return the mean over pairs of ``|a-p| + (|a-p| - |a-n| + m)+ + (|a-p| - |p-n'| + m)+``.

    Parameters
    ----------
    anchor, positive
        Matched spots of two slices, shape (n, d).
    away, away_positive
        A spot of the anchor's, and of the positive's slice, far from each, shape (n, d).
    margin
        m.
    """
    near = _distance(anchor, positive)
    first = relu(near - _distance(anchor, away) + margin)
    second = relu(near - _distance(positive, away_positive) + margin)
    return (near + first + second).mean()


def _distance(left: Tensor, right: Tensor) -> Tensor:
    # the root of zero has no gradient
    return ((left - right).square().sum(1) + 1e-12).sqrt()


def direction(left: Tensor, right: Tensor) -> Tensor:
    """Return 1 - the mean cosine over all pairs of rows of two sets, in O(n + m).

    The mean over all pairs of the product of unit rows is the product of their means.
    """
    return 1 - torch.dot(normalize(left, dim=1).mean(0), normalize(right, dim=1).mean(0))
