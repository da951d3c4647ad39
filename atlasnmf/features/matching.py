"""Which spots of two slices correspond: transport over candidates, mutual best pairs, quality control."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.features.candidates import (
    BLOCK_ROWS,
    Candidates,
    candidates_alike,
    candidates_within,
    unit_rows,
)
from atlasnmf.kernels.cpu.pairs import best_of_rows, pair_dots
from atlasnmf.kernels.dispatch import carrier, kernel, namespace, release, to_host

__all__ = ["Mapping", "Matches", "map_slice", "match", "null_threshold"]

#: Random pairs the threshold is taken from, and its percentile.
NULL_PAIRS, NULL_PERCENTILE = 1000, 95.0


@dataclass(frozen=True)
class Matches:
    """Pairs of spots of two slices that correspond.

    Parameters
    ----------
    source, target
        Rows of either slice, int64, shape (m,), by source and then by descending score.
    score
        What the plan moves along each pair, out of 1 a spot, float64, shape (m,).
    cosine
        Of the pair's embeddings, float32, shape (m,).
    passed
        Whether the cosine is above ``threshold``, bool, shape (m,).
    threshold
        95th percentile of the cosine of random pairs of candidates.
    bin_score
        Score of the dustbin.
    to_bin_source, to_bin_target
        What each spot leaves in the dustbin, float32, shapes (n,) and (p,): near 1 for tissue that the other
        slice does not have.
    n_candidates
        Pairs that were candidates.
    n_unmatched_source, n_unmatched_target
        Spots that are in no pair.
    n_without_candidates_source, n_without_candidates_target
        Spots with no candidate, wholly in the dustbin.
    n_iterations, violation
        Of the transport: see :class:`atlasnmf.kernels.cpu.sinkhorn.Potentials`.
    """

    source: np.ndarray
    target: np.ndarray
    score: np.ndarray
    cosine: np.ndarray
    passed: np.ndarray
    threshold: float
    bin_score: float
    to_bin_source: np.ndarray
    to_bin_target: np.ndarray
    n_candidates: int
    n_unmatched_source: int
    n_unmatched_target: int
    n_without_candidates_source: int
    n_without_candidates_target: int
    n_iterations: int
    violation: float

    def __len__(self) -> int:
        return len(self.source)


@dataclass(frozen=True)
class Mapping:
    """The best partner of every spot of the smaller of two slices.

    Parameters
    ----------
    source_is_smaller
        Whether rows stand for spots of the source; of the target otherwise.
    partner
        Row of the larger slice, int64, shape (n,); -1 for a spot without candidates.
    cosine
        float32, shape (n,); NaN for a spot without candidates.
    passed
        Whether the cosine is above ``threshold``, bool, shape (n,).
    threshold
        See :class:`Matches`.
    """

    source_is_smaller: bool
    partner: np.ndarray
    cosine: np.ndarray
    passed: np.ndarray
    threshold: float


def match(
    source_embedding: np.ndarray,
    target_embedding: np.ndarray,
    source_coords: np.ndarray | None = None,
    target_coords: np.ndarray | None = None,
    *,
    radius: float | None = None,
    temperature: float = 0.1,
    bin_score: float | None = None,
    k: int = 1,
    rng: np.random.Generator,
    max_iterations: int = 100,
    tolerance: float = 1e-6,
    n_candidates: int = 30,
    device: str = "cpu",
) -> Matches:
    """Match the spots of two slices.

    Parameters
    ----------
    source_embedding, target_embedding
        In one space, shapes (n, d) and (p, d).
    source_coords, target_coords
        Positions in one frame (registered), 2-D or 3-D; needed with a radius.
    radius
        Spots farther apart than this never match, in the unit of the positions. None takes candidates from
        clusters that are alike (see :func:`atlasnmf.features.candidates.candidates_alike`).
    temperature
        tau of the score (cos + 1) / (2 tau).
    bin_score
        Score of the dustbin; the median over the candidates by default (the published code; 1 in the paper).
    k
        A pair is kept when either spot is among the k that the other moves most to.
    rng
        Draws the random pairs of the quality control (and the clusters' spots).
    max_iterations, tolerance
        Of the transport.
    n_candidates
        Without a radius, candidates of a spot from either side.
    device
        Where candidates within a radius are listed and the transport is solved: ``"cpu"``, or ``"cuda"`` with
        CuPy. Embeddings and positions go there, pairs come back.

    Returns
    -------
    Matches

    Raises
    ------
    BadInput
        No pair lies within the radius; an embedding is not finite, or the widths differ.
    BadOption
        An option has no usable value.

    Notes
    -----
    Memory and time follow the candidates: 20 bytes each at most. The published code keeps pairs of the same
    rank only, and takes the 0.95th percentile; here it is the mutual k best and the 95th.

    Source: SpatialFuser, equations 13 to 16 and "Whole-slice Alignment".

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> points, cells = rng.uniform(0, 10, (200, 2)), rng.normal(size=(200, 8))
    >>> found = match(cells, cells[::-1], points, points[::-1], radius=2.0, rng=rng)
    >>> bool((found.source == 199 - found.target).all()), len(found)
    (True, 200)
    """
    _checked(source_embedding, target_embedding, temperature, k)
    left, right = unit_rows(source_embedding), unit_rows(target_embedding)
    if radius is None:
        found = candidates_alike(left, right, n_candidates=n_candidates, temperature=temperature, rng=rng)
        threshold = _threshold(_random_pairs(left, right, rng))
    else:
        found = _within(source_coords, target_coords, left, right, radius, device)
        threshold = null_threshold(found, rng)
    matches = _transported(
        found, left, right, threshold, temperature, bin_score, k, max_iterations, tolerance, device
    )
    del found
    release(device)
    return matches


def map_slice(
    source_embedding: np.ndarray,
    target_embedding: np.ndarray,
    source_coords: np.ndarray,
    target_coords: np.ndarray,
    *,
    radius: float,
    rng: np.random.Generator,
) -> Mapping:
    """Map every spot of the smaller slice to the spot within the radius of largest cosine.

    Parameters
    ----------
    source_embedding, target_embedding, source_coords, target_coords, radius, rng
        As in :func:`match`.

    Returns
    -------
    Mapping

    Raises
    ------
    BadInput, BadOption
        As in :func:`match`.

    Notes
    -----
    Source: SpatialFuser, "Whole-slice Alignment".
    """
    _checked(source_embedding, target_embedding, 1.0, 1)
    smaller = len(source_embedding) <= len(target_embedding)
    embeddings = unit_rows(source_embedding), unit_rows(target_embedding)
    coords = source_coords, target_coords
    if not smaller:
        embeddings, coords = embeddings[::-1], coords[::-1]
    found = _within(*coords, *embeddings, radius)
    threshold = null_threshold(found, rng)
    place = best_of_rows(found.indptr, found.cosines)
    some = place >= 0
    partner = np.where(some, found.indices[place], -1).astype(np.int64)
    cosine = np.where(some, found.cosines[place], np.float32(np.nan))
    return Mapping(smaller, partner, cosine, cosine > threshold, threshold)


def null_threshold(found: Candidates, rng: np.random.Generator) -> float:
    """Return the 95th percentile of the cosines of 1000 random spots, each with one of its candidates."""
    starts = to_host(found.indptr)
    rows = np.flatnonzero(np.diff(starts))
    drawn = rng.choice(rows, NULL_PAIRS, replace=len(rows) < NULL_PAIRS)
    size = starts[drawn + 1] - starts[drawn]
    places = starts[drawn] + (rng.random(NULL_PAIRS) * size).astype(np.int64)
    return _threshold(to_host(found.cosines[carrier(found.cosines)(places)]))


def _threshold(cosines: np.ndarray) -> float:
    return float(np.percentile(cosines, NULL_PERCENTILE))


def _random_pairs(left: np.ndarray, right: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    rows, columns = rng.integers(len(left), size=NULL_PAIRS), rng.integers(len(right), size=NULL_PAIRS)
    return pair_dots(rows, columns, left, right)


def _checked(source: np.ndarray, target: np.ndarray, temperature: float, k: int) -> None:
    if source.ndim != 2 or target.ndim != 2 or source.shape[1] != target.shape[1]:
        raise BadInput(f"embeddings of two slices must be as wide, got {source.shape} and {target.shape}")
    if not len(source) or not len(target):
        raise BadInput(f"a slice to match has no spots ({len(source)} and {len(target)})")
    if not temperature > 0:
        raise BadOption(f"temperature: must be positive (got {temperature})")
    if k < 1:
        raise BadOption(f"k: at least 1 (got {k})")


def _within(
    source: np.ndarray | None,
    target: np.ndarray | None,
    left: np.ndarray,
    right: np.ndarray,
    radius: float,
    device: str = "cpu",
) -> Candidates:
    if source is None or target is None:
        raise BadOption("matching within a radius needs the positions of both slices")
    if len(source) != len(left) or len(target) != len(right):
        raise BadInput(
            f"{len(source)} and {len(target)} positions, {len(left)} and {len(right)} embedded spots"
        )
    return candidates_within(source, target, left, right, radius, device=device)


def _transported(
    found: Candidates,
    left: np.ndarray,
    right: np.ndarray,
    threshold: float,
    temperature: float,
    bin_score: float | None,
    k: int,
    max_iterations: int,
    tolerance: float,
    device: str,
) -> Matches:
    transport, pairs, xp = kernel("sinkhorn", device), kernel("pairs", device), namespace(device)
    there = carrier(device)
    starts, indices = there(found.indptr), there(found.indices)
    without = found.n_without()
    # float32: in the transport they are widened, and every use sees the same values
    scores = (there(found.cosines) + np.float32(1)) / np.float32(2 * temperature)
    aside = float(xp.median(scores)) if bin_score is None else float(bin_score)
    solved = transport.sinkhorn(
        starts,
        indices,
        scores,
        found.n_target,
        aside,
        max_iterations=max_iterations,
        tolerance=tolerance,
    )
    row_tops, column_tops = _no_tops(found.n_source, k, xp), _no_tops(found.n_target, k, xp)
    for start in range(0, found.n_source, BLOCK_ROWS):
        ends = starts[start : start + BLOCK_ROWS + 1]
        part = slice(int(ends[0]), int(ends[-1]))
        ends = ends - part.start
        mass = transport.plan_mass(ends, indices[part], scores[part], solved, first_row=start)
        pairs.keep_tops(ends, indices[part], mass, start, row_tops, column_tops)
    rows, ranks = pairs.mutual_tops(row_tops[0], column_tops[0])
    best, mass = to_host(row_tops[0][rows, ranks]), to_host(row_tops[1][rows, ranks])
    source, target = to_host(rows), best.astype(np.int64)
    cosine = pair_dots(source, target, left, right)
    bins = [to_host(mass_left) for mass_left in transport.bin_mass(solved)]
    return Matches(
        source=source,
        target=target,
        score=mass,
        cosine=cosine,
        passed=cosine > threshold,
        threshold=threshold,
        bin_score=aside,
        to_bin_source=bins[0].astype(np.float32),
        to_bin_target=bins[1].astype(np.float32),
        n_candidates=len(indices),
        n_unmatched_source=found.n_source - len(np.unique(source)),
        n_unmatched_target=found.n_target - len(np.unique(target)),
        n_without_candidates_source=without[0],
        n_without_candidates_target=without[1],
        n_iterations=solved.n_iterations,
        violation=solved.violation,
    )


def _no_tops(n: int, k: int, xp: Any) -> tuple[Any, Any]:
    return xp.full((n, k), -1, dtype=np.int32), xp.zeros((n, k))
