"""CuPy twin of :mod:`atlasnmf.kernels.cpu.sinkhorn`: same names, arrays on the device."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from atlasnmf.kernels.cpu.sinkhorn import Potentials, _check
from atlasnmf.kernels.gpu._compile import BLOCK, launch, read_as

__all__ = ["Potentials", "bin_mass", "plan_mass", "sinkhorn"]

#: A thread per row, or column of the transposed candidates: sums in a fixed order, no atomics. Logarithms all
#: through, for exponentials are cheap here.
SOURCE = r"""
extern "C" __global__ void log_update(
    const long long* starts, const int* others, const double* scores, const double* potentials,
    double at_bin, long long n_rows, double* out)
{
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < n_rows;
         i += gridDim.x * (long long)blockDim.x) {
        double highest = at_bin;
        for (long long e = starts[i]; e < starts[i + 1]; ++e) {
            const double value = scores[e] + potentials[others[e]];
            highest = value > highest ? value : highest;
        }
        double mass = exp(at_bin - highest);
        for (long long e = starts[i]; e < starts[i + 1]; ++e)
            mass += exp(scores[e] + potentials[others[e]] - highest);
        out[i] = -(highest + log(mass));
    }
}
"""


def sinkhorn(
    indptr: Any,
    indices: Any,
    scores: Any,
    n_columns: int,
    bin_score: float,
    *,
    max_iterations: int = 100,
    tolerance: float = 1e-9,
    block_rows: int = 0,
) -> Potentials:
    """Transport spots to candidates or the dustbin; see the CPU twin. All rows go at once here."""
    import cupy as cp

    n_rows, bin_score = len(indptr) - 1, float(bin_score)
    values = read_as(np.float64, scores)
    pairs = read_as(np.int32, indices)
    starts = read_as(np.int64, indptr)
    _check(starts, pairs, values, n_columns, bin_score)
    by_row = (starts, pairs, values)
    by_column = _transposed(starts, pairs, values, n_columns)
    rows, columns = cp.full(n_rows, -math.inf), cp.zeros(n_columns)
    row_bin, column_bin, violation, n_done = -math.inf, 0.0, math.inf, 0
    while n_done < max_iterations and violation > tolerance:
        n_done += 1
        before, bin_before = rows, row_bin
        rows = _updated(by_row, columns, bin_score + column_bin)
        row_bin = math.log(n_columns) - bin_score - _log_sum(columns, column_bin)
        columns = _updated(by_column, rows, bin_score + row_bin)
        column_bin = math.log(n_rows) - bin_score - _log_sum(rows, row_bin)
        violation = max(float(abs(rows - before).max()), abs(row_bin - bin_before))
    return Potentials(rows, columns, row_bin, column_bin, bin_score, n_done, violation)


def plan_mass(indptr: Any, indices: Any, scores: Any, potentials: Potentials, *, first_row: int = 0) -> Any:
    """Return what the plan moves along each candidate of a block of rows; see the CPU twin."""
    import cupy as cp

    from atlasnmf.kernels.gpu.rows import row_of_values

    rows = row_of_values(cp.asarray(indptr).astype(np.int64)).astype(np.int64) + first_row
    columns = cp.asarray(indices).astype(np.int64)
    sums = cp.asarray(scores).astype(np.float64) + cp.asarray(potentials.rows)[rows]
    return cp.exp(sums + cp.asarray(potentials.columns)[columns])


def bin_mass(potentials: Potentials) -> tuple[Any, Any]:
    """Return what each row, and each column, leaves in the dustbin; see the CPU twin."""
    import cupy as cp

    rows = cp.exp(cp.asarray(potentials.rows) + (potentials.bin_score + potentials.column_bin))
    return rows, cp.exp(cp.asarray(potentials.columns) + (potentials.bin_score + potentials.row_bin))


def _transposed(starts: Any, pairs: Any, values: Any, n_columns: int) -> tuple[Any, Any, Any]:
    import cupy as cp

    from atlasnmf.kernels.gpu.rows import row_of_values

    order = cp.argsort(pairs, kind="stable")
    ends = cp.searchsorted(pairs[order], cp.arange(n_columns, dtype=np.int32), side="right")
    column_starts = cp.zeros(n_columns + 1, dtype=np.int64)
    column_starts[1:] = ends
    return column_starts, row_of_values(starts).astype(np.int32)[order], values[order]


def _updated(candidates: tuple[Any, Any, Any], potentials: Any, at_bin: float) -> Any:
    import cupy as cp

    n_rows = len(candidates[0]) - 1
    out = cp.empty(n_rows, dtype=np.float64)
    arguments = (*candidates, potentials, float(at_bin), n_rows, out)
    launch(SOURCE, "log_update", -(-n_rows // BLOCK), arguments, real="double", accumulator="double")
    return out


def _log_sum(values: Any, further: float) -> float:
    import cupy as cp

    highest = max(float(values.max()), further)
    return highest + math.log(float(cp.exp(values - highest).sum()) + math.exp(further - highest))
