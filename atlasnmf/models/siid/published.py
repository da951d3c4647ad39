"""The published optimiser, small and plain, to compare with: softmax and exp parameters, Adam, full batch.

Dense counts and one dense array of means an epoch: for pairs of some ten thousand cells and hundred genes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

__all__ = ["PublishedFit", "fit_published"]

#: Weight of the squares of all parameters (published).
_L2 = 1e-5


@dataclass(frozen=True)
class PublishedFit:
    """What the published optimiser found.

    Parameters
    ----------
    factors, depths, shares, loadings, scaling
        p (n, h), n (n,), m (n,), q (G, h), f (G,), float32.
    losses
        Poisson part of the loss before each epoch, float64, shape (epochs,).
    """

    factors: np.ndarray
    depths: np.ndarray
    shares: np.ndarray
    loadings: np.ndarray
    scaling: np.ndarray
    losses: np.ndarray


def fit_published(
    fine: np.ndarray,
    coarse: np.ndarray,
    measured: np.ndarray,
    spot_of: np.ndarray,
    *,
    n_factors: int,
    epochs: int = 5000,
    learning_rate: float = 1e-2,
    entropy_lambda: float | None = None,
    seed: int = 0,
    on_epoch: Callable[[int, float], None] | None = None,
) -> PublishedFit:
    """Fit a pair by gradient descent, as published.

    Parameters
    ----------
    fine
        Counts of the measured genes, shape (n, sum of ``measured``).
    coarse
        Counts of all genes, shape (m, G).
    measured
        Which of the coarse genes the fine counts have, bool, shape (G,); only their scaling is free.
    spot_of
        Coarse spot of each cell, -1 for none, shape (n,).
    n_factors
        h.
    epochs
        Full-batch steps; the paper has 5000.
    learning_rate
        Of Adam: 1e-2 in the authors' notebook, .05 in the paper.
    entropy_lambda
        The entropy term weighs ``exp(epoch / entropy_lambda)``; None leaves it out.
    seed
        Of the normal start of the logits.
    on_epoch
        Called with the epoch and the Poisson part of its loss.

    Notes
    -----
    Zheng, Sarkar and Raphael (Genome Res. 2025), Eq. 2 with platform scaling; l2 1e-5. Spots that no cell is
    linked to are left out. O((n + m) G h) an epoch.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.as_tensor(np.asarray(fine, dtype=np.float32))
    v = torch.as_tensor(np.asarray(coarse, dtype=np.float32))
    genes = torch.as_tensor(np.flatnonzero(measured))
    linked = torch.as_tensor(np.flatnonzero(spot_of >= 0))
    spots = torch.as_tensor(np.asarray(spot_of, dtype=np.int64)[spot_of >= 0])
    used = torch.zeros(len(v), dtype=torch.bool)
    used[spots] = True

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    logits, profiles = normal(len(x), n_factors), normal(n_factors, v.shape[1])
    cells = torch.bincount(spots, minlength=len(v)).clamp(min=1)
    log_depths = torch.log(x.sum(1).clamp(min=1.0) * v.shape[1] / len(genes))
    log_shares = torch.zeros(len(x))
    log_shares[linked] = torch.log((v.sum(1) / cells)[spots].clamp(min=1.0))
    log_scaling = torch.zeros(len(genes))
    weights = [part.requires_grad_() for part in (logits, profiles, log_depths, log_shares, log_scaling)]
    optimizer = torch.optim.Adam(weights, lr=learning_rate)
    losses = np.zeros(epochs)
    for epoch in range(epochs):
        p, q = logits.softmax(1), profiles.softmax(1)
        means = (log_depths.exp()[:, None] * p) @ q[:, genes]
        scaling = torch.ones(v.shape[1]).index_copy(0, genes, log_scaling.exp())
        mixtures = torch.zeros(len(v), n_factors).index_add(0, spots, (log_shares.exp()[:, None] * p)[linked])
        coarse_means = (mixtures[used] @ q) * scaling
        poisson = _poisson_loss(x, means) + _poisson_loss(v[used], coarse_means)
        loss = poisson + _L2 * torch.stack([(part**2).sum() for part in weights]).sum()
        if entropy_lambda is not None:
            weight = float(np.exp(epoch / entropy_lambda))
            loss = loss - weight * (p * torch.log(p + 1e-30)).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses[epoch] = float(poisson.detach())
        if on_epoch is not None:
            on_epoch(epoch, losses[epoch])
    with torch.no_grad():
        return PublishedFit(
            logits.softmax(1).numpy(),
            log_depths.exp().numpy(),
            log_shares.exp().numpy(),
            profiles.softmax(1).T.contiguous().numpy(),
            torch.ones(v.shape[1]).index_copy(0, genes, log_scaling.exp()).numpy(),
            losses,
        )


def _poisson_loss(counts: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
    return (means - counts * torch.log(means + 1e-30)).sum()
