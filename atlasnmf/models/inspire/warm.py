"""A first factorisation from a sample of spots, before the first step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from atlasnmf.metrics.factors import factor_diversity
from atlasnmf.models.inspire.assembly import InspireNet
from atlasnmf.models.inspire.losses import RATE_FLOOR
from atlasnmf.models.inspire.networks import Inputs
from atlasnmf.models.inspire.params import FACTOR_LADDER
from atlasnmf.schema import AtlasFacts
from atlasnmf.seeds import seed_for

__all__ = ["choose_factors", "start_factors"]

#: Passes of expectation-maximisation over the sample.
_PASSES = 20
#: Share of distinct genes among the top ten of all factors that ``n_factors="auto"`` asks for (paper).
_DIVERSE = 0.5
#: Width of a cluster's ball beside the mean squared distance to its centre: below 1 memberships are sharper.
_SHARPNESS = 0.125


@torch.no_grad()
def start_factors(net: InspireNet, sample: Sequence[Inputs], seed: int) -> None:
    """Start the factor head from clusters of the embedding, and the loadings from their counts.

    Parameters
    ----------
    net
        Untrained networks, changed in place.
    sample
        A few thousand spots a slice.
    seed
        Of the clusters.

    Notes
    -----
    ``softmax_k((c_k . z - |c_k|^2 / 2) / t)`` is the membership of z in ball k of a mixture: exactly a linear
    head. Loadings then take some passes of expectation-maximisation over the sample.
    """
    latents = [net.encode(inputs) for inputs in sample]
    points = torch.cat(latents)
    if not net.head.linear:
        points = torch.nn.functional.elu(points)
    n_factors = net.log_loadings.shape[1]
    centres, spread = _clusters(points, n_factors, seed)
    temperature = spread * _SHARPNESS
    net.head.dense.weight.copy_(centres / temperature)
    net.head.dense.bias.copy_(-centres.square().sum(1) / (2 * temperature))
    factors = [net.head(latent) for latent in latents]
    net.log_loadings.copy_(_fit_loadings(sample, factors, n_passes=_PASSES).log())


def choose_factors(sample: Sequence[Inputs], net: InspireNet, facts: AtlasFacts, seed: int) -> int:
    """Return the largest number of factors of the ladder whose loadings stay diverse on the sample.

    Half of the genes among the top ten of all factors must be distinct (INSPIRE, "Number of spatial
    factors"). Each rung is a factorisation of the sample by expectation-maximisation.
    """
    ladder = [k for k in FACTOR_LADDER if 2 * k <= facts.n_genes] or [2]
    with torch.no_grad():
        points = torch.cat([net.encode(inputs) for inputs in sample])
        for n_factors in ladder[:-1]:
            centres, spread = _clusters(points, n_factors, seed)
            logits = (points @ centres.T - centres.square().sum(1) / 2) / (spread * _SHARPNESS)
            sizes = [inputs.n_core for inputs in sample]
            factors = list(torch.softmax(logits, 1).split(sizes))
            loadings = _fit_loadings(sample, factors, n_passes=_PASSES)
            if factor_diversity(loadings.cpu().numpy()) >= _DIVERSE:
                return n_factors
    return ladder[-1]


def _clusters(points: Tensor, n_clusters: int, seed: int) -> tuple[Tensor, float]:
    from sklearn.cluster import KMeans

    array = points.cpu().numpy().astype(np.float64)
    state = seed_for(seed, "inspire", "clusters") % 2**32
    found = KMeans(n_clusters, n_init=3, random_state=state).fit(array)
    centres = torch.from_numpy(found.cluster_centers_).to(points)
    return centres, max(float(found.inertia_) / len(array), 1e-12)


def _fit_loadings(sample: Sequence[Inputs], factors: Sequence[Tensor], *, n_passes: int) -> Tensor:
    """Return loadings (G, K), columns sum to 1, by expectation-maximisation that starts from factors."""
    betas = [factor.contiguous() for factor in factors]
    profile = sum(
        inputs.counts.transposed_dot(beta / inputs.counts.row_sums().clamp_min(1)[:, None])
        for inputs, beta in zip(sample, betas, strict=True)
    )
    assert isinstance(profile, Tensor)
    background = profile.sum(1, keepdim=True) / profile.sum()
    loadings = _columns(profile, background)
    for _ in range(n_passes):
        pulled = torch.zeros_like(loadings)
        for at, inputs in enumerate(sample):
            _, to_factors, to_loadings = inputs.counts.likelihood_parts(betas[at], loadings, RATE_FLOOR)
            betas[at] = betas[at] * to_factors
            betas[at] = betas[at] / betas[at].sum(1, keepdim=True).clamp_min(1e-30)
            pulled += to_loadings
        loadings = _columns(loadings * pulled, background)
    return loadings


def _columns(mass: Tensor, background: Tensor) -> Tensor:
    """Normalise columns, with a trace of the background so that no gene is lost to a factor for good."""
    shares = mass / mass.sum(0).clamp_min(1e-30) + 1e-3 * background + 1e-9
    return shares / shares.sum(0)
