"""CuPy twin of :mod:`atlasnmf.kernels.cpu.smooth`: same names, arrays on the device."""

from __future__ import annotations

from typing import Any

import numpy as np

from atlasnmf.kernels.gpu._compile import launch, read_as
from atlasnmf.kernels.gpu.products import csr_dot, csr_t_dot

__all__ = ["smooth_dense", "smooth_dense_transposed", "smooth_rows"]

#: Bytes of scratch rows: one of sums and one of marks for each block that is at work.
_SCRATCH_BYTES = 1 << 28

#: One block per row. Neighbours are added one after the other, in the order of the graph and thus with the
#: CPU's bits; the columns of one neighbour are all different, so its values need no atomic additions. A
#: prefix sum over the marks puts the columns out in ascending order.
SOURCE = r"""
__device__ void mark_neighbours(
    long long row, const long long* graph_indptr, const int* graph_indices, const float* weights,
    const long long* x_indptr, const int* x_indices, const float* x_data, float* sums, char* marks)
{
    for (long long edge = graph_indptr[row]; edge < graph_indptr[row + 1]; ++edge) {
        const long long neighbour = graph_indices[edge];
        const float weight = weights[edge];
        for (long long j = x_indptr[neighbour] + threadIdx.x; j < x_indptr[neighbour + 1]; j += blockDim.x) {
            marks[x_indices[j]] = 1;
            if (sums) sums[x_indices[j]] += weight * x_data[j];
        }
        __syncthreads();
    }
}

extern "C" __global__ void smooth_count(
    const long long* graph_indptr, const int* graph_indices, const float* weights, long long n_rows,
    const long long* x_indptr, const int* x_indices, const float* x_data, long long n_cols,
    char* all_marks, long long* counts)
{
    __shared__ int partial[BLOCK];
    char* marks = all_marks + blockIdx.x * n_cols;
    for (long long row = blockIdx.x; row < n_rows; row += gridDim.x) {
        mark_neighbours(row, graph_indptr, graph_indices, weights, x_indptr, x_indices, x_data, 0, marks);
        int count = 0;
        for (long long column = threadIdx.x; column < n_cols; column += blockDim.x) {
            count += marks[column];
            marks[column] = 0;
        }
        partial[threadIdx.x] = count;
        __syncthreads();
        for (int half = blockDim.x / 2; half > 0; half /= 2) {
            if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
            __syncthreads();
        }
        if (threadIdx.x == 0) counts[row] = partial[0];
        __syncthreads();
    }
}

extern "C" __global__ void smooth_fill(
    const long long* graph_indptr, const int* graph_indices, const float* weights, long long n_rows,
    const long long* x_indptr, const int* x_indices, const float* x_data, long long n_cols,
    char* all_marks, float* all_sums, const long long* indptr, int* indices, float* data)
{
    __shared__ int before[BLOCK];
    char* marks = all_marks + blockIdx.x * n_cols;
    float* sums = all_sums + blockIdx.x * n_cols;
    for (long long row = blockIdx.x; row < n_rows; row += gridDim.x) {
        mark_neighbours(row, graph_indptr, graph_indices, weights, x_indptr, x_indices, x_data, sums, marks);
        long long at = indptr[row];
        for (long long first = 0; first < n_cols; first += blockDim.x) {
            const long long column = first + threadIdx.x;
            const int mine = column < n_cols ? marks[column] : 0;
            before[threadIdx.x] = mine;
            __syncthreads();
            for (int reach = 1; reach < blockDim.x; reach *= 2) {
                const int left = threadIdx.x >= reach ? before[threadIdx.x - reach] : 0;
                __syncthreads();
                before[threadIdx.x] += left;
                __syncthreads();
            }
            if (mine) {
                const long long place = at + before[threadIdx.x] - 1;
                indices[place] = (int)column;
                data[place] = sums[column];
                marks[column] = 0;
                sums[column] = 0.0f;
            }
            at += before[blockDim.x - 1];
            __syncthreads();
        }
    }
}
"""


def smooth_rows(
    graph_indptr: Any,
    graph_indices: Any,
    graph_weights: Any,
    x_indptr: Any,
    x_indices: Any,
    x_data: Any,
    n_cols: int,
) -> tuple[Any, Any, Any]:
    """Multiply a sparse graph with sparse rows; see the CPU twin.

    Scratch: 5 bytes per gene for each block at work, at most 256 MB.
    """
    import cupy as cp

    n_rows, n_genes = len(graph_indptr) - 1, int(n_cols)
    arguments = (
        read_as(np.int64, graph_indptr),
        read_as(np.int32, graph_indices),
        read_as(np.float32, graph_weights),
        n_rows,
        read_as(np.int64, x_indptr),
        read_as(np.int32, x_indices),
        read_as(np.float32, x_data),
        n_genes,
    )
    n_blocks = min(n_rows, max(1, _SCRATCH_BYTES // (5 * max(n_genes, 1))), 4096)
    marks = cp.zeros((max(n_blocks, 1), n_genes), dtype=np.int8)
    counts = cp.zeros(n_rows, dtype=np.int64)
    launch(SOURCE, "smooth_count", n_blocks, (*arguments, marks, counts))
    indptr = cp.zeros(n_rows + 1, dtype=np.int64)
    indptr[1:] = cp.cumsum(counts)
    indices = cp.empty(int(indptr[-1]), dtype=np.int32)
    data = cp.empty(int(indptr[-1]), dtype=np.float32)
    sums = cp.zeros(marks.shape, dtype=np.float32)
    launch(SOURCE, "smooth_fill", n_blocks, (*arguments, marks, sums, indptr, indices, data))
    return indptr, indices.astype(x_indices.dtype), data


def smooth_dense(graph_indptr: Any, graph_indices: Any, graph_weights: Any, dense: Any) -> Any:
    """Multiply a sparse graph with dense rows; see the CPU twin."""
    return csr_dot(graph_indptr, graph_indices, graph_weights, dense)


def smooth_dense_transposed(
    graph_indptr: Any, graph_indices: Any, graph_weights: Any, dense: Any, n_cols: int
) -> Any:
    """Multiply the transpose of a sparse graph with dense rows; see the CPU twin."""
    return csr_t_dot(graph_indptr, graph_indices, graph_weights, dense, n_cols, accumulate=dense.dtype)
