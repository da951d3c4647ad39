"""Listed pairs of rows of two tables: their cosines, the best of each row, and those best for both."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["best_of_rows", "keep_tops", "mutual_tops", "pair_dots"]


def pair_dots(rows: np.ndarray, columns: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Multiply listed pairs of rows of two tables.

    Parameters
    ----------
    rows, columns
        Pairs, integer, shape (m,).
    left, right
        Tables of one type, float32 or float64, C-ordered, shapes (n, d) and (p, d).

    Returns
    -------
    products
        Same type, shape (m,).

    Notes
    -----
    Four sums side by side in a fixed order: a pair's product does not depend on the others.
    """
    products = np.empty(len(rows), dtype=left.dtype)
    _dots(rows, columns, left, right, products)
    return products


def best_of_rows(indptr: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return where the largest value of each CSR row stands, int64; the first of equals, -1 for none."""
    return _best(indptr, values)


def keep_tops(
    indptr: np.ndarray,
    indices: np.ndarray,
    mass: np.ndarray,
    first_row: int,
    row_tops: tuple[np.ndarray, np.ndarray],
    column_tops: tuple[np.ndarray, np.ndarray],
) -> None:
    """Take a block of rows into running lists of the k largest entries of each row and of each column.

    Parameters
    ----------
    indptr, indices, mass
        Rows ``first_row`` and following, CSR; only masses above 0 are taken.
    row_tops, column_tops
        Running lists, changed in place: the partners, int32 of shape (n, k), -1 where there is none yet, and
        their masses, float64 of shape (n, k), descending, 0 where there is none. Blocks must come in order
        of rows: among equals the smaller number is then kept, whatever the blocks.
    """
    _keep(indptr, indices, mass, first_row, *row_tops, *column_tops)


def mutual_tops(row_tops: np.ndarray, column_tops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """List the pairs in which either is among the k best of the other.

    Parameters
    ----------
    row_tops, column_tops
        Partners of each row and of each column, int32, shapes (n, k) and (p, k), -1 where there is none.

    Returns
    -------
    rows, ranks
        Row of each pair, int64 ascending, and the place of its partner in the row's list.
    """
    return _mutual(row_tops, column_tops)


@njit(nogil=True, cache=True)
def _dots(rows, columns, left, right, products):  # type: ignore[no-untyped-def]
    width = left.shape[1]
    for m in range(len(rows)):
        x, y = left[rows[m]], right[columns[m]]
        a = b = c = d = left.dtype.type(0)
        k = 0
        while k + 4 <= width:
            a += x[k] * y[k]
            b += x[k + 1] * y[k + 1]
            c += x[k + 2] * y[k + 2]
            d += x[k + 3] * y[k + 3]
            k += 4
        while k < width:
            a += x[k] * y[k]
            k += 1
        products[m] = (a + b) + (c + d)


@njit(nogil=True, cache=True)
def _best(indptr, values):  # type: ignore[no-untyped-def]
    places = np.full(len(indptr) - 1, -1, dtype=np.int64)
    for i in range(len(places)):
        for e in range(indptr[i], indptr[i + 1]):
            if places[i] < 0 or values[e] > values[places[i]]:
                places[i] = e
    return places


@njit(nogil=True, cache=True, inline="always")
def _offer(partners, masses, i, partner, mass):  # type: ignore[no-untyped-def]
    k = partners.shape[1]
    if mass <= masses[i, k - 1]:
        return
    at = k - 1
    while at > 0 and masses[i, at - 1] < mass:
        masses[i, at] = masses[i, at - 1]
        partners[i, at] = partners[i, at - 1]
        at -= 1
    masses[i, at] = mass
    partners[i, at] = partner


@njit(nogil=True, cache=True)
def _keep(  # type: ignore[no-untyped-def]
    indptr, indices, mass, first_row, row_partners, row_masses, column_partners, column_masses
):
    for r in range(len(indptr) - 1):
        i = first_row + r
        for e in range(indptr[r], indptr[r + 1]):
            _offer(row_partners, row_masses, i, indices[e], mass[e])
            _offer(column_partners, column_masses, indices[e], i, mass[e])


@njit(nogil=True, cache=True)
def _mutual(row_tops, column_tops):  # type: ignore[no-untyped-def]
    n, k = row_tops.shape
    rows, ranks = np.empty(n * k, dtype=np.int64), np.empty(n * k, dtype=np.int64)
    found = 0
    for i in range(n):
        for t in range(k):
            j = row_tops[i, t]
            if j < 0:
                break
            for s in range(column_tops.shape[1]):
                if column_tops[j, s] == i:
                    rows[found], ranks[found] = i, t
                    found += 1
                    break
    return rows[:found].copy(), ranks[:found].copy()
