"""Spots with their exact neighbours out to some hops, read from a graph on disk, and hops over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from atlasnmf.kernels.cpu.smooth import smooth_dense, smooth_dense_transposed
from atlasnmf.schema import Csr

__all__ = [
    "Neighbourhood",
    "RandomRows",
    "Weighting",
    "edge_weights",
    "neighbourhood_of",
    "read_around",
    "read_neighbourhood",
]

#: ``mean``: M = D^-1 A, every neighbour weighs the same; ``symmetric``: A~ = D^-1/2 A D^-1/2.
Weighting = Literal["mean", "symmetric"]


class RandomRows(Protocol):
    """Sparse rows that can also be read in any order."""

    def read(self, start: int, stop: int) -> Csr:
        """Return a run of rows."""
        ...

    def read_rows(self, rows: np.ndarray) -> Csr:
        """Return any rows in any order."""
        ...


@dataclass(frozen=True)
class Neighbourhood:
    """A run of spots, the core, and the rings of their neighbours.

    Parameters
    ----------
    rows
        Working rows: the core, then those one hop away, then those two hops away; int64, shape (m,).
    rings
        Cumulative number of rows up to each ring, ``hops + 1`` of them; ``rings[-1] == m``.
    graph
        Neighbours of all rows but the outermost ring, as positions in ``rows``; data are weights, float32.
    """

    rows: np.ndarray
    rings: tuple[int, ...]
    graph: Csr

    @property
    def n_core(self) -> int:
        """Number of core spots."""
        return self.rings[0]

    @property
    def nbytes(self) -> int:
        """Bytes held by the arrays."""
        return self.rows.nbytes + self.graph.nbytes

    def graph_of(self, n_rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """CSR parts of the first ``n_rows`` rows of the graph."""
        return self.graph.indptr[: n_rows + 1], self.graph.indices, self.graph.data

    def average(self, dense: np.ndarray) -> list[np.ndarray]:
        """Apply the graph 0, 1, .. hops times.

        Parameters
        ----------
        dense
            Values of all rows, float32 or float64, shape (m, p).

        Returns
        -------
        averaged
            Core rows after each number of hops, each of shape (n_core, p).
        """
        averaged = [dense[: self.n_core]]
        for n_rows in self.rings[-2::-1]:
            dense = smooth_dense(*self.graph_of(n_rows), dense)
            averaged.append(dense[: self.n_core])
        return averaged

    def spread(self, dense: np.ndarray) -> list[np.ndarray]:
        """Apply the transposed graph 0, 1, .. hops times to core rows.

        Parameters
        ----------
        dense
            Values of the core rows, float32 or float64, shape (n_core, p).

        Returns
        -------
        spread
            After each number of hops, shape (rings[hop], p).
        """
        spread = [dense]
        for inner, outer in zip(self.rings[:-1], self.rings[1:], strict=True):
            spread.append(smooth_dense_transposed(*self.graph_of(inner), spread[-1], outer))
        return spread


def read_neighbourhood(
    graph: RandomRows,
    start: int,
    stop: int,
    hops: int,
    *,
    weighting: Weighting,
    degrees: np.ndarray | None = None,
) -> Neighbourhood:
    """Read a run of spots with their neighbours out to some hops; see :func:`neighbourhood_of`."""
    core = np.arange(start, stop, dtype=np.int64)
    return neighbourhood_of(graph, core, hops, weighting=weighting, degrees=degrees)


def neighbourhood_of(
    graph: RandomRows,
    core: np.ndarray,
    hops: int,
    *,
    weighting: Weighting,
    degrees: np.ndarray | None = None,
) -> Neighbourhood:
    """Read spots with their neighbours out to some hops.

    Parameters
    ----------
    graph
        Neighbours of every spot, itself included, columns are working rows.
    core
        Working rows, ascending, none twice, int64.
    hops
        Number of rings.
    weighting
        How edges weigh (see :func:`edge_weights`).
    degrees
        Neighbours of every spot of the atlas, itself included, shape (n,); needed for ``symmetric``.

    Notes
    -----
    Exact: edges out of the core and out of all inner rings are all there, with whole-slice degrees. Reads
    the graph once a ring and nothing of the outermost ring. Rows ascend within a ring; the neighbours of a
    spot keep the order of the atlas, so sums have the same bits in every tiling and positions do not ascend.
    """
    rows = newest = core
    rings = [len(rows)]
    pieces: list[Csr] = []
    for _ in range(hops):
        piece = _read_graph(graph, newest)
        pieces.append(piece)
        newest = np.setdiff1d(np.unique(piece.indices).astype(np.int64), rows, assume_unique=True)
        rows = np.concatenate([rows, newest])
        rings.append(len(rows))
    edges = Csr.stack(pieces) if pieces else Csr(np.zeros(1, np.int64), rows[:0], rows[:0], 0)
    inner = rows[: edges.n_rows]
    weights = edge_weights(edges.indptr, edges.indices, inner, weighting=weighting, degrees=degrees)
    by_row = np.argsort(rows, kind="stable")
    positions = by_row[np.searchsorted(rows[by_row], edges.indices)].astype(np.int32)
    return Neighbourhood(rows, tuple(rings), Csr(edges.indptr, positions, weights, len(rows)))


def _read_graph(graph: RandomRows, rows: np.ndarray) -> Csr:
    """Read the neighbours of ascending rows; a run needs no sorting out."""
    if len(rows) and int(rows[-1]) - int(rows[0]) + 1 == len(rows):
        return graph.read(int(rows[0]), int(rows[-1]) + 1)
    return graph.read_rows(rows)


def read_around(source: RandomRows, around: Neighbourhood) -> Csr:
    """Read the rows of a neighbourhood: the core in one run, which needs no sorting out, and the rings."""
    start = int(around.rows[0]) if around.n_core else 0
    core = source.read(start, start + around.n_core)
    if len(around.rows) == around.n_core:
        return core
    return Csr.stack([core, source.read_rows(around.rows[around.n_core :])])


def edge_weights(
    indptr: np.ndarray,
    columns: np.ndarray,
    rows: Sequence[int] | np.ndarray,
    *,
    weighting: Weighting,
    degrees: np.ndarray | None = None,
) -> np.ndarray:
    """Weigh the edges of some rows of the graph.

    Parameters
    ----------
    indptr, columns
        Neighbours of each row, itself included; columns are working rows.
    rows
        Working row of each row, shape (n_rows,).
    weighting
        ``mean`` for 1/d_i, ``symmetric`` for 1/sqrt(d_i d_j), d counting the spot itself.
    degrees
        Degrees of the whole atlas, shape (n,), for ``symmetric``.

    Returns
    -------
    weights
        float32, shape (n_edges,).
    """
    lengths = np.diff(indptr)
    if weighting == "mean":
        return np.repeat((1.0 / np.maximum(lengths, 1)).astype(np.float32), lengths)
    if degrees is None:
        raise ValueError("symmetric weights need the degrees of the whole atlas")
    own = np.repeat(np.asarray(degrees)[rows].astype(np.float64), lengths)
    return (1.0 / np.sqrt(own * np.asarray(degrees)[columns])).astype(np.float32)
