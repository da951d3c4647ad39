"""The plain data that passes between rooms: sparse rows, batches, needs, facts, results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import scipy.sparse

__all__ = [
    "AtlasFacts",
    "Csr",
    "Frame",
    "FrameNeeds",
    "Needs",
    "PairNeeds",
    "Result",
    "SliceBatch",
    "SpotPairs",
]


@dataclass(frozen=True)
class Csr:
    """Compressed sparse rows as four plain parts.

    Parameters
    ----------
    indptr
        Row starts, int64, shape (n_rows + 1,), starting at 0.
    indices
        Columns, any unsigned or signed integer type, ascending within a row, shape (nnz,).
    data
        Values, shape (nnz,).
    n_cols
        Number of columns.
    """

    indptr: np.ndarray
    indices: np.ndarray
    data: np.ndarray
    n_cols: int

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.indptr) - 1

    @property
    def nnz(self) -> int:
        """Number of stored values."""
        return int(self.indptr[-1])

    @property
    def nbytes(self) -> int:
        """Bytes held by the three arrays."""
        return self.indptr.nbytes + self.indices.nbytes + self.data.nbytes

    def rows(self, start: int, stop: int) -> Csr:
        """Return a run of rows; ``indices`` and ``data`` are views."""
        lo, hi = int(self.indptr[start]), int(self.indptr[stop])
        return Csr(self.indptr[start : stop + 1] - lo, self.indices[lo:hi], self.data[lo:hi], self.n_cols)

    @classmethod
    def stack(cls, pieces: Sequence[Csr]) -> Csr:
        """Put rows below each other: one piece or more, all of the same columns.

        Returns
        -------
        Csr
            New arrays of the widest of the pieces' types; a single piece is returned as it is.
        """
        if len(pieces) == 1:
            return pieces[0]
        indptr = np.zeros(sum(piece.n_rows for piece in pieces) + 1, dtype=np.int64)
        at, nnz = 1, 0
        for piece in pieces:
            indptr[at : at + piece.n_rows] = piece.indptr[1:] + nnz
            at, nnz = at + piece.n_rows, nnz + piece.nnz
        return cls(
            indptr,
            np.concatenate([piece.indices for piece in pieces]),
            np.concatenate([piece.data for piece in pieces]),
            pieces[0].n_cols,
        )

    def to_scipy(self) -> scipy.sparse.csr_matrix:
        """Return the same rows as a scipy matrix (indices widened to int32 or int64)."""
        import scipy.sparse

        kind = np.int32 if max(self.nnz, self.n_cols) < 2**31 else np.int64
        return scipy.sparse.csr_matrix(
            (self.data, self.indices.astype(kind), self.indptr.astype(kind)),
            shape=(self.n_rows, self.n_cols),
        )

    @classmethod
    def from_scipy(cls, matrix: scipy.sparse.spmatrix | scipy.sparse.sparray) -> Csr:
        """Take the rows of a scipy matrix, sorted and with duplicates summed."""
        csr = matrix.tocsr().copy()
        csr.sum_duplicates()
        csr.sort_indices()
        return cls(csr.indptr.astype(np.int64), csr.indices, csr.data, csr.shape[1])


@dataclass(frozen=True)
class PairNeeds:
    """How a fine and a coarse slice of one tissue are brought together.

    Parameters
    ----------
    max_distance
        Cells farther than this from every coarse spot are not linked, in the unit of the coordinates; None
        for the spacing of the coarse spots.
    n_links
        Coarse spots a cell is shared among.
    affine
        ``[A | b]`` applied to the fine coordinates, as text; None leaves them.
    align
        Estimate a rigid move of the fine coordinates.
    coarse_only
        Keep genes that the coarse slice alone has.
    """

    max_distance: float | None = None
    n_links: int = 1
    affine: str | None = None
    align: bool = False
    coarse_only: bool = True


@dataclass(frozen=True)
class FrameNeeds:
    """How slices of one tissue are brought into one frame, and what they are told apart by.

    Parameters
    ----------
    register_by
        ``auto``, ``icp``, ``ndt``, ``features``, or ``none`` to take positions as they are.
    reflection
        Slices may be turned over.
    partners
        ``chain`` moves every slice onto the one before it, ``first`` all onto the first.
    features
        ``auto`` takes slices with enough features in common for one kind, ``shared`` takes all for one,
        ``own`` gives each its own.
    """

    register_by: str = "auto"
    reflection: bool = False
    partners: str = "chain"
    features: str = "auto"


@dataclass(frozen=True)
class Needs:
    """What a model asks of ``prepare``; a fit prepares what is missing.

    Parameters
    ----------
    integer_counts
        A Poisson model: refuse counts that are not whole numbers.
    min_slices, min_genes
        The fewest slices and shared genes the model can use.
    n_hvgs
        Highly variable genes per slice before intersecting; 0 keeps all shared genes.
    gene_union
        Keep genes missing from some slices, masked there.
    radius_rule
        How far neighbours are where the user does not say: ``spacing``, by each slice's own, or
        ``published``, 1.1 times the smallest distance of the first slice.
    hops
        Stored neighbourhood sums A~^h X in gene space, h = 1 .. hops.
    n_components, component_hops
        Stored projections on the leading components of the smoothed log counts, for 0 .. component_hops.
    standardise_genes
        Give every gene the same variance after smoothing before components are sought; None does so unless
        the genes are a panel, whose genes were all chosen to matter.
    baseline_components
        Components of the smoothed PCA that results are shown beside; 0 when they are not.
    halo
        Hops of exact neighbours around a batch; 0 draws shuffled blocks instead of tiles.
    passes
        Steps are passes over all spots (:class:`atlasnmf.batches.passes.Pass`) instead of batches.
    pair
        The atlas is a fine and a coarse slice of one tissue, in this order; None for any other.
    frame
        The slices are brought into one frame, and may measure different kinds of features; None for models
        that compare slices by features alone.
    """

    integer_counts: bool = True
    min_slices: int = 1
    min_genes: int = 1
    n_hvgs: int = 6000
    gene_union: bool = False
    radius_rule: str = "spacing"
    hops: int = 0
    n_components: int = 0
    component_hops: int = 0
    standardise_genes: bool | None = False
    baseline_components: int = 0
    halo: int = 0
    passes: bool = False
    pair: PairNeeds | None = None
    frame: FrameNeeds | None = None


@dataclass(frozen=True)
class Frame:
    """Slices in one frame.

    Parameters
    ----------
    positions
        Of every working row in the frame of the first slice, float64, shape (N, 2 or 3).
    spacing
        Median distance of a spot to its nearest neighbours, by slice, in the unit of the first slice,
        float64, shape (S,).
    trusted
        Whether a slice lies where the one it was registered to says, bool, shape (S,).
    moves
        How each slice was moved: method, score, rotation, shift, notes.
    """

    positions: np.ndarray
    spacing: np.ndarray
    trusted: np.ndarray
    moves: tuple[Mapping[str, Any], ...]

    def record(self, slices: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return the moves by the number of the slice, with its name: names may not be those of a file."""
        named = enumerate(zip(slices, self.moves, strict=True))
        return {str(number): {"slice": name, **move} for number, (name, move) in named}


@dataclass(frozen=True)
class SpotPairs:
    """Pairs of spots of different slices that correspond.

    Parameters
    ----------
    source, target
        Working rows, int64, shape (m,).
    score, cosine
        Strength of the pair, and likeness of its embeddings, float32, shape (m,).
    passed
        Whether it passed quality control, bool, shape (m,).
    """

    source: np.ndarray
    target: np.ndarray
    score: np.ndarray
    cosine: np.ndarray
    passed: np.ndarray


@dataclass(frozen=True)
class AtlasFacts:
    """What a model knows of an atlas before it sees a spot; small but for ``links`` and ``frame``.

    Parameters
    ----------
    slices
        Names of the slices, in order.
    n_spots
        Spots per slice, int64, shape (S,).
    genes
        Names of the model's genes, shape (G,).
    gene_mask
        Which slice measured which gene, bool, shape (S, G).
    gene_sums
        Total counts per slice and gene, float64, shape (S, G).
    nnz_per_spot
        Mean number of non-zero model genes of a spot.
    components
        What projects log counts on the leading components, float32, shape (G, P), or (K, G, P) where slices
        measure K kinds of features; or None.
    centres
        Per-slice mean of the smoothed log counts, float32, shape (S, G); or None.
    component_scale
        Standard deviation of the scores on the components after smoothing, float32, shape (P,), or (K, P);
        or None.
    target_sum
        What the counts of a spot are scaled to before log1p.
    links
        Of a pair: coarse spots of every fine row (-1 for none), int32, and their weights, float32, both of
        shape (n_fine, k); or None.
    frame
        Positions of all slices in one frame; or None.
    kinds
        Number of the kind of features that each slice measures, int64, shape (S,); None where it is one.
    """

    slices: tuple[str, ...]
    n_spots: np.ndarray
    genes: tuple[str, ...]
    gene_mask: np.ndarray
    gene_sums: np.ndarray
    nnz_per_spot: float
    components: np.ndarray | None = None
    centres: np.ndarray | None = None
    component_scale: np.ndarray | None = None
    target_sum: float = 1e4
    links: tuple[np.ndarray, np.ndarray] | None = None
    frame: Frame | None = None
    kinds: np.ndarray | None = None

    @property
    def n_slices(self) -> int:
        """Number of slices."""
        return len(self.slices)

    @property
    def n_genes(self) -> int:
        """Number of model genes."""
        return len(self.genes)


@dataclass(frozen=True)
class SliceBatch:
    """Spots of one slice, ready for a training step or for inference.

    Rows come in rings: the ``rings[0]`` core spots that carry the loss, then their neighbours outside
    the core, then the neighbours' neighbours. A shuffled block batch has one ring.

    Parameters
    ----------
    slice_index
        Position of the slice in :attr:`AtlasFacts.slices`.
    rows
        Working-copy rows of the spots, int64, shape (n,).
    rings
        Cumulative number of rows up to each ring, ``rings[-1] == n``.
    counts
        Model-gene counts y, n rows, G columns.
    totals
        Counts per spot over all kept genes, the denominator of log-normalisation, float32, shape (n,).
    scores
        Centred projections of the log counts on the components after 0, 1, .. hops of averaging,
        float32, shape (n, hops + 1, P); or None.
    smoothed
        A~^h X of the spots in gene space for h = 1 .. hops, float32 values, n rows each.
    graph
        Neighbours (self included) of the first ``rings[-2]`` rows, as positions within the batch; data are
        the weights of A~ from whole-slice degrees, float32. None for block batches.
    n_shared
        Core spots of the slice over all ranks, where several share a step; None where all are here.
    shared_start
        Working row of the first of them, where they are a run of rows; None where all are here.
    """

    slice_index: int
    rows: np.ndarray
    rings: tuple[int, ...]
    counts: Csr
    totals: np.ndarray
    scores: np.ndarray | None = None
    smoothed: tuple[Csr, ...] = ()
    graph: Csr | None = None
    n_shared: int | None = None
    shared_start: int | None = None

    @property
    def n_core(self) -> int:
        """Spots that carry the loss."""
        return self.rings[0]

    @property
    def n_step(self) -> int:
        """Spots of the slice that carry the loss of a step, over all ranks."""
        return self.n_core if self.n_shared is None else self.n_shared

    @property
    def step_start(self) -> int:
        """First working row of the spots that carry the loss of a step, where they are a run of rows."""
        return int(self.rows[0]) if self.shared_start is None else self.shared_start


@dataclass(frozen=True)
class Result:
    """The part of a model's result that does not grow with spots.

    Parameters
    ----------
    varm
        Gene arrays by result key, shape (G, K), over the model's genes.
    uns
        Figures and parameters of the fit: numbers, strings, small arrays, nested mappings.
    quality
        Figures of merit that the model measures itself.
    pairs
        Spots of different slices that correspond; written as a table. None for models that match nothing.
    """

    varm: Mapping[str, np.ndarray] = field(default_factory=dict)
    uns: Mapping[str, Any] = field(default_factory=dict)
    quality: Mapping[str, Any] = field(default_factory=dict)
    pairs: SpotPairs | None = None
