"""The paired factorisation as expectation and maximisation: what one pass does with the sums of its tiles."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

__all__ = ["CoarseSums", "FineSums", "Shared", "coarse_loss", "entropy_weight", "maximise", "price_of"]

#: Rounds between loadings and platform scaling for the same expectations.
_ROUNDS = 5
#: Scaling of a gene that the coarse slice does not see: small, and its logarithm finite.
_LEAST_SCALING = 1e-12
#: Epochs of the published schedule, mapped on the passes of a fit.
PUBLISHED_EPOCHS = 5000


@dataclass(frozen=True)
class Shared:
    """What all rows share: small, and all there is to know for a new row.

    Parameters
    ----------
    loadings
        q, the profile of every factor over the genes, rows of ``(G, H)`` by gene, columns sum to 1 over the
        genes fitted, float64, shape (R, G, H); factors beyond h are zero.
    scaling
        f, how much more the coarse platform sees of a gene, float64, shape (R, G); 1 where not free.
    scale
        What the columns of the loadings were divided by in the last pass, owed to the weights of the rows,
        float64, shape (R, H).
    size
        Of the negative binomial of coarse counts, float64, shape (R, G); None for Poisson counts.
    """

    loadings: np.ndarray
    scaling: np.ndarray
    scale: np.ndarray
    size: np.ndarray | None = None

    @property
    def n_restarts(self) -> int:
        """Number of restarts R."""
        return len(self.loadings)

    def only(self, restart: int) -> Shared:
        """Return one restart alone."""
        one = slice(restart, restart + 1)
        size = None if self.size is None else self.size[one]
        return Shared(self.loadings[one], self.scaling[one], self.scale[one], size)


@dataclass(frozen=True)
class CoarseSums:
    """What a pass over the coarse rows adds up.

    Parameters
    ----------
    expected
        ``sum_v t_v V_vg / (t_v . q_g)``, float64, shape (R, G, H).
    exposure
        ``sum_v a_vg t_v`` with a = 1 for Poisson counts, float64, shape (R, G, H), or (R, 1, H) where it is
        the same for all genes.
    """

    expected: np.ndarray
    exposure: np.ndarray


@dataclass(frozen=True)
class FineSums:
    """What a pass over the fine rows adds up.

    Parameters
    ----------
    expected
        ``sum_i n_i p_i X_ig / mean_ig``, float64, shape (R, G, H).
    exposure
        ``sum_i n_i p_i``, float64, shape (R, H).
    """

    expected: np.ndarray
    exposure: np.ndarray


def price_of(shared: Shared) -> np.ndarray:
    """Return what a unit of a factor's mixture adds to Poisson means of the coarse genes, shape (R, H)."""
    return np.einsum("rg,rgk->rk", shared.scaling, shared.loadings)


def coarse_loss(
    shared: Shared, log_rates: np.ndarray, gene_counts: np.ndarray, mixture_sums: np.ndarray
) -> np.ndarray:
    """Return the Poisson loss ``sum mean - V log mean`` of the coarse rows.

    Parameters
    ----------
    shared
        The state the sums were made with.
    log_rates
        ``sum V log(t . q)``, shape (R,).
    gene_counts
        Counts of the linked coarse rows by gene, shape (G,) or (R, G).
    mixture_sums
        ``sum_v t_v``, shape (R, H).
    """
    means = (mixture_sums * price_of(shared)).sum(axis=1)
    return means - log_rates - (gene_counts * np.log(shared.scaling)).sum(axis=1)


def maximise(shared: Shared, fine: FineSums, coarse: CoarseSums, measured: np.ndarray) -> Shared:
    """Return the loadings and the scaling that raise the expected log-likelihood, the columns normalised.

    Parameters
    ----------
    shared
        The state the expectations were taken with.
    fine, coarse
        The sums of a pass.
    measured
        Genes that count in the fine rows: their scaling is free, bool, shape (R, G).

    Notes
    -----
    For expectations ``c_gk = q_gk expected_gk`` the loadings are ``c_gk / (exposure)`` and the scaling is the
    observed count of a gene over its mean; a few rounds of both. MODELS section "SIID", Eq. 2 with platform
    scaling of Zheng, Sarkar and Raphael (Genome Res. 2025). O(R G H).
    """
    from_coarse = shared.loadings * coarse.expected
    counts = shared.loadings * fine.expected + from_coarse
    gene_counts = from_coarse.sum(axis=2)
    fine_exposure = measured[:, :, None] * fine.exposure[:, None, :]
    loadings, scaling = shared.loadings, shared.scaling
    for _ in range(_ROUNDS):
        exposure = fine_exposure + scaling[:, :, None] * coarse.exposure
        loadings = np.divide(counts, exposure, out=np.zeros_like(counts), where=exposure > 0)
        means = (coarse.exposure * loadings).sum(axis=2)
        free = measured & (means > 0)
        scaling = np.where(free, np.maximum(gene_counts / np.where(free, means, 1.0), _LEAST_SCALING), 1.0)
    sums = loadings.sum(axis=1)
    scale = np.where(sums > 0, sums, 1.0)
    return replace(shared, loadings=loadings / scale[:, None, :], scaling=scaling, scale=scale)


def entropy_weight(lambda_epochs: float | None, done: int, passes: int) -> float:
    """Return the weight of the entropy term in a pass.

    Parameters
    ----------
    lambda_epochs
        The published lambda: 1000 for imputation, 500 for deconvolution; None leaves the term out.
    done, passes
        Passes done, and all of them: the published 5000 epochs are mapped on the passes.

    Examples
    --------
    >>> round(entropy_weight(1000, 100, 100), 1), entropy_weight(None, 3, 100)
    (148.4, 0.0)
    """
    if lambda_epochs is None:
        return 0.0
    return float(np.exp(PUBLISHED_EPOCHS / lambda_epochs * done / max(passes, 1)))
