"""Leading components of the smoothed log counts, out of core: smoothed PCA.

With M = D^-1 A (the mean over a spot and its neighbours), h rounds of it and the log counts x_s of
slice s, the components are the leading eigenvectors of sum_s cov(M^h x_s): every slice is centred on
its own mean and counts the same, so neither depth nor size of a slice makes a component. They are found
by block Krylov iteration (Musco and Musco 2015, arXiv:1504.05477) on products that a tile with its h-hop
halo contracts exactly:

    X'(M^h)' M^h X V = sum over tiles of X_halo' (M^h)'_halo (M^h X V)_core.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from atlasnmf.errors import BadOption
from atlasnmf.events import SILENT, Events
from atlasnmf.features.neighbourhood import Neighbourhood, RandomRows, read_around, read_neighbourhood
from atlasnmf.features.source import subtiles
from atlasnmf.kernels.cpu.moments import gene_moments
from atlasnmf.kernels.cpu.products import csr_dot, csr_t_dot
from atlasnmf.kernels.cpu.smooth import smooth_rows
from atlasnmf.reduce import Reduction, add, run_reduction
from atlasnmf.schema import Csr
from atlasnmf.seeds import rng_for
from atlasnmf.tiles.parts import SAMPLE_SPOTS, TILE_ROWS, Part, plan_parts, sample_tiles

if TYPE_CHECKING:
    from distributed import Client

    from atlasnmf.store.parts import PartedDense

__all__ = ["Components", "find_components", "sample_tiles", "slice_means", "write_scores"]

#: Bytes of the sample kept in memory between passes; what does not fit is read again.
_HELD_BYTES = 128 * 10**6


@dataclass(frozen=True)
class Components:
    """Directions of gene space along which smoothed log counts vary.

    Parameters
    ----------
    loadings
        What projects on the components by decreasing variance, the entry of largest size positive, float32,
        shape (G, P): orthonormal vectors, divided by each gene's spread when genes are standardised.
    variances
        Variance along each, summed over slices, float64, shape (P,).
    means
        Per-slice mean of M^k x for k = 0 .. h, float64, shape (S, h + 1, G).
    n_passes
        Passes over the sample.
    residual
        Largest ||C v - lambda v|| / lambda of the components.
    """

    loadings: np.ndarray
    variances: np.ndarray
    means: np.ndarray
    n_passes: int
    residual: float

    @property
    def hops(self) -> int:
        """Rounds of averaging h."""
        return self.means.shape[1] - 1

    @property
    def centres(self) -> np.ndarray:
        """Per-slice mean of the smoothed log counts, float32, shape (S, G)."""
        return self.means[:, -1].astype(np.float32)


@dataclass(frozen=True)
class _Reader:
    """Reads a tile with its halo: neighbourhood and log counts."""

    log_counts: RandomRows
    graph: RandomRows
    hops: int

    def __call__(self, tile: Part) -> tuple[Neighbourhood, Csr]:
        around = read_neighbourhood(self.graph, tile.start, tile.stop, self.hops, weighting="mean")
        return around, read_around(self.log_counts, around)


_Read = Callable[["Part"], tuple[Neighbourhood, Csr]]


class _Held:
    """Reads through another reader and keeps the tiles that fit: the sample is read every pass."""

    def __init__(
        self, reader: Callable[[Part], tuple[Neighbourhood, Csr]], max_bytes: int = _HELD_BYTES
    ) -> None:
        self._reader = reader
        self._room = max_bytes
        self._tiles: dict[int, tuple[Neighbourhood, Csr]] = {}

    def __call__(self, tile: Part) -> tuple[Neighbourhood, Csr]:
        data = self._tiles.get(tile.start)
        if data is None:
            data = self._reader(tile)
            size = data[0].nbytes + data[1].nbytes
            if size <= self._room:  # two threads may both see the last room: a tile too many does no harm
                self._room -= size
                self._tiles[tile.start] = data
        return data


def slice_means(
    log_counts: RandomRows,
    graph: RandomRows,
    offsets: np.ndarray,
    n_genes: int,
    hops: int,
    *,
    client: Client | None = None,
    slices: Sequence[int] | None = None,
    n_workers: int = 1,
    events: Events = SILENT,
    stage: str | None = None,
) -> np.ndarray:
    """Mean of M^k x of every slice for k = 0 .. hops, in one pass over all spots.

    Parameters
    ----------
    log_counts
        x, rows in working order.
    graph
        Neighbours of every spot, itself included.
    offsets
        First working row of every slice and the total, shape (S + 1,).
    n_genes
        Number of genes G.
    hops
        Rounds of averaging h.
    slices
        Those looked at; all when not given. The means of the others are 0.
    client, n_workers, events, stage
        How tiles are run (see :func:`~atlasnmf.reduce.run_reduction`).

    Returns
    -------
    means
        float64, shape (S, hops + 1, G).
    """
    sums = run_reduction(
        Reduction(_mean_chunk, add),
        _of_slices(plan_parts(offsets, TILE_ROWS), slices),
        _Reader(log_counts, graph, hops),
        client=client,
        n_workers=n_workers,
        events=events,
        stage=stage,
    )
    means = np.zeros((len(offsets) - 1, hops + 1, n_genes), dtype=np.float64)
    for index, total in sums.items():
        means[index] = total.T / (offsets[index + 1] - offsets[index])
    return means


def _of_slices(parts: Sequence[Part], slices: Sequence[int] | None) -> tuple[Part, ...]:
    return tuple(part for part in parts if slices is None or part.slice_index in slices)


def _mean_chunk(tile: Part, data: tuple[Neighbourhood, Csr]) -> dict[int, np.ndarray]:
    around, rows = data
    weights = np.zeros((len(around.rows), len(around.rings)), dtype=np.float64)
    for hop, spread in enumerate(around.spread(np.ones((around.n_core, 1), dtype=np.float64))):
        weights[: len(spread), hop] = spread[:, 0]
    return {tile.slice_index: csr_t_dot(rows.indptr, rows.indices, rows.data, weights, rows.n_cols)}


def find_components(
    log_counts: RandomRows,
    graph: RandomRows,
    offsets: np.ndarray,
    n_genes: int,
    *,
    n_components: int,
    hops: int = 2,
    fit_hops: int | None = None,
    standardise: bool = False,
    seed: int = 0,
    n_sample: int = SAMPLE_SPOTS,
    oversample: int = 10,
    tolerance: float = 0.03,
    max_passes: int = 10,
    slices: Sequence[int] | None = None,
    genes: np.ndarray | None = None,
    client: Client | None = None,
    n_workers: int = 1,
    events: Events = SILENT,
    stage: str | None = None,
) -> Components:
    """Find the components and the means they are centred on.

    Parameters
    ----------
    log_counts, graph, offsets, n_genes, hops
        As in :func:`slice_means`. Genes a slice did not measure are zero there and stay so when centred.
    n_components
        Number of components P, less than G.
    fit_hops
        Rounds of averaging whose variance the components explain, at most ``hops``; None for ``hops``.
        Averaging first finds factors of few spots that noise hides otherwise; 0 keeps thin layers sharp.
    standardise
        Divide every gene by its standard deviation after averaging, so that components follow what many
        genes share rather than the few most abundant ones.
    seed
        Of the random start.
    n_sample
        About how many spots to estimate the components from (see :func:`sample_tiles`).
    oversample
        Directions followed beside the P wanted ones.
    tolerance
        Stop when ||C v - lambda v|| <= tolerance * lambda for every component; the share of the variance
        that is missed is about the square of it (.03 misses less than .1 %, measured).
    max_passes
        Stop then anyway.
    slices, genes
        Slices the components are of, and genes they are made of (bool, shape (G,)); all when not given.
    client, n_workers, events, stage
        How tiles are run (see :func:`~atlasnmf.reduce.run_reduction`).

    Raises
    ------
    BadOption
        More components than genes.

    Notes
    -----
    One pass over all spots for the means, then ``n_passes`` over the sample of 4·nnz·(P + oversample)
    operations each: the cost of the latter does not grow with the atlas.
    """
    n_used = n_genes if genes is None else int(genes.sum())
    if not 0 < n_components < n_used:
        raise BadOption(
            f"{n_components} components cannot be found among {n_used} genes; "
            f"choose between 1 and {n_used - 1}"
        )
    means = slice_means(
        log_counts,
        graph,
        offsets,
        n_genes,
        hops,
        slices=slices,
        client=client,
        n_workers=n_workers,
        events=events,
        stage=stage,
    )
    fit_hops = hops if fit_hops is None else fit_hops
    centres = means[:, fit_hops]
    tiles = _of_slices(sample_tiles(offsets, n_sample), slices)
    n_sampled = np.bincount(
        [tile.slice_index for tile in tiles],
        weights=[tile.n_rows for tile in tiles],
        minlength=len(offsets) - 1,
    )
    reader: _Read = _Reader(log_counts, graph, fit_hops)
    if client is None:
        reader = _Held(reader)

    def covariance(block: np.ndarray) -> np.ndarray:
        chunk = partial(_covariance_chunk, block=block, offset=centres @ block)
        sums = run_reduction(Reduction(chunk, add), tiles, reader, client=client, n_workers=n_workers)
        total = np.zeros_like(block)
        for index, found in sorted(sums.items()):
            product, summed = found[:, :-1], found[:, -1]
            shift = (centres[index] - summed / n_sampled[index]) @ block
            total += (product + np.outer(summed, shift)) / n_sampled[index]
        return total

    spread = np.ones(n_genes)
    if standardise:
        spread = _smoothed_spread(reader, tiles, centres, n_sampled, client=client, n_workers=n_workers)

    scale = (1 / spread if genes is None else genes / spread)[:, None]

    def standardised(block: np.ndarray) -> np.ndarray:
        return covariance(block * scale) * scale

    start = rng_for(seed, "components").standard_normal((n_genes, min(n_components + oversample, n_used)))
    if genes is not None:
        start[~genes] = 0
    vectors, variances, n_passes, residual = _krylov(
        standardised, np.linalg.qr(start)[0], n_components, tolerance, max_passes
    )
    largest = np.argmax(np.abs(vectors), axis=0)
    vectors = vectors * np.where(vectors[largest, np.arange(n_components)] < 0, -1.0, 1.0)
    loadings = vectors * scale
    return Components(loadings.astype(np.float32), variances, means, n_passes, residual)


def _smoothed_spread(
    reader: _Read,
    tiles: Sequence[Part],
    centres: np.ndarray,
    n_sampled: np.ndarray,
    *,
    client: Client | None,
    n_workers: int,
) -> np.ndarray:
    """Return the standard deviation of every gene after averaging, pooled over slices, float64, shape (G,).

    Genes that hardly vary are held at a hundredth of the largest, so that noise is not blown up to a signal.
    """
    sums = run_reduction(Reduction(_square_chunk, add), tiles, reader, client=client, n_workers=n_workers)
    variance = np.zeros(centres.shape[1])
    for index, (total, squares) in sorted(sums.items()):
        centre, n_spots = centres[index], n_sampled[index]
        variance += (squares - 2 * centre * total + n_spots * centre**2) / n_spots
    spread = np.sqrt(np.maximum(variance, 0.0) / max(len(sums), 1))
    return np.maximum(spread, max(0.01 * float(spread.max()), 1e-12))


def _square_chunk(tile: Part, data: tuple[Neighbourhood, Csr]) -> dict[int, np.ndarray]:
    """Sum and sum of squares of M^h x over the core, by gene."""
    around, rows = data
    for n_rows in around.rings[-2::-1]:
        parts = smooth_rows(*around.graph_of(n_rows), rows.indptr, rows.indices, rows.data, rows.n_cols)
        rows = Csr(*parts, rows.n_cols)
    total, squares, _ = gene_moments(rows.indptr, rows.indices, rows.data, rows.n_cols)
    return {tile.slice_index: np.stack([total, squares])}


def _covariance_chunk(
    tile: Part, data: tuple[Neighbourhood, Csr], *, block: np.ndarray, offset: np.ndarray
) -> dict[int, np.ndarray]:
    """Z'(Z V - 1 c'V) and Z'1 of the core, Z = M^h X: centred on c, so that little cancels later.

    Products of a tile are float32 (half the time), sums over spots float64.
    """
    around, rows = data
    projected = csr_dot(rows.indptr, rows.indices, rows.data, block.astype(np.float32))
    centred = around.average(projected)[-1] - offset[tile.slice_index].astype(np.float32)
    ones = np.ones((len(centred), 1), dtype=np.float32)
    spread = around.spread(np.concatenate([centred, ones], axis=1))[-1]
    return {tile.slice_index: csr_t_dot(rows.indptr, rows.indices, rows.data, spread, rows.n_cols)}


def _krylov(
    product: partial | object, block: np.ndarray, n_wanted: int, tolerance: float, max_passes: int
) -> tuple[np.ndarray, np.ndarray, int, float]:
    """Rayleigh-Ritz on span(V, CV, C^2 V, ...): far fewer passes than a plain power iteration."""
    basis = np.empty((len(block), 0))
    image = np.empty((len(block), 0))
    for n_passes in range(1, max_passes + 1):
        basis = np.column_stack([basis, block])
        image = np.column_stack([image, product(block)])  # type: ignore[operator]
        small = basis.T @ image
        values, vectors = np.linalg.eigh((small + small.T) / 2)
        order = np.argsort(values)[::-1][:n_wanted]
        values, vectors = values[order], vectors[:, order]
        found = basis @ vectors
        error = np.linalg.norm(image @ vectors - found * values, axis=0)
        residual = float(np.max(error / np.maximum(values, 1e-12 * max(values[0], 1e-300))))
        if residual <= tolerance or n_passes == max_passes:
            break
        block = image[:, -block.shape[1] :]
        for _ in range(2):  # twice is enough to be orthogonal to the last bit
            block = block - basis @ (basis.T @ block)
        size = np.linalg.norm(block)
        left, lengths, _ = np.linalg.svd(block, full_matrices=False)
        room = len(block) - basis.shape[1]
        block = left[:, lengths > 1e-10 * max(values[0], size, 1e-300)][:, :room]
        if not block.shape[1]:
            break
    return found, np.maximum(values, 0.0), n_passes, residual


def write_scores(
    log_counts: RandomRows,
    graph: RandomRows,
    components: Components,
    target: PartedDense,
    *,
    slices: Sequence[int] | None = None,
    client: Client | None = None,
    n_workers: int = 1,
    events: Events = SILENT,
    stage: str | None = None,
) -> np.ndarray:
    """Write the scores of every spot after 0, 1, .. h rounds of averaging.

    Parameters
    ----------
    log_counts, graph
        As in :func:`slice_means`.
    components
        From :func:`find_components`.
    target
        Where the scores go: rows of shape (h + 1, P), float32, every block centred per slice. Parts that
        are there are not made again.
    slices
        Slices whose parts are written; all when not given.
    client, n_workers, events, stage
        How parts are run (see :func:`~atlasnmf.reduce.run_reduction`).

    Returns
    -------
    scale
        Standard deviation of the scores after h rounds, float32, shape (P,).

    Notes
    -----
    M^k x V is formed as M^k (x V): 2·nnz·P operations and no smoothed matrix.
    """
    centres = components.means @ components.loadings.astype(np.float64)
    task = partial(
        _write_part,
        target=target,
        reader=_Reader(log_counts, graph, components.hops),
        loadings=components.loadings,
        centres=centres,
    )
    squares, n_spots = run_reduction(
        Reduction(task, add),
        _of_slices(target.parts, slices),
        _nothing,
        client=client,
        n_workers=n_workers,
        events=events,
        stage=stage,
    )
    return np.sqrt(squares / max(n_spots, 1)).astype(np.float32)


def _nothing(part: Part) -> None:
    return None


def _write_part(
    part: Part, _: None, *, target: PartedDense, reader: _Reader, loadings: np.ndarray, centres: np.ndarray
) -> tuple[np.ndarray, int]:
    if target.has_part(part.index):
        scores = target.read(part.start, part.stop)
    else:
        pieces = [_scores(reader, part, run, loadings, centres) for run in subtiles(part)]
        scores = np.concatenate(pieces)
        target.write_part(part.index, scores)
    return np.sum(np.square(scores[:, -1], dtype=np.float64), axis=0), len(scores)


def _scores(
    reader: _Reader, part: Part, run: tuple[int, int], loadings: np.ndarray, centres: np.ndarray
) -> np.ndarray:
    tile = type(part)(part.index, part.slice_index, *run)
    around, rows = reader(tile)
    averaged = around.average(csr_dot(rows.indptr, rows.indices, rows.data, loadings))
    return np.stack(averaged, axis=1) - centres[part.slice_index].astype(np.float32)
