"""CuPy twin of :mod:`atlasnmf.kernels.cpu.em`: same names, arrays on the device."""

from __future__ import annotations

from typing import Any

import numpy as np

from atlasnmf.kernels.cpu.em import LANE, padded_width
from atlasnmf.kernels.gpu._compile import BLOCK, REAL_NAMES, launch, read_as
from atlasnmf.kernels.gpu.products import csr_dot, csr_t_dot

__all__ = ["LANE", "coarse_sums", "dispersed_sums", "fine_sweeps", "padded_width", "spot_mixtures"]

_TINY = 1e-25
_ROUNDS = 2
_TANGENTS, _NEWTON = 4, 12
#: Rows of a dense block of the negative binomial.
_DENSE_ROWS = 256

#: The product of a row's weights and a gene's loadings, at the stored values only; a thread per value.
SOURCE = r"""
extern "C" __global__ void sampled_products(
    const long long* rows, const int* columns, const REAL* left, const REAL* right,
    long long n_values, long long width, REAL* out)
{
    for (long long j = blockIdx.x * (long long)blockDim.x + threadIdx.x; j < n_values;
         j += gridDim.x * (long long)blockDim.x) {
        const REAL* a = left + rows[j] * width;
        const REAL* b = right + columns[j] * width;
        REAL sum = 0;
        for (long long k = 0; k < width; ++k) sum += a[k] * b[k];
        out[j] = sum;
    }
}
"""


def _rates(rows: Any, columns: Any, left: Any, right: Any) -> Any:
    import cupy as cp

    left, right = cp.ascontiguousarray(left), cp.ascontiguousarray(right)
    out = cp.zeros(len(columns), dtype=right.dtype)
    arguments = (rows, columns, left, right, len(columns), right.shape[1], out)
    launch(SOURCE, "sampled_products", -(-len(columns) // BLOCK), arguments, real=REAL_NAMES[right.dtype])
    return cp.maximum(out, _TINY)


def _parts(indptr: Any, indices: Any, data: Any, real: Any) -> tuple[Any, Any, Any, Any]:

    from atlasnmf.kernels.gpu.rows import row_of_values

    starts = read_as(np.int64, indptr)
    rows = row_of_values(starts).astype(np.int64)
    return starts, rows, read_as(np.int32, indices), read_as(real, data)


def _first(parts: tuple[Any, Any, Any, Any], n_genes: int) -> tuple[Any, Any, Any, Any]:
    """Leave out the columns from ``n_genes`` on."""
    import cupy as cp

    starts, rows, columns, counts = parts
    kept = columns < n_genes
    before = cp.zeros(len(columns) + 1, dtype=np.int64)
    before[1:] = cp.cumsum(kept.astype(np.int64))
    return before[starts], rows[kept], columns[kept], counts[kept]


def spot_mixtures(starts: Any, rows: Any, weights: Any, shares: Any, factors: Any) -> Any:
    """Mix the weights of the fine rows of every coarse row; see the CPU twin."""
    n_restarts, width = factors.shape[1:]
    flat = (shares[:, :, None] * factors).reshape(len(factors), n_restarts * width)
    return csr_dot(starts, rows, weights, flat).reshape(len(starts) - 1, n_restarts, width)


def coarse_sums(indptr: Any, indices: Any, data: Any, mixtures: Any, loadings: Any) -> tuple[Any, Any, Any]:
    """Contract Poisson coarse counts; see the CPU twin."""
    import cupy as cp

    n_restarts, n_genes, width = loadings.shape
    starts, rows, columns, counts = _first(_parts(indptr, indices, data, loadings.dtype), n_genes)
    pull, expected = cp.zeros_like(mixtures), cp.zeros((n_restarts, n_genes, width))
    log_rates = cp.zeros(n_restarts)
    for r in range(n_restarts):
        mix = cp.ascontiguousarray(mixtures[:, r])
        seen = (mix.sum(axis=1) > 0)[rows] * counts
        rates = _rates(rows, columns, mix, loadings[r])
        ratios = seen / rates
        pull[:, r] = csr_dot(starts, columns, ratios, loadings[r])
        expected[r] = csr_t_dot(starts, columns, ratios, mix, n_genes)
        log_rates[r] = (seen * cp.log(rates.astype(np.float64))).sum()
    return pull, expected, log_rates


def dispersed_sums(
    indptr: Any, indices: Any, data: Any, mixtures: Any, loadings: Any, scaling: Any, size: Any
) -> tuple[Any, Any, Any, Any, Any]:
    """Contract negative-binomial coarse counts, some rows at a time; see the CPU twin."""
    import cupy as cp

    n_restarts, n_genes, width = loadings.shape
    starts, rows, columns, counts = _first(_parts(indptr, indices, data, np.float64), n_genes)
    pull, push = cp.zeros_like(mixtures), cp.zeros_like(mixtures)
    expected, exposure = (cp.zeros((n_restarts, n_genes, width)) for _ in range(2))
    figures = cp.zeros((n_restarts, 1 + 2 * n_genes))
    n_rows = len(starts) - 1
    for first in range(0, n_rows, _DENSE_ROWS):
        last = min(first + _DENSE_ROWS, n_rows)
        span = slice(int(starts[first]), int(starts[last]))
        dense = cp.zeros((last - first, n_genes))
        dense[rows[span] - first, columns[span]] = counts[span]
        for r in range(n_restarts):
            mix, q = mixtures[first:last, r].astype(np.float64), loadings[r].astype(np.float64)
            seen = mix.sum(axis=1)[:, None] > 0
            rates = cp.maximum(mix @ q.T, _TINY)
            means, extra = scaling[r][None, :] * rates, size[r][None, :]
            weights = (dense + extra) / (means + extra) * seen
            ratios = dense / rates * seen
            pull[first:last, r] = (ratios @ q).astype(pull.dtype)
            push[first:last, r] = ((weights * scaling[r][None, :]) @ q).astype(push.dtype)
            expected[r] += ratios.T @ mix
            exposure[r] += weights.T @ mix
            own = dense * cp.log(means) - (dense + extra) * cp.log1p(means / extra)
            for c in range(int(dense.max()) if dense.size else 0):
                own += (dense > c) * cp.log1p(c / extra)
            figures[r, 0] += (own * seen).sum()
            figures[r, 1 : 1 + n_genes] += (means * means * seen).sum(axis=0)
            figures[r, 1 + n_genes :] += (((dense - means) ** 2 - dense) * seen).sum(axis=0)
    return pull, expected, push, exposure, figures


def fine_sweeps(
    indptr: Any,
    indices: Any,
    data: Any,
    measured: Any,
    loadings: Any,
    factors: Any,
    depths: Any,
    shares: Any,
    scale: Any,
    link_starts: Any,
    links: Any,
    link_weights: Any,
    pull: Any,
    push: Any,
    panel_sums: Any,
    *,
    n_sweeps: int = 2,
    entropy: float = 0.0,
) -> tuple[Any, Any, Any, Any, Any, Any]:
    """Update weights, depth and share of fine rows; see the CPU twin."""
    import cupy as cp

    n_restarts, n_genes, width = loadings.shape
    real = loadings.dtype
    starts, rows, columns, all_counts = _parts(indptr, indices, data, real)
    reach = csr_dot(link_starts, links, link_weights, cp.ones((len(pull), 1), dtype=real))[:, 0]
    new_factors, new_depths, new_shares = factors.copy(), depths.copy(), shares.copy()
    expected, exposures = cp.zeros((n_restarts, n_genes, width)), cp.zeros((2, n_restarts, width))
    figures = cp.zeros((2, n_restarts))
    for r in range(n_restarts):
        counts = all_counts * measured[r][columns]
        totals = csr_dot(starts, columns, counts, cp.ones((n_genes, 1), dtype=real))[:, 0]
        q, sums = loadings[r], panel_sums[r][None, :]
        p = factors[:, r] * scale[r][None, :].astype(real)
        mass = p.sum(axis=1)
        p = p / cp.where(mass > 0, mass, 1)[:, None]
        depth = depths[:, r] * cp.where(mass > 0, mass, 1)
        share = shares[:, r] * cp.where(mass > 0, mass, 1)
        gathered = csr_dot(link_starts, links, link_weights, cp.ascontiguousarray(pull[:, r]))
        if len(push) == 1:
            price = reach[:, None] * push[0, r][None, :]
        else:
            price = csr_dot(link_starts, links, link_weights, cp.ascontiguousarray(push[:, r]))
        coarse = share[:, None] * p * gathered
        from_coarse = coarse.sum(axis=1)
        for sweep in range(n_sweeps):
            rates = _rates(rows, columns, p, q)
            ratios = counts / rates
            if sweep == 0:
                means = depth * (p * sums).sum(axis=1)
                logs = (counts * cp.log(rates.astype(np.float64))).sum()
                figures[0, r] = means.astype(np.float64).sum() - logs
                figures[0, r] -= (totals * cp.log(cp.maximum(depth, _TINY))).astype(np.float64).sum()
                if entropy > 0:
                    figures[1, r] = (p * cp.log(cp.where(p > 0, p, 1))).astype(np.float64).sum()
            if sweep == n_sweeps - 1:
                expected[r] = csr_t_dot(starts, columns, ratios, p, n_genes)
            x = p * csr_dot(starts, columns, ratios, q) + coarse
            for _ in range(_ROUNDS):
                cost = depth[:, None] * sums + share[:, None] * price
                known = cost.sum(axis=1) > 0
                if entropy > 0:
                    moved = _concentrate(x, cost, entropy, p)
                else:
                    moved = cp.where(x > 0, x / cp.maximum(cost, _TINY), 0)
                    moved = moved / cp.where(known, moved.sum(axis=1), 1)[:, None]
                p = cp.where(known[:, None], moved, p).astype(real)
                here, there = (p * sums).sum(axis=1), (p * price).sum(axis=1)
                depth = cp.where(
                    known, cp.where(here > 0, totals / cp.where(here > 0, here, 1), 0), depth
                ).astype(real)
                share = cp.where(
                    known, cp.where(there > 0, from_coarse / cp.where(there > 0, there, 1), 0), share
                ).astype(real)
        new_factors[:, r], new_depths[:, r], new_shares[:, r] = p, depth, share
        exposures[0, r] = (depth[:, None] * p).astype(np.float64).sum(axis=0)
        exposures[1, r] = ((reach * share)[:, None] * p).astype(np.float64).sum(axis=0)
    return new_factors, new_depths, new_shares, expected, exposures, figures


def _concentrate(x: Any, cost: Any, entropy: float, p: Any) -> Any:
    """Move rows of p on the simplex; see the CPU twin."""
    import cupy as cp

    x, cost, p = x.astype(np.float64), cost.astype(np.float64), p.astype(np.float64)
    used = x > 0
    for _ in range(_TANGENTS):
        slope = cost - entropy * cp.log(cp.maximum(p, _TINY))
        root = cp.where(used, x - slope, -1e300).max(axis=1)[:, None]
        for _ in range(_NEWTON):
            part = cp.where(used, x / cp.where(used, root + slope, 1), 0)
            fall = (part / cp.where(used, root + slope, 1)).sum(axis=1)[:, None]
            root = root + (part.sum(axis=1)[:, None] - 1) / cp.where(fall > 0, fall, 1)
        part = cp.where(used, x / cp.where(used, root + slope, 1), 0)
        sums = part.sum(axis=1)[:, None]
        p = cp.where(sums > 0, part / cp.where(sums > 0, sums, 1), p)
    return p
