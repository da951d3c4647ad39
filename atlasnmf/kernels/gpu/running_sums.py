"""CuPy twin of :mod:`atlasnmf.kernels.cpu.running_sums`: same names, arrays on the device."""

from __future__ import annotations

from typing import Any

import numpy as np

from atlasnmf.kernels.gpu._compile import BLOCK, launch, read_as

__all__ = ["draw_positions", "equal_running_sums", "running_sums"]

#: A thread walks one set along one ranking in the CPU's order, and so has its bits. ``flat`` is what a gene
#: of a set without weights rises by.
SOURCE = r"""
__device__ double extreme(
    const double* weights, long long n_genes, long long n_rankings, const long long* positions,
    long long n_hits, double flat)
{
    double total = 0.0;
    for (long long i = 0; i < n_hits; ++i) total += weights[positions[i] * n_rankings];
    const double up = total > 0.0 ? 1.0 / total : 0.0;
    const double down = n_genes > n_hits ? 1.0 / (double)(n_genes - n_hits) : 0.0;
    double risen = 0.0, highest = 0.0, lowest = 0.0;
    for (long long i = 0; i < n_hits; ++i) {
        const double fallen = (double)(positions[i] - i) * down;
        if (risen - fallen < lowest) lowest = risen - fallen;
        risen += total > 0.0 ? weights[positions[i] * n_rankings] * up : flat;
        if (risen - fallen > highest) highest = risen - fallen;
    }
    return highest >= -lowest ? highest : lowest;
}

extern "C" __global__ void each_set(
    const double* weights, long long n_genes, const long long* positions, const long long* starts,
    long long n_sets, double* out)
{
    for (long long s = blockIdx.x * (long long)blockDim.x + threadIdx.x; s < n_sets;
         s += gridDim.x * (long long)blockDim.x)
    {
        const long long n_hits = starts[s + 1] - starts[s];
        out[s] = extreme(weights, n_genes, 1, positions + starts[s], n_hits, 1.0 / (double)n_hits);
    }
}

extern "C" __global__ void equal_sets(
    const double* weights, long long n_genes, long long n_rankings, const long long* positions,
    long long n_sets, long long n_hits, double* out)
{
    for (long long work = blockIdx.x * (long long)blockDim.x + threadIdx.x; work < n_sets * n_rankings;
         work += gridDim.x * (long long)blockDim.x) {
        const long long set = work / n_rankings, ranking = work % n_rankings;
        out[ranking * n_sets + set] =
            extreme(weights + ranking, n_genes, n_rankings, positions + set * n_hits, n_hits, 0.0);
    }
}

/* Swaps of a deck of n_genes, without the deck: a card is followed back through the swaps before. */
extern "C" __global__ void draw(
    const double* uniform, long long n_sets, long long n_hits, long long n_genes, int* picks, int* out)
{
    for (long long s = blockIdx.x * (long long)blockDim.x + threadIdx.x; s < n_sets;
         s += gridDim.x * (long long)blockDim.x) {
        int* own = picks + s * n_hits;
        for (long long i = 0; i < n_hits; ++i) {
            own[i] = (int)i + (int)(uniform[s * n_hits + i] * (double)(n_genes - i));
            int card = own[i];
            for (long long t = i - 1; t >= 0; --t) {
                if (card == own[t]) card = (int)t;
                else if (card == (int)t) card = own[t];
            }
            out[s * n_hits + i] = card;
        }
    }
}
"""


def running_sums(weights: Any, positions: Any, starts: Any) -> Any:
    """Return the enrichment score of sets of genes in one ranking; see the CPU twin."""
    import cupy as cp

    heights, ends = read_as(np.float64, weights), read_as(np.int64, starts)
    n_sets = len(ends) - 1
    out = cp.empty(n_sets, dtype=np.float64)
    arguments = (heights, len(heights), read_as(np.int64, positions), ends, n_sets, out)
    launch(SOURCE, "each_set", -(-n_sets // BLOCK), arguments)
    return out


def equal_running_sums(weights: Any, positions: Any) -> Any:
    """Return the enrichment scores of sets of one size in several rankings; see the CPU twin."""
    import cupy as cp

    heights, places = read_as(np.float64, weights), read_as(np.int64, positions)
    (n_genes, n_rankings), (n_sets, n_hits) = heights.shape, places.shape
    out = cp.empty((n_rankings, n_sets), dtype=np.float64)
    arguments = (heights, n_genes, n_rankings, places, n_sets, n_hits, out)
    launch(SOURCE, "equal_sets", -(-n_sets * n_rankings // BLOCK), arguments)
    return out


def draw_positions(uniform: Any, n_genes: int) -> Any:
    """Turn uniform numbers into the random sets of places that the CPU twin draws; O(m^2) a set, no deck."""
    import cupy as cp

    numbers = read_as(np.float64, uniform)
    n_sets, n_hits = numbers.shape
    picks = cp.empty(numbers.shape, dtype=np.int32)
    out = cp.empty(numbers.shape, dtype=np.int32)
    launch(SOURCE, "draw", -(-n_sets // BLOCK), (numbers, n_sets, n_hits, int(n_genes), picks, out))
    return cp.sort(out, axis=1)
