"""Expectation and maximisation of a paired Poisson factorisation, row by row at the non-zero counts.

A fine row i has weights p_i on the simplex, a depth n_i and a share m_i; a coarse row v sees the mixture
``t_v = sum_i w_iv m_i p_i`` of the fine rows linked to it. Fine counts have mean ``n_i p_i . q_g`` and
coarse counts mean ``f_g t_v . q_g``, with loadings q. Several restarts are stacked: first axis of gene
arrays, second axis of row arrays. The last axis, the factors, is padded with zeros to a multiple of
:data:`LANE`: loops of a length known to the compiler are several times faster, and zeros stay zero.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np

from atlasnmf.kernels.cpu._lanes import LANE, add_scaled, dot

__all__ = ["LANE", "coarse_sums", "dispersed_sums", "fine_sweeps", "padded_width", "spot_mixtures"]

#: Rows whose sums by gene are gathered in the rows' own precision before they are added in float64.
_BLOCK_ROWS = 512
#: Below this a rate counts as this: a ratio stays finite.
_TINY = 1e-25
#: Rounds between weights, depth and share for the same expectations.
_ROUNDS = 2
#: Tangent steps towards the entropic weights, and Newton steps of each.
_TANGENTS, _NEWTON = 4, 12
#: Rates multiplied up before one logarithm is taken of all, and the largest power taken so: _TINY to the sum
#: of both is within float64.
_FACTORS_A_LOG, _MOST_POWER = 8, 3

_HOW: dict[str, Any] = {
    "nogil": True,
    "cache": True,
    "fastmath": {"contract", "reassoc", "nsz", "arcp"},
    "error_model": "numpy",
}


def padded_width(n_factors: int) -> int:
    """Return the length of the factor axis: the next multiple of :data:`LANE`.

    Examples
    --------
    >>> padded_width(20), padded_width(24)
    (24, 24)
    """
    return -(-n_factors // LANE) * LANE


def spot_mixtures(
    starts: np.ndarray, rows: np.ndarray, weights: np.ndarray, shares: np.ndarray, factors: np.ndarray
) -> np.ndarray:
    """Mix the weights of the fine rows of every coarse row.

    Parameters
    ----------
    starts, rows, weights
        Links by coarse row as CSR parts: fine rows and their weights.
    shares
        m, shape (n_fine, R).
    factors
        p, same type, shape (n_fine, R, H).

    Returns
    -------
    mixtures
        ``t_v = sum_i w_iv m_i p_i``, of the type of ``factors``, shape (n_coarse, R, H).

    Notes
    -----
    2·links·R·H operations; summed in the order of the links.
    """
    out = np.zeros((len(starts) - 1, *factors.shape[1:]), factors.dtype)
    _mix(starts, rows, weights, shares, factors, out)
    return out


@numba.njit(**_HOW)
def _mix(starts, rows, weights, shares, factors, out):  # type: ignore[no-untyped-def]
    real = factors.dtype.type
    for v in range(len(starts) - 1):
        for j in range(starts[v], starts[v + 1]):
            i = rows[j]
            for r in range(factors.shape[1]):
                weight = real(weights[j]) * shares[i, r]
                for k in range(factors.shape[2]):
                    out[v, r, k] += weight * factors[i, r, k]


def coarse_sums(
    indptr: np.ndarray, indices: np.ndarray, data: np.ndarray, mixtures: np.ndarray, loadings: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Contract Poisson coarse counts with the ratios of counts to means.

    Parameters
    ----------
    indptr, indices, data
        Counts V as CSR rows, n rows, columns ascending within a row; columns from G on are not looked at.
    mixtures
        t of the rows, float32 or float64, shape (n, R, H).
    loadings
        q, same type, shape (R, G, H).

    Returns
    -------
    pull
        ``b_v = sum_g q_g V_vg / (t_v . q_g)``, shape (n, R, H).
    expected
        ``sum_v t_v V_vg / (t_v . q_g)``, float64, shape (R, G, H).
    log_rates
        ``sum_vg V_vg log(t_v . q_g)``, float64, shape (R,).

    Notes
    -----
    6·nnz·R·H operations. A row with no mixture (nobody is linked to it) has no ratio and adds nothing.
    The scaling f of the genes cancels from all three.
    """
    n_restarts, n_genes, width = loadings.shape
    pull = np.zeros_like(mixtures)
    expected = np.zeros((n_restarts, n_genes, width))
    log_rates = np.zeros(n_restarts)
    loop = _coarse_loop(width)
    for r in range(n_restarts):
        log_rates[r] = loop(indptr, indices, data, mixtures[:, r], loadings[r], pull[:, r], expected[r])
    return pull, expected, log_rates


@cache
def _coarse_loop(width: int) -> Callable[..., float]:
    @numba.njit(**_HOW)
    def loop(indptr, indices, data, mixtures, loadings, pull, expected):  # type: ignore[no-untyped-def]
        real = loadings.dtype.type
        t, b = np.empty((1, width), real), np.empty((1, width), real)
        block = np.zeros(expected.shape, real)
        total, in_block = 0.0, 0
        for v in range(len(indptr) - 1):
            mass = real(0.0)
            for k in range(width):
                t[0, k] = mixtures[v, k]
                b[0, k] = 0
                mass += t[0, k]
            if mass <= 0:
                continue
            product, pending = 1.0, 0
            for j in range(indptr[v], indptr[v + 1]):
                gene = np.intp(indices[j])
                if gene >= len(block):
                    break
                rate = max(dot(t, 0, loadings, gene, width), real(_TINY))
                count = real(data[j])
                ratio = count / rate
                add_scaled(b, 0, ratio, loadings, gene, width)
                add_scaled(block, gene, ratio, t, 0, width)
                if count <= _MOST_POWER:
                    for _ in range(np.intp(count)):
                        product *= rate
                        pending += 1
                    if pending >= _FACTORS_A_LOG:
                        total += np.log(product)
                        product, pending = 1.0, 0
                else:
                    total += np.float64(count) * np.log(np.float64(rate))
            total += np.log(product)
            for k in range(width):
                pull[v, k] = b[0, k]
            in_block += 1
            if in_block == _BLOCK_ROWS:
                for g in range(len(block)):
                    for k in range(width):
                        expected[g, k] += block[g, k]
                        block[g, k] = 0
                in_block = 0
        for g in range(len(block)):
            for k in range(width):
                expected[g, k] += block[g, k]
        return total

    return loop


def dispersed_sums(
    indptr: np.ndarray,
    indices: np.ndarray,
    data: np.ndarray,
    mixtures: np.ndarray,
    loadings: np.ndarray,
    scaling: np.ndarray,
    size: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Contract negative-binomial coarse counts: variance ``mean + mean^2 / size`` by gene.

    A negative binomial is a Poisson whose mean is multiplied by a gamma variable of mean 1; its expectation
    given the count, ``a_vg = (V_vg + size_g) / (mean_vg + size_g)``, weighs the mean of every entry.

    Parameters
    ----------
    indptr, indices, data, mixtures, loadings
        As in :func:`coarse_sums`.
    scaling
        f, float64, shape (R, G).
    size
        Positive, float64, shape (R, G).

    Returns
    -------
    pull, expected
        As in :func:`coarse_sums`.
    push
        ``sum_g a_vg f_g q_g``: what a unit of the mixture costs, shape (n, R, H).
    exposure
        ``sum_v a_vg t_v``, float64, shape (R, G, H).
    figures
        Sums of the log-likelihood without its terms in the counts alone, then by gene of ``mean^2`` and of
        ``(V - mean)^2 - V`` (their ratio estimates the size), float64, shape (R, 1 + 2 G).

    Notes
    -----
    The weights are not sparse: 6·n·G·R·H operations, no array of shape (n, G).
    """
    n_restarts, n_genes, width = loadings.shape
    pull, push = np.zeros_like(mixtures), np.zeros_like(mixtures)
    expected, exposure = np.zeros((2, n_restarts, n_genes, width))
    figures = np.zeros((n_restarts, 1 + 2 * n_genes))
    for r in range(n_restarts):
        _dispersed(
            indptr,
            indices,
            data,
            mixtures[:, r],
            loadings[r],
            scaling[r],
            size[r],
            pull[:, r],
            push[:, r],
            expected[r],
            exposure[r],
            figures[r],
        )
    return pull, expected, push, exposure, figures


@numba.njit(**_HOW)
def _dispersed(  # type: ignore[no-untyped-def]
    indptr, indices, data, mixtures, loadings, scaling, size, pull, push, expected, exposure, figures
):
    n_genes, width = loadings.shape
    counts = np.zeros(n_genes)
    for v in range(len(indptr) - 1):
        mass = 0.0
        for k in range(width):
            mass += mixtures[v, k]
        if mass <= 0:
            continue
        for j in range(indptr[v], indptr[v + 1]):
            if indices[j] < n_genes:
                counts[indices[j]] = data[j]
        for gene in range(n_genes):
            rate = 0.0
            for k in range(width):
                rate += mixtures[v, k] * loadings[gene, k]
            rate = max(rate, _TINY)
            mean, count, extra = scaling[gene] * rate, counts[gene], size[gene]
            weight = (count + extra) / (mean + extra)
            ratio, cost = count / rate, weight * scaling[gene]
            for k in range(width):
                pull[v, k] += ratio * loadings[gene, k]
                push[v, k] += cost * loadings[gene, k]
                expected[gene, k] += ratio * mixtures[v, k]
                exposure[gene, k] += weight * mixtures[v, k]
            figures[0] += count * np.log(mean) - (count + extra) * np.log1p(mean / extra)
            c = 0.0
            while c < count:  # log Gamma(count + size) - log Gamma(size) - count log size
                figures[0] += np.log1p(c / extra)
                c += 1.0
            figures[1 + gene] += mean * mean
            figures[1 + n_genes + gene] += (count - mean) ** 2 - count
        for gene in range(n_genes):
            counts[gene] = 0.0


def fine_sweeps(
    indptr: np.ndarray,
    indices: np.ndarray,
    data: np.ndarray,
    measured: np.ndarray,
    loadings: np.ndarray,
    factors: np.ndarray,
    depths: np.ndarray,
    shares: np.ndarray,
    scale: np.ndarray,
    link_starts: np.ndarray,
    links: np.ndarray,
    link_weights: np.ndarray,
    pull: np.ndarray,
    push: np.ndarray,
    panel_sums: np.ndarray,
    *,
    n_sweeps: int = 2,
    entropy: float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Update weights, depth and share of fine rows, and contract their counts for the loadings.

    Parameters
    ----------
    indptr, indices, data
        Counts X as CSR rows, n rows, columns below G.
    measured
        Which columns count, bool, shape (R, G): a gene held out, or absent from the panel, does not.
    loadings
        q, float32 or float64, shape (R, G, H).
    factors, depths, shares
        p, n and m of the rows, same type, shapes (n, R, H), (n, R), (n, R).
    scale
        What the loadings were divided by since, float64, shape (R, H): weights are multiplied by it first.
    link_starts, links, link_weights
        Links of the rows as CSR parts: coarse rows and weights. A row may have none.
    pull
        b from :func:`coarse_sums`, shape (n_coarse, R, H).
    push
        What a unit of the mixture costs a coarse row, shape (n_coarse, R, H), or (1, R, H) where it is the
        same for all (Poisson): ``sum_g f_g q_g``.
    panel_sums
        ``sum_g q_g`` over the measured genes, shape (R, H).
    n_sweeps
        Rounds of expectation and maximisation; the expectation of the coarse counts is kept.
    entropy
        Weight w of ``sum_k p_k log p_k`` in the objective: above 0, weights concentrate.

    Returns
    -------
    factors, depths, shares
        The new ones, same types and shapes.
    expected
        ``sum_i n_i p_i X_ig / mean_ig`` of the last expectation, float64, shape (R, G, H).
    exposures
        ``sum_i n_i p_i`` and ``sum_i w_i m_i p_i`` of the new ones, float64, shape (2, R, H).
    figures
        Poisson loss ``sum mean - X log mean`` of the rows as they came, and ``sum p log p``, float64,
        shape (2, R).

    Notes
    -----
    Every step raises the expected log-likelihood, so loss falls with exact sums. With ``entropy`` the term
    ``w p log p`` is bounded from below by its tangent, which leaves
    ``p_k = x_k / (lambda + c_k - w log p0_k)``; lambda is the root of ``sum p = 1``, found by Newton, and the
    tangent is moved a few times: its fixed points are those of the entropic prior (Brand, Neural Comput. 11,
    1999), ``p = -(x/w) / W(-(x/w) exp(1 + (lambda - c)/w))`` in Lambert's W.
    4·nnz·R·H operations a sweep and 2·nnz·R·H for ``expected``.
    """
    n_restarts, n_genes, width = loadings.shape
    factors, depths, shares = factors.copy(), depths.copy(), shares.copy()
    expected = np.zeros((n_restarts, n_genes, width))
    exposures, figures = np.zeros((2, n_restarts, width)), np.zeros((2, n_restarts))
    loop = _fine_loop(width)
    for r in range(n_restarts):
        loop(
            indptr,
            indices,
            data,
            measured[r],
            loadings[r],
            factors[:, r],
            depths[:, r],
            shares[:, r],
            scale[r],
            link_starts,
            links,
            link_weights,
            pull[:, r],
            push[:, r],
            panel_sums[r],
            n_sweeps,
            float(entropy),
            expected[r],
            exposures[:, r],
            figures[:, r],
        )
    return factors, depths, shares, expected, exposures, figures


@cache
def _fine_loop(width: int) -> Callable[..., None]:
    @numba.njit(**_HOW)
    def loop(  # type: ignore[no-untyped-def]
        indptr,
        indices,
        data,
        measured,
        loadings,
        factors,
        depths,
        shares,
        scale,
        link_starts,
        links,
        link_weights,
        pull,
        push,
        panel_sums,
        n_sweeps,
        entropy,
        expected,
        exposures,
        figures,
    ):
        real = loadings.dtype.type
        row, total_ratio = np.empty((1, width), real), np.empty((1, width), real)
        p, a = row[0], total_ratio[0]
        coarse, price = np.empty(width, real), np.empty(width, real)
        x, cost = np.empty(width, real), np.empty(width, real)
        block = np.zeros(expected.shape, real)
        same_push = len(push) == 1
        in_block = 0
        for i in range(len(indptr) - 1):
            depth, share, reach = depths[i], shares[i], real(0.0)
            mass = real(0.0)
            for k in range(width):
                p[k] = factors[i, k] * real(scale[k])
                mass += p[k]
                coarse[k] = 0
                price[k] = 0
            if mass > 0:
                for k in range(width):
                    p[k] /= mass
                depth *= mass
                share *= mass
            for j in range(link_starts[i], link_starts[i + 1]):
                v, w = links[j], real(link_weights[j])
                u = 0 if same_push else v
                reach += w
                for k in range(width):
                    coarse[k] += w * pull[v, k]
                    price[k] += w * push[u, k]
            from_coarse = real(0.0)
            for k in range(width):
                coarse[k] *= share * p[k]
                from_coarse += coarse[k]
            total, logs = real(0.0), 0.0
            for sweep in range(n_sweeps):
                for k in range(width):
                    a[k] = 0
                product, pending = 1.0, 0
                for j in range(indptr[i], indptr[i + 1]):
                    gene = np.intp(indices[j])
                    if not measured[gene]:
                        continue
                    rate = max(dot(row, 0, loadings, gene, width), real(_TINY))
                    count = real(data[j])
                    ratio = count / rate
                    add_scaled(total_ratio, 0, ratio, loadings, gene, width)
                    if sweep == n_sweeps - 1:
                        add_scaled(block, gene, ratio, row, 0, width)
                    if sweep == 0:
                        total += count
                        if count <= _MOST_POWER:
                            for _ in range(np.intp(count)):
                                product *= rate
                                pending += 1
                            if pending >= _FACTORS_A_LOG:
                                logs += np.log(product)
                                product, pending = 1.0, 0
                        else:
                            logs += np.float64(count) * np.log(np.float64(rate))
                if sweep == 0:
                    mean = 0.0
                    for k in range(width):
                        mean += depth * p[k] * panel_sums[k]
                        if p[k] > 0 and entropy > 0:
                            figures[1] += p[k] * np.log(p[k])
                    figures[0] += mean - logs - np.log(product)
                    if total > 0:
                        figures[0] -= total * np.log(max(depth, real(_TINY)))
                for k in range(width):
                    x[k] = p[k] * a[k] + coarse[k]
                for _ in range(_ROUNDS):
                    mass = real(0.0)
                    for k in range(width):
                        cost[k] = depth * panel_sums[k] + share * price[k]
                        mass += cost[k]
                    if mass <= 0:
                        break
                    if entropy > 0:
                        _concentrate(x, cost, real(entropy), p)
                    else:
                        mass = real(0.0)
                        for k in range(width):
                            if x[k] > 0:
                                p[k] = x[k] / max(cost[k], real(_TINY))
                            else:
                                p[k] = 0
                            mass += p[k]
                        for k in range(width):
                            p[k] /= mass
                    here, there = real(0.0), real(0.0)
                    for k in range(width):
                        here += p[k] * panel_sums[k]
                        there += p[k] * price[k]
                    depth = total / here if here > 0 else real(0.0)
                    share = from_coarse / there if there > 0 else real(0.0)
            depths[i] = depth
            shares[i] = share
            for k in range(width):
                factors[i, k] = p[k]
                exposures[0, k] += depth * p[k]
                exposures[1, k] += reach * share * p[k]
            in_block += 1
            if in_block == _BLOCK_ROWS:
                for g in range(len(block)):
                    for k in range(width):
                        expected[g, k] += block[g, k]
                        block[g, k] = 0
                in_block = 0
        for g in range(len(block)):
            for k in range(width):
                expected[g, k] += block[g, k]

    return loop


@numba.njit(**_HOW)
def _concentrate(x, cost, entropy, p):  # type: ignore[no-untyped-def]
    """Move p on the simplex so that ``sum x log p - cost p + entropy p log p`` rises."""
    width = len(p)
    slope = np.empty(width)
    for _ in range(_TANGENTS):
        root = -np.inf
        for k in range(width):
            if x[k] > 0:
                slope[k] = cost[k] - entropy * np.log(max(np.float64(p[k]), _TINY))
                root = max(root, x[k] - slope[k])
        # the sum is convex and falls in the multiplier: from its left, Newton does not overshoot
        for _ in range(_NEWTON):
            excess, fall = -1.0, 0.0
            for k in range(width):
                if x[k] > 0:
                    part = x[k] / (root + slope[k])
                    excess += part
                    fall += part / (root + slope[k])
            root += excess / fall
            if excess < 1e-7:
                break
        mass, moved = 0.0, 0.0
        for k in range(width):
            new = x[k] / (root + slope[k]) if x[k] > 0 else 0.0
            moved = max(moved, abs(new - p[k]))
            p[k] = new
            mass += new
        for k in range(width):
            p[k] /= mass
        if moved < 1e-4:
            break
