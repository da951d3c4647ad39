"""Entropic transport between two slices over listed candidates, with a dustbin on either side."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit

__all__ = ["Potentials", "bin_mass", "plan_mass", "sinkhorn"]

#: Scores may differ by this much before products of their exponentials could leave the range of float64.
_LINEAR_RANGE = 200.0
_BLOCK_ROWS = 65_536


class Potentials(NamedTuple):
    """Solution of :func:`sinkhorn`: the plan is exp(score + row + column potential).

    Parameters
    ----------
    rows, columns
        Potentials of the spots, float64, shapes (n_rows,) and (n_columns,).
    row_bin, column_bin
        Potentials of the dustbin row (where columns stay unmatched) and of the dustbin column.
    bin_score
        Score of every cell of the two dustbins.
    n_iterations
        Iterations done.
    violation
        How far the mass of a row was from what it should be at the last look, relative.
    """

    rows: Any
    columns: Any
    row_bin: float
    column_bin: float
    bin_score: float
    n_iterations: int
    violation: float


def sinkhorn(
    indptr: np.ndarray,
    indices: np.ndarray,
    scores: np.ndarray,
    n_columns: int,
    bin_score: float,
    *,
    max_iterations: int = 100,
    tolerance: float = 1e-9,
    block_rows: int = _BLOCK_ROWS,
) -> Potentials:
    """Transport the spots of one slice to candidates in another, or to the dustbin.

    The plan P maximises <S, P> + entropy(P). A spot of either slice has mass 1; the dustbin row holds
    ``n_columns``, the dustbin column ``n_rows``, so that every spot may stay unmatched and the masses
    balance. Pairs that are not listed are forbidden (score -inf); a row of none goes to the dustbin.

    Parameters
    ----------
    indptr, indices
        Candidates of each row, CSR: shape (n_rows + 1,), and the columns, integer.
    scores
        S of each candidate, finite, float32 or float64; computed with as float64.
    n_columns
        Spots of the other slice.
    bin_score
        Score of the dustbins' cells, their common corner included.
    max_iterations, tolerance
        Iterations end when every row's mass is right to ``tolerance`` (relative), or at the most of them.
    block_rows
        Rows gone through at a time; the bits of the result do not depend on it.

    Returns
    -------
    Potentials
        After an update of the columns: their masses are exact, those of the rows to ``violation``.

    Raises
    ------
    ValueError
        The candidates or the scores do not fit.

    Notes
    -----
    One pass over the candidates an iteration: a row's new potential is spread into the sums of its columns
    at once. 8 bytes a candidate besides the input, 24 a spot. Scores that differ by more than 200 are worked
    on as logarithms all through, about ten times slower.

    Where nothing at all has a candidate the error of the masses falls with the number of iterations only
    (the dustbins' common corner goes to 0); otherwise geometrically.

    Source: Cuturi 2013; dustbins and marginals of SuperGlue (Sarlin et al., CVPR 2020); SpatialFuser,
    equations 13 to 16.
    """
    n_rows, bin_score = len(indptr) - 1, float(bin_score)
    values = np.asarray(scores)
    _check(indptr, indices, values, n_columns, bin_score)
    least = min(float(values.min(initial=bin_score)), bin_score)
    most = max(float(values.max(initial=bin_score)), bin_score)
    starts = np.ascontiguousarray(indptr, dtype=np.int64)
    pairs = np.ascontiguousarray(indices, dtype=np.int32)
    blocks = [(at, min(at + block_rows, n_rows)) for at in range(0, n_rows, block_rows)]
    if most - least <= _LINEAR_RANGE:
        return _linear(starts, pairs, values, n_columns, bin_score, most, blocks, max_iterations, tolerance)
    values = values.astype(np.float64, copy=False)
    return _logarithmic(starts, pairs, values, n_columns, bin_score, blocks, max_iterations, tolerance)


def plan_mass(
    indptr: np.ndarray, indices: np.ndarray, scores: np.ndarray, potentials: Potentials, *, first_row: int = 0
) -> np.ndarray:
    """Return what the plan moves along each candidate of a block of rows.

    Parameters
    ----------
    indptr, indices, scores
        The rows ``first_row``, ``first_row + 1``, … of what :func:`sinkhorn` was given.
    potentials
        Its answer.

    Returns
    -------
    mass
        float64, shape (n_candidates,).
    """
    n_rows = len(indptr) - 1
    own = np.repeat(potentials.rows[first_row : first_row + n_rows], np.diff(indptr))
    own += scores
    own += potentials.columns[indices]
    return np.exp(own, out=own)


def bin_mass(potentials: Potentials) -> tuple[np.ndarray, np.ndarray]:
    """Return what each row, and each column, leaves in the dustbin, float64, at most about 1."""
    rows = np.exp(potentials.bin_score + potentials.column_bin + potentials.rows)
    return rows, np.exp(potentials.bin_score + potentials.row_bin + potentials.columns)


def _check(indptr: Any, indices: Any, scores: Any, n_columns: int, bin_score: float) -> None:
    if len(indptr) < 2 or n_columns < 1:
        raise ValueError(f"both slices need spots, got {len(indptr) - 1} and {n_columns}")
    if not len(indices) == len(scores) == int(indptr[-1]):
        raise ValueError(f"{len(indices)} candidates, {len(scores)} scores, {int(indptr[-1])} announced")
    if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < n_columns:
        raise ValueError(f"candidates must be columns 0 to {n_columns - 1}")
    if not (math.isfinite(bin_score) and bool((abs(scores) < math.inf).all())):
        raise ValueError("scores must be finite; leave out what is forbidden")


def _linear(  # type: ignore[no-untyped-def]
    indptr, indices, scores, n_columns, bin_score, most, blocks, max_iterations, tolerance
) -> Potentials:
    n_rows = len(indptr) - 1
    kernel = scores.astype(np.float64)
    kernel -= most
    np.exp(kernel, out=kernel)
    to_bin = math.exp(bin_score - most)
    rows, columns, sums = np.zeros(n_rows), np.ones(n_columns), np.empty(n_columns)
    row_bin, column_bin, violation, n_done = 0.0, 1.0, math.inf, 0
    while n_done < max_iterations and violation > tolerance:
        n_done += 1
        sums[:] = 0.0
        violation, total = 0.0, 0.0
        for start, stop in blocks:
            violation, total = _spread(
                indptr,
                indices,
                kernel,
                columns,
                to_bin * column_bin,
                start,
                stop,
                violation,
                total,
                rows,
                sums,
            )
        held = to_bin * (float(np.sum(columns)) + column_bin)
        violation = max(violation, abs(row_bin * held / n_columns - 1.0))
        row_bin = n_columns / held
        np.divide(1.0, sums + to_bin * row_bin, out=columns)
        column_bin = n_rows / (to_bin * (total + row_bin))
    potentials = np.log(rows) - most, np.log(columns)
    bins = math.log(row_bin) - most, math.log(column_bin)
    return Potentials(*potentials, *bins, bin_score, n_done, violation)


@njit(nogil=True, cache=True)
def _spread(  # type: ignore[no-untyped-def]
    indptr, indices, kernel, columns, at_bin, start, stop, violation, total, rows, sums
):
    for i in range(start, stop):
        low, high = indptr[i], indptr[i + 1]
        # four sums side by side: one after another would wait for each addition
        a, b, c, d = at_bin, 0.0, 0.0, 0.0
        e = low
        while e + 4 <= high:
            a += kernel[e] * columns[indices[e]]
            b += kernel[e + 1] * columns[indices[e + 1]]
            c += kernel[e + 2] * columns[indices[e + 2]]
            d += kernel[e + 3] * columns[indices[e + 3]]
            e += 4
        while e < high:
            a += kernel[e] * columns[indices[e]]
            e += 1
        mass = (a + b) + (c + d)
        violation = max(violation, abs(rows[i] * mass - 1.0))
        own = 1.0 / mass
        rows[i] = own
        total += own
        for e in range(low, high):
            sums[indices[e]] += kernel[e] * own
    return violation, total


def _logarithmic(  # type: ignore[no-untyped-def]
    indptr, indices, scores, n_columns, bin_score, blocks, max_iterations, tolerance
) -> Potentials:
    n_rows = len(indptr) - 1
    rows, columns = np.full(n_rows, -np.inf), np.zeros(n_columns)
    highest, sums = np.empty(n_columns), np.empty(n_columns)
    row_bin, column_bin, violation, n_done = -math.inf, 0.0, math.inf, 0
    while n_done < max_iterations and violation > tolerance:
        n_done += 1
        before, bin_before = rows.copy(), row_bin
        for start, stop in blocks:
            _log_rows(indptr, indices, scores, columns, bin_score + column_bin, start, stop, rows)
        row_bin = math.log(n_columns) - bin_score - _log_sum(columns, column_bin)
        highest[:], sums[:] = bin_score + row_bin, 0.0
        for start, stop in blocks:
            _log_highest(indptr, indices, scores, rows, start, stop, highest)
        for start, stop in blocks:
            _log_sums(indptr, indices, scores, rows, start, stop, highest, sums)
        columns = -(highest + np.log(sums + np.exp(bin_score + row_bin - highest)))
        column_bin = math.log(n_rows) - bin_score - _log_sum(rows, row_bin)
        # large while far: the logarithm of the masses' error, not its exponential that would overflow
        violation = max(float(np.abs(rows - before).max()), abs(row_bin - bin_before))
    return Potentials(rows, columns, row_bin, column_bin, bin_score, n_done, violation)


def _log_sum(values: np.ndarray, further: float) -> float:
    highest = max(float(values.max()), further)
    return highest + math.log(float(np.exp(values - highest).sum()) + math.exp(further - highest))


@njit(nogil=True, cache=True)
def _log_rows(indptr, indices, scores, columns, at_bin, start, stop, rows):  # type: ignore[no-untyped-def]
    for i in range(start, stop):
        highest = at_bin
        for e in range(indptr[i], indptr[i + 1]):
            highest = max(highest, scores[e] + columns[indices[e]])
        mass = math.exp(at_bin - highest)
        for e in range(indptr[i], indptr[i + 1]):
            mass += math.exp(scores[e] + columns[indices[e]] - highest)
        rows[i] = -(highest + math.log(mass))


@njit(nogil=True, cache=True)
def _log_highest(indptr, indices, scores, rows, start, stop, highest):  # type: ignore[no-untyped-def]
    for i in range(start, stop):
        for e in range(indptr[i], indptr[i + 1]):
            highest[indices[e]] = max(highest[indices[e]], scores[e] + rows[i])


@njit(nogil=True, cache=True)
def _log_sums(indptr, indices, scores, rows, start, stop, highest, sums):  # type: ignore[no-untyped-def]
    for i in range(start, stop):
        for e in range(indptr[i], indptr[i + 1]):
            sums[indices[e]] += math.exp(scores[e] + rows[i] - highest[indices[e]])
