"""Compiled sampling, spot by spot: every spot has its own random stream, so no block size shows.

Streams are SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA
2014), gammas after Marsaglia and Tsang (ACM TOMS 26, 2000), categories by alias tables (Walker 1977; Vose
1991).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from atlasnmf.schema import Csr

__all__ = ["alias_tables", "sample_counts", "spot_factors"]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)
_U30, _U27, _U31, _U32, _U11 = (np.uint64(n) for n in (30, 27, 31, 32, 11))
_LOW32 = np.uint64(0xFFFFFFFF)
_TO_UNIT = 2.0**-53
_U0, _U1, _U6, _U63 = (np.uint64(n) for n in (0, 1, 6, 63))


@njit(nogil=True, cache=True, inline="always")
def _mix(z):  # type: ignore[no-untyped-def]
    z = (z ^ (z >> _U30)) * _MIX1
    z = (z ^ (z >> _U27)) * _MIX2
    return z ^ (z >> _U31)


@njit(nogil=True, cache=True, inline="always")
def _unit(z):  # type: ignore[no-untyped-def]
    """Map 64 bits to [0, 1)."""
    return np.float64(z >> _U11) * _TO_UNIT


@njit(nogil=True, cache=True)
def _gamma(shape, state):  # type: ignore[no-untyped-def]
    """Draw one gamma variate of scale 1; return it with the advanced state."""
    boost = 1.0
    if shape < 1.0:
        state += _GOLDEN
        boost = max(_unit(_mix(state)), 1e-300) ** (1.0 / shape)
        shape += 1.0
    d = shape - 1.0 / 3.0
    c = 1.0 / np.sqrt(9.0 * d)
    while True:
        state += _GOLDEN
        u = 2.0 * _unit(_mix(state)) - 1.0
        state += _GOLDEN
        w = 2.0 * _unit(_mix(state)) - 1.0
        r = u * u + w * w
        if r >= 1.0 or r == 0.0:
            continue
        x = u * np.sqrt(-2.0 * np.log(r) / r)
        v = 1.0 + c * x
        if v <= 0.0:
            continue
        v = v * v * v
        state += _GOLDEN
        if np.log(max(_unit(_mix(state)), 1e-300)) < 0.5 * x * x + d - d * v + d * np.log(v):
            return boost * d * v, state


@njit(nogil=True, cache=True)
def spot_factors(body, organs, side_mixture, concentration, seed, first):  # type: ignore[no-untyped-def]
    """Blend the domains at each spot and draw its factor proportions.

    Parameters
    ----------
    body
        Positions in the body frame (the outline is the unit circle), float64, shape (n, 2).
    organs
        Rows in painting order, float64, shape (D, 10): present, centre x, y, radius, stretch, angle,
        wobble amplitudes 3 and 5, wobble phases 3 and 5. Row 0, the body, covers everything.
    side_mixture
        What a domain holds beside its own factor, rows sum to 1, float64, shape (D, K);
        domain d owns factor d.
    concentration
        Of the Dirichlet noise of a spot around its place's mean.
    seed, first
        uint64 seed of the slice, and the number of the first spot within it.

    Returns
    -------
    domain, factors
        int32 of shape (n,) and float32 of shape (n, K), rows sum to 1.
    """
    n_spots, n_domains, n_factors = len(body), len(organs), side_mixture.shape[1]
    domain = np.zeros(n_spots, np.int32)
    factors = np.zeros((n_spots, n_factors), np.float32)
    weight, own, mean = np.zeros(n_domains), np.zeros(n_domains), np.zeros(n_factors)
    for i in range(n_spots):
        weight[:] = 0.0
        weight[0] = 1.0
        own[0] = 0.75
        for d in range(1, n_domains):
            if organs[d, 0] == 0.0:
                continue
            x, y = body[i, 0] - organs[d, 1], body[i, 1] - organs[d, 2]
            radius, stretch = organs[d, 3], organs[d, 4]
            if x * x + y * y > (3.0 * radius * stretch) ** 2:
                continue
            cosine, sine = np.cos(organs[d, 5]), np.sin(organs[d, 5])
            along, across = (cosine * x + sine * y) / stretch, (cosine * y - sine * x) * stretch
            turn = np.arctan2(across, along)
            edge = 1.0 + organs[d, 6] * np.cos(3.0 * turn + organs[d, 8])
            edge += organs[d, 7] * np.cos(5.0 * turn + organs[d, 9])
            depth = (edge - np.sqrt(along * along + across * across) / radius) / 0.06
            inside = 1.0 / (1.0 + np.exp(-depth))
            for e in range(d):
                weight[e] *= 1.0 - inside
            weight[d] = inside
            # The own factor fades from one end of the organ to the other.
            own[d] = 0.775 + 0.175 * max(-1.0, min(1.0, along / radius))
        mean[:] = 0.0
        best = 0
        for d in range(n_domains):
            if weight[d] > weight[best]:
                best = d
            if weight[d] > 1e-6:
                mean[d] += weight[d] * own[d]
                for k in range(n_factors):
                    mean[k] += weight[d] * (1.0 - own[d]) * side_mixture[d, k]
        domain[i] = best
        state = _mix(seed + _mix(np.uint64(first + i)))
        total = 0.0
        for k in range(n_factors):
            if mean[k] > 1e-3:
                mean[k], state = _gamma(concentration * mean[k], state)
                total += mean[k]
            else:
                mean[k] = 0.0
        for k in range(n_factors):
            factors[i, k] = mean[k] / total
    return domain, factors


@njit(nogil=True, cache=True)
def alias_tables(profiles):  # type: ignore[no-untyped-def]
    """Prepare constant-time draws of a gene from each profile.

    Parameters
    ----------
    profiles
        Rows sum to 1, float64, shape (K, G).

    Returns
    -------
    keep, other
        uint64 threshold out of 2^32 and int32 alternative, shape (K, G).
    """
    n_factors, n_genes = profiles.shape
    keep = np.zeros((n_factors, n_genes), np.uint64)
    other = np.zeros((n_factors, n_genes), np.int32)
    small, large = np.zeros(n_genes, np.int32), np.zeros(n_genes, np.int32)
    for k in range(n_factors):
        share = profiles[k] * n_genes
        n_small = n_large = 0
        for g in range(n_genes):
            if share[g] < 1.0:
                small[n_small] = g
                n_small += 1
            else:
                large[n_large] = g
                n_large += 1
        while n_small > 0 and n_large > 0:
            n_small -= 1
            low, high = small[n_small], large[n_large - 1]
            keep[k, low] = np.uint64(share[low] * 4294967296.0)
            other[k, low] = high
            share[high] -= 1.0 - share[low]
            if share[high] < 1.0:
                n_large -= 1
                small[n_small] = high
                n_small += 1
        # What is left differs from 1 by rounding alone.
        for j in range(n_large):
            keep[k, large[j]] = _LOW32 + _U1
            other[k, large[j]] = large[j]
        for j in range(n_small):
            keep[k, small[j]] = _LOW32 + _U1
            other[k, small[j]] = small[j]
    return keep, other


@njit(nogil=True, cache=True)
def _draw(factors, totals, keep, other, seed, first):  # type: ignore[no-untyped-def]
    n_spots, n_factors = factors.shape
    n_genes = keep.shape[1]
    room = 0
    for i in range(n_spots):
        room += min(totals[i], n_genes)
    indptr = np.zeros(n_spots + 1, np.int64)
    indices, data = np.empty(room, np.int32), np.empty(room, np.int32)
    seen = np.zeros(n_genes // 64 + 1, np.uint64)
    counted, cumulative = np.zeros(n_genes, np.int32), np.zeros(n_factors)
    end = 0
    for i in range(n_spots):
        running = 0.0
        for k in range(n_factors):
            running += factors[i, k]
            cumulative[k] = running
        # One more mixing than the factors' stream, so that the two do not overlap.
        state = _mix(_mix(seed + _mix(np.uint64(first + i))))
        for _ in range(totals[i]):
            state += _GOLDEN
            aim = _unit(_mix(state)) * running
            low, high = 0, n_factors - 1
            while low < high:
                middle = (low + high) // 2
                if cumulative[middle] > aim:
                    high = middle
                else:
                    low = middle + 1
            state += _GOLDEN
            bits = _mix(state)
            gene = np.int64(((bits >> _U32) * np.uint64(n_genes)) >> _U32)
            if (bits & _LOW32) >= keep[low, gene]:
                gene = np.int64(other[low, gene])
            counted[gene] += 1
            seen[gene >> 6] |= _U1 << np.uint64(gene & 63)
        # The bit map gives the genes in ascending order without sorting.
        for word in range(len(seen)):
            bits = seen[word]
            seen[word] = _U0
            gene = np.int64(word * 64)
            while bits != _U0:
                if bits & _U1:
                    indices[end], data[end] = gene, counted[gene]
                    counted[gene] = 0
                    end += 1
                bits >>= _U1
                gene += 1
        indptr[i + 1] = end
    return indptr, indices[:end], data[:end]


def sample_counts(
    factors: np.ndarray, totals: np.ndarray, tables: tuple[np.ndarray, np.ndarray], *, seed: int, first: int
) -> Csr:
    """Draw the counts of a run of spots: a factor for each molecule, then a gene from its profile.

    Parameters
    ----------
    factors
        Proportions, rows sum to 1, float32, shape (n, K).
    totals
        Molecules of each spot, int64, shape (n,).
    tables
        Of the K gene profiles, from :func:`alias_tables`.
    seed, first
        Seed of the slice, and the number of the first spot within it.

    Returns
    -------
    Csr
        n rows of int32 counts, each row multinomial with its total and ``factors @ profiles``.

    Notes
    -----
    O(totals log K), whatever the number of genes; 8 bytes a molecule of room.
    """
    indptr, indices, data = _draw(factors, totals, *tables, np.uint64(seed), first)
    return Csr(indptr, indices.copy(), data.copy(), tables[0].shape[1])
