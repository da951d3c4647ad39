"""The terms of the INSPIRE objective in the form that never makes a spots x genes or spots x spots array.

Zhao et al., INSPIRE, Methods ("Joint NMF", "Regularization"). Each function equals the dense formula in its
docstring; ``tests/reference/test_inspire_identities.py`` proves value and gradient in float64.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from atlasnmf.train.sparse_rows import SparseRows

__all__ = [
    "RATE_FLOOR",
    "adversary_loss",
    "discriminator_loss",
    "factor_prior",
    "geometry_sums",
    "geometry_value",
    "poisson_factorisation",
    "reconstruction_norm",
]

#: The published code adds this to every rate before the logarithm.
RATE_FLOOR = 1e-6


def poisson_factorisation(
    counts: SparseRows,
    library: Tensor,
    factors: Tensor,
    loadings: Tensor,
    gamma: Tensor,
    mask: Tensor | None = None,
    n_spots: int | None = None,
) -> Tensor:
    """Return the Poisson factorisation term of one slice, a scalar.

    ``-mean_i sum_g m_g [y_ig (log l_i + r_ig) - l_i exp(r_ig)]`` with
    ``r_ig = log(beta_i . mu_g + 1e-6) + gamma_g``.

    Parameters
    ----------
    counts
        y, n rows, G columns, nothing stored at masked genes.
    library
        l, total count of each spot over the model's genes, shape (n,).
    factors
        beta, rows sum to 1, shape (n, K).
    loadings
        mu, one row per gene, columns sum to 1, shape (G, K).
    gamma
        Effect of the slice on each gene, shape (G,).
    mask
        m, 1 where the slice measured the gene, shape (G,); None for all.
    n_spots
        What the sum over rows is divided by, where these rows are a part of a batch; n when not given.

    Notes
    -----
    ``sum_g m_g l_i exp(r_ig) = l_i beta_i . (mu' (m e^gamma)) + 1e-6 l_i sum_g m_g e^gamma_g``: one
    K-vector a slice. O(nnz K) multiply-adds.
    """
    effect = gamma.exp() if mask is None else gamma.exp() * mask
    logs = counts.log_likelihood(factors, loadings, RATE_FLOOR)
    offsets = counts.column_sums() @ gamma + counts.row_sums() @ library.clamp_min(1e-30).log()
    rates = library @ (factors @ (loadings.T @ effect)) + RATE_FLOOR * library.sum() * effect.sum()
    return (rates - logs - offsets) / (n_spots or len(library))


def reconstruction_norm(
    features: SparseRows,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    mask: Tensor | None = None,
    shares: Tensor | None = None,
) -> Tensor:
    """Return ``sum_i s_i || m * (x_i - W h_i - b) ||_2``, a scalar: the mean of a slice when s is 1 / n.

    Parameters
    ----------
    features
        x, n rows, G columns.
    hidden
        h, the decoder's last hidden layer, shape (n, H).
    weight, bias
        W and b, shapes (G, H) and (G,).
    mask
        m, 1 where the slice measured the gene, shape (G,); None for all.
    shares
        s, weight of each row, shape (n,); None for 1 / n. Slices with the same genes go in one call, each row
        with one over its slice's rows, so that W'W is made once.

    Notes
    -----
    ``||x||^2 - 2 x.(Wh) - 2 x.b + h'(W'W)h + 2 h.(W'b) + ||b||^2``, clamped at 0 before the root (a clamped
    spot has no gradient): nnz H + (n + G) H^2 multiply-adds and no (n, G) array.
    """
    if mask is not None:
        weight, bias = weight * mask[:, None], bias * mask
    if shares is None:
        shares = hidden.new_full((len(hidden),), 1 / max(len(hidden), 1))
    return _ReconstructionNorm.apply(features, hidden, weight, bias, shares)


class _ReconstructionNorm(torch.autograd.Function):
    """The gradient reuses the products of the value, and adds one sparse product for W."""

    @staticmethod
    def forward(
        ctx: Any, features: SparseRows, hidden: Tensor, weight: Tensor, bias: Tensor, shares: Tensor
    ) -> Tensor:
        along = features.forward_dot(weight)
        pulled_bias = bias @ weight
        slope = torch.addmm(pulled_bias, hidden, weight.T @ weight)
        squared = features.row_sums(squared=True) + bias @ bias
        squared -= 2 * features.forward_dot(bias[:, None])[:, 0]
        squared += (hidden * (slope + pulled_bias - 2 * along)).sum(1)
        norm = squared.clamp_min(0).sqrt()
        inverse = torch.where(norm > 0, shares / norm.clamp_min(1e-12), torch.zeros_like(norm))
        ctx.features = features
        ctx.save_for_backward(hidden, weight, bias, inverse, (slope - along) * inverse[:, None])
        return norm @ shares

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, Tensor, Tensor, None]:
        hidden, weight, bias, inverse, grad_hidden = ctx.saved_tensors
        pulled = hidden * inverse[:, None]
        pulled_sum = pulled.sum(0)
        grad_weight = ctx.features.transposed_dot(pulled).neg_()
        grad_weight.addmm_(weight, hidden.T @ pulled).addr_(bias, pulled_sum).mul_(grads[0])
        grad_bias = weight @ pulled_sum + bias * inverse.sum()
        grad_bias -= ctx.features.transposed_dot(inverse[:, None])[:, 0]
        return None, grads[0] * grad_hidden, grad_weight, grads[0] * grad_bias, None


def geometry_sums(latent: Tensor, features: SparseRows | Tensor) -> tuple[Tensor, Tensor]:
    """Return the two sums over rows that :func:`geometry_value` is made of, so that ranks can add theirs.

    Parameters
    ----------
    latent
        z, shape (n, P).
    features
        x: sparse, with rows of unit norm; or dense, shape (n, F).

    Returns
    -------
    within, across
        ``Zn'Zn`` (P, P), and ``Xn'Zn`` (G, P) or ``Zn'Xn`` (P, F).

    Notes
    -----
    2 nnz P multiply-adds instead of n^2 G.
    """
    unit = torch.nn.functional.normalize(latent, dim=1, eps=1e-12)
    if isinstance(features, Tensor):
        return unit.T @ unit, unit.T @ torch.nn.functional.normalize(features, dim=1, eps=1e-12)
    return unit.T @ unit, _TransposedDot.apply(features, unit)


def geometry_value(within: Tensor, across: Tensor, n_spots: int) -> Tensor:
    """Return ``mean_i sum_j [(cos(z_i, z_j) - cos(x_i, x_j))^2 - cos(x_i, x_j)^2]`` of one slice, a scalar.

    The term left out does not depend on the model; the rest is ``(||Szz||^2 - 2 ||Szx||^2) / n``.

    Parameters
    ----------
    within, across
        Szz and Szx, from :func:`geometry_sums` over all rows of the slice.
    n_spots
        n, how many they are.
    """
    return (within.square().sum() - 2 * across.square().sum()) / n_spots


class _TransposedDot(torch.autograd.Function):
    """``X'Z`` for constant sparse X."""

    @staticmethod
    def forward(ctx: Any, features: SparseRows, latent: Tensor) -> Tensor:
        ctx.features = features
        return features.transposed_dot(latent)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        return None, ctx.features.forward_dot(grads[0].contiguous())


def factor_prior(mean_factors: Tensor) -> Tensor:
    """Return ``-4 sum_k log(mean of beta_k over all spots + 1e-6)``: no factor may die (published code)."""
    return -4 * (mean_factors + 1e-6).log().sum()


def discriminator_loss(
    lower: Tensor, upper: Tensor, n_lower: int | None = None, n_upper: int | None = None
) -> Tensor:
    """Return ``mean softplus(-d(z_s)) + mean softplus(d(z_{s+1}))`` of one pair of slices.

    Where the rows are a part of a batch, ``n_lower`` and ``n_upper`` are the rows of all of it.
    """
    return _mean(softplus(-lower), n_lower) + _mean(softplus(upper), n_upper)


def adversary_loss(upper: Tensor, n_upper: int | None = None) -> Tensor:
    """Return ``mean softplus(-d(z_{s+1}))``: the encoder's side of the game (published code)."""
    return _mean(softplus(-upper), n_upper)


def _mean(values: Tensor, n_values: int | None) -> Tensor:
    return values.mean() if n_values is None else values.sum() / n_values
