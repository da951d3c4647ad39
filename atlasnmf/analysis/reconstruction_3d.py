"""A stack of slices in one frame, from spots that are each other's nearest in an embedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.analysis.nearest import Nearest
from atlasnmf.analysis.spots import StoredRows, slice_numbers, stored_labels, stored_rows
from atlasnmf.analysis.values import gene_values
from atlasnmf.errors import BadInput, BadOption
from atlasnmf.features.icp import closest_alike, consensus_moves
from atlasnmf.features.overlay import feature_agreement
from atlasnmf.features.rigid import Rigid, fit_rigid, turned
from atlasnmf.options import at_least
from atlasnmf.seeds import rng_for
from atlasnmf.store.matches import stored_matches
from atlasnmf.store.plain import columns_of
from atlasnmf.store.results import ResultWriter, refuse_existing

if TYPE_CHECKING:
    import pandas as pd

    from atlasnmf.store.atlas import AtlasLike

__all__ = ["Reconstruction3D", "fit_pairs", "mutual_nearest", "reconstruct_3d"]

#: Pairs that a move is guessed from, and spots a slice that the scores are taken on, at most.
_PAIRS_GUESSED, _SCORED = 6_000, 20_000
#: Spots whose place is refined, at most twice as many.
_REFINED = 3_000
#: Nearest places farther apart than this many spacings are no neighbours: there is tissue on one side only.
_REACH_SPACINGS = 3.0
#: Spots whose mean is compared beside single ones.
_N_AROUND = 10


@dataclass(frozen=True)
class Reconstruction3D:
    """Slices brought into the frame of the first.

    Parameters
    ----------
    slices
        Names, in the order of the stack.
    moves
        Of each slice into the frame of the first.
    heights
        Of each slice.
    scores
        One row a neighbouring pair: ``slice``, ``onto``, ``n_pairs``, ``n_kept`` (pairs the move was fitted
        to), ``residual`` (their median distance after it), ``degrees``, ``pearson``, ``pearson_around``,
        ``overlap``, and ``cell_type`` where labels were given; these last also as ``<name>_before``, of the
        positions as they were.
    """

    slices: tuple[str, ...]
    moves: tuple[Rigid, ...]
    heights: np.ndarray
    scores: pd.DataFrame


def mutual_nearest(first: np.ndarray, second: np.ndarray, k: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of rows that are among each other's k nearest, int64.

    Parameters
    ----------
    first, second
        Shapes (n, p) and (m, p), finite.
    k
        Nearest looked at from either side.
    """
    _, forth = Nearest(second, "mutual nearest neighbours").search(first, min(k, len(second)))
    _, back = Nearest(first, "mutual nearest neighbours").search(second, min(k, len(first)))
    one = np.repeat(np.arange(len(first)), forth.shape[1]), forth.ravel()
    other = back.ravel(), np.repeat(np.arange(len(second)), back.shape[1])
    width = np.int64(len(second))
    codes = [
        a.astype(np.int64)[(a >= 0) & (b >= 0)] * width + b[(a >= 0) & (b >= 0)] for a, b in (one, other)
    ]
    both = np.intersect1d(codes[0], codes[1])
    return both // width, both % width


def fit_pairs(
    moving: np.ndarray, fixed: np.ndarray, *, reflection: bool, rng: np.random.Generator
) -> tuple[Rigid, np.ndarray]:
    """Find the move most pairs agree on.

    Parameters
    ----------
    moving, fixed
        Positions of the pairs, shape (m, 2), m at least 3.
    reflection
        Whether the slice may lie on its other side.
    rng
        Draws the guesses.

    Returns
    -------
    Rigid, kept
        The move and which pairs agree with it, bool, shape (m,).

    Raises
    ------
    BadInput
        No three pairs agree.

    Notes
    -----
    Guesses from two pairs each, the one with the most agreeing within a twentieth of the extent (RANSAC),
    then least squares with Tukey's weights, whose width follows the median distance of the pairs that agree.
    """
    extent = float(np.ptp(fixed, axis=0).max())
    tolerance = 0.05 * extent
    some = np.sort(rng.permutation(len(moving))[:_PAIRS_GUESSED])
    guesses = consensus_moves(moving[some], fixed[some], tolerance=tolerance, reflection=reflection, rng=rng)
    if not guesses:
        raise BadInput(
            "too few pairs of spots agree on a move; the embedding does not bring the slices together"
        )
    gaps = [np.linalg.norm(move.apply(moving) - fixed, axis=1) for move in guesses]
    best = int(np.argmax([(gap < tolerance).sum() for gap in gaps]))
    move, gap = guesses[best], gaps[best]
    width = 2 * tolerance
    for _ in range(30):
        near = gap < width
        if near.sum() < 3:
            break
        width = max(min(width, 4.7 * float(np.median(gap[near])) / 0.8), 1e-9 * extent)
        weights = np.maximum(1 - (gap / width) ** 2, 0) ** 2
        if (weights > 0).sum() < 3:
            break
        move = fit_rigid(moving, fixed, reflected=move.reflected, weights=weights)
        gap = np.linalg.norm(move.apply(moving) - fixed, axis=1)
    return move, gap < width


def reconstruct_3d(
    atlas: AtlasLike,
    key: str = "X_inspire",
    *,
    slices: Sequence[str] | None = None,
    spacing: float | Sequence[float] = 1.0,
    n_neighbors: int = 5,
    matches: str | None = None,
    reflection: bool = False,
    refine: bool = True,
    label_key: str | None = None,
    n_sample: int = 50_000,
    key_added: str = "aligned_3d",
    overwrite: bool = False,
    random_state: int = 0,
) -> Reconstruction3D:
    """Stack slices in space: a turn and a shift for each neighbouring pair, chained to the first slice.

    Pairs are spots that are among each other's nearest in the embedding; the move most of them agree on is
    refined on spots alike within a few spacings.

    Parameters
    ----------
    atlas
        An open atlas, the path of a store, or data in memory (which is changed).
    key
        obsm key of an embedding of all slices.
    slices
        Names of slices in the order of the stack; all in the atlas's order when not given.
    spacing
        Distance from one slice to the next, or the height of each, in the unit of the positions.
    n_neighbors
        Nearest looked at from either side.
    matches
        Table of matched pairs, such as ``"spatialfuser_matches"``, to fit to in place of the embedding's.
    reflection
        Whether slices may lie on their other side.
    refine
        Refine the move on spots alike in the embedding within 16 to 6 spacings.
    label_key
        obs column of cell types for a score.
    n_sample
        Spots of a slice at most that pairs are sought among.
    key_added
        obsm key of the positions, float64, shape (n, 3), and uns entry with ``slices``, ``rotations``,
        ``shifts``, ``heights`` and the ``scores``.
    overwrite
        Replace an older result.
    random_state
        Seed of the draws.

    Returns
    -------
    Reconstruction3D
        Scores are of neighbouring slices after the move: for each spot (20,000 at most) the nearest of the
        other slice within three spacings is taken. ``pearson`` is the mean correlation of the log-normalised
        counts of the two over the genes both measured, ``pearson_around`` that of the means of the ten
        nearest spots on either side, ``cell_type`` the share with the same label, ``overlap`` the share of
        spots with such a neighbour.

    Raises
    ------
    BadInput
        There is no such embedding, fewer than two slices, positions not in the plane, or no agreement.
    BadOption
        There is no such slice, or the key exists.

    Notes
    -----
    INSPIRE, "3D reconstruction of tissues and whole organisms": mutual nearest neighbours, rigid moves,
    Pearson and cell-type scores. Seconds a pair; the sampled rows of two slices are held.

    Examples
    --------
    >>> import atlasnmf as an
    >>> stack = an.tl.reconstruct_3d("embryo.zarr", "X_inspire", spacing=10.0, label_key="domain")
    >>> stack.slices, stack.heights.tolist()
    (('slice_1', 'slice_2'), [0.0, 10.0])
    >>> an.open_atlas("embryo.zarr").tables[1].obsm("aligned_3d").shape
    (400, 3)
    """
    import pandas as pd

    at_least(1, n_neighbors=n_neighbors)
    at_least(3, n_sample=n_sample)
    rows = stored_rows(atlas, key)
    chosen = _order(rows, slices)
    heights = _heights(spacing, len(chosen))
    refuse_existing(rows.atlas, obsm=[key_added], uns=[key_added], overwrite=overwrite)
    places = _positions(rows)
    labels = None if label_key is None else stored_labels(rows.atlas, label_key, rows.tables)
    given = None if matches is None else _given(rows, matches)
    known = rows.finite()
    moves, records = [Rigid.identity()], []
    for step in range(1, len(chosen)):
        ends = chosen[step], chosen[step - 1]
        rng = rng_for(random_state, "reconstruct_3d", int(ends[0]), int(ends[1]))
        own, other, points, aims = _pairs(rows, ends, known, given, n_neighbors, n_sample, rng)
        if len(own) < 3:
            pair = [rows.atlas.slices[end].name for end in ends]
            raise BadInput(
                f"slices {pair[0]} and {pair[1]} share fewer than three pairs of spots; fit them together"
            )
        move, kept = fit_pairs(places[own], places[other], reflection=reflection, rng=rng)
        if refine and points is not None and aims is not None:
            move = _refined(move, places, points, aims)
        figures = _scores(rows, places, ends, move, labels, rng)
        before = _scores(rows, places, ends, Rigid.identity(), labels, rng)
        gap = np.linalg.norm(move.apply(places[own][kept]) - places[other][kept], axis=1)
        records.append(
            {
                "slice": rows.atlas.slices[ends[0]].name,
                "onto": rows.atlas.slices[ends[1]].name,
                "n_pairs": len(own),
                "n_kept": int(kept.sum()),
                "residual": float(np.median(gap)),
                "degrees": move.degrees,
                **figures,
                **{f"{name}_before": value for name, value in before.items()},
            }
        )
        moves.append(moves[-1].compose(move))
    names = tuple(rows.atlas.slices[number].name for number in chosen)
    found = Reconstruction3D(names, tuple(moves), heights, pd.DataFrame(records))
    _write(rows, places, chosen, found, key, key_added, overwrite)
    return found


def _order(rows: StoredRows, slices: Sequence[str] | None) -> np.ndarray:
    present = np.unique(rows.slice_codes)
    chosen = present if slices is None else slice_numbers(rows.atlas, slices)
    if len(chosen) < 2:
        raise BadInput(f"{rows.atlas.name} has one slice with obsm[{rows.key!r}]; a stack needs two or more")
    if len(set(chosen.tolist())) != len(chosen) or not np.isin(chosen, present).all():
        raise BadOption(f"each slice of the stack is named once and has obsm[{rows.key!r}]; check slices")
    return chosen


def _heights(spacing: float | Sequence[float], n_slices: int) -> np.ndarray:
    if np.ndim(spacing) == 0:
        return float(spacing) * np.arange(n_slices)  # type: ignore[arg-type]
    heights = np.asarray(spacing, np.float64)
    if len(heights) != n_slices:
        raise BadOption(
            f"{len(heights)} heights for {n_slices} slices; give one per slice or the distance between"
        )
    return heights


def _positions(rows: StoredRows) -> np.ndarray:
    places = np.concatenate([rows.atlas.coordinates_of(table) for table in rows.tables])
    if places.shape[1] != 2:
        raise BadInput(
            f"positions of {rows.atlas.name} have three axes already; a stack is made of flat slices"
        )
    return places


def _given(rows: StoredRows, matches: str) -> tuple[np.ndarray, np.ndarray]:
    """Return matched pairs as positions among the rows, -1 where a table has no embedding."""
    pairs = stored_matches(rows.atlas, matches).kept()
    place = np.full(rows.atlas.n_spots, -1, np.int64)
    place[rows.spots] = np.arange(len(rows.spots))
    ends = place[pairs.source], place[pairs.target]
    both = (ends[0] >= 0) & (ends[1] >= 0)
    return ends[0][both], ends[1][both]


_Sample = tuple[np.ndarray, np.ndarray]


def _pairs(
    rows: StoredRows,
    ends: tuple[int, int],
    known: np.ndarray,
    given: tuple[np.ndarray, np.ndarray] | None,
    n_neighbors: int,
    n_sample: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, _Sample | None, _Sample | None]:
    """Return paired spots of two slices, and the sampled spots with their embeddings."""
    samples = []
    for end in ends:
        own = np.flatnonzero(known & (rows.slice_codes == end))
        drawn = own if len(own) <= n_sample else np.sort(rng.choice(own, n_sample, replace=False))
        samples.append((drawn, rows.take(drawn)))
    if given is not None:
        sides = np.concatenate(given), np.concatenate(given[::-1])
        inside = (rows.slice_codes[sides[0]] == ends[0]) & (rows.slice_codes[sides[1]] == ends[1])
        return sides[0][inside], sides[1][inside], samples[0], samples[1]
    if not len(samples[0][0]) or not len(samples[1][0]):
        empty = np.empty(0, np.int64)
        return empty, empty, None, None
    first, second = mutual_nearest(samples[0][1], samples[1][1], n_neighbors)
    return samples[0][0][first], samples[1][0][second], samples[0], samples[1]


def _refined(move: Rigid, places: np.ndarray, moving: _Sample, fixed: _Sample) -> Rigid:
    """Refine a move on spots alike within reach, then on how the embedding agrees where slices overlap."""
    from scipy.optimize import minimize
    from scipy.spatial import cKDTree

    few = slice(None, None, max(len(moving[0]) // _REFINED, 1))
    points, tree = places[moving[0]][few], cKDTree(places[fixed[0]])
    gap = _spacing(tree)
    own, other = _units(moving[1])[few], _units(fixed[1])
    reaches = tuple(gap * np.array([16.0, 12, 8, 6, 6, 6, 6]))
    starts = [move, closest_alike(points, tree, own, other, move, reaches=reaches)]
    middle, reach = points.mean(axis=0), float(np.linalg.norm(np.ptp(points, axis=0))) / 4
    own, other = own - own.mean(axis=0), other - other.mean(axis=0)

    def agreement(tried: Rigid) -> float:
        return feature_agreement(tried.apply(points), tree, own, other, _REACH_SPACINGS * gap)

    start = max(starts, key=agreement)

    def stepped(step: np.ndarray) -> Rigid:
        # a turn about the middle of the slice, so that turn and shift do not pull at each other
        there = start.apply(middle[None])[0]
        turn = turned(float(np.degrees(step[0] / reach))).compose(Rigid(np.eye(2), -there))
        return Rigid(np.eye(2), there + step[1:]).compose(turn).compose(start)

    simplex = np.vstack([np.zeros(3), 4 * gap * np.eye(3)])
    options = {"initial_simplex": simplex, "maxfev": 90, "xatol": 0.05 * gap, "fatol": 1e-6}
    found = minimize(
        lambda step: -agreement(stepped(step)), np.zeros(3), method="Nelder-Mead", options=options
    )
    return stepped(found.x)


def _units(rows: np.ndarray) -> np.ndarray:
    centred = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)


def _spacing(tree: Any) -> float:
    gaps = tree.query(tree.data[: _SCORED // 2], k=2)[0][:, 1]
    gaps = gaps[gaps > 0]
    return float(np.median(gaps)) if len(gaps) else 1.0


def _scores(
    rows: StoredRows,
    places: np.ndarray,
    ends: tuple[int, int],
    move: Rigid,
    labels: Any,
    rng: np.random.Generator,
) -> dict[str, float]:
    from scipy.spatial import cKDTree

    own, other = (np.flatnonzero(rows.slice_codes == end) for end in ends)
    if len(own) > _SCORED:
        own = np.sort(rng.choice(own, _SCORED, replace=False))
    tree = cKDTree(places[other])
    reach = _REACH_SPACINGS * _spacing(tree)
    gap, near = tree.query(move.apply(places[own]), distance_upper_bound=reach)
    beside = np.isfinite(gap)
    figures = {"pearson": float("nan"), "pearson_around": float("nan"), "overlap": float(beside.mean())}
    mine, theirs = own[beside], other[near[beside]]
    if len(mine):
        here = np.flatnonzero(rows.slice_codes == ends[0])
        _, around = cKDTree(places[here]).query(places[mine], k=min(_N_AROUND, len(here)))
        _, around_there = tree.query(move.apply(places[mine]), k=min(_N_AROUND, len(other)))
        sides = (here[around.reshape(len(mine), -1)], other[around_there.reshape(len(mine), -1)])
        figures["pearson"], figures["pearson_around"] = _correlations(rows, mine, theirs, sides)
    if labels is not None:
        both = (labels.codes[mine] >= 0) & (labels.codes[theirs] >= 0)
        same = labels.codes[mine][both] == labels.codes[theirs][both]
        figures["cell_type"] = float(same.mean()) if both.any() else float("nan")
    return figures


def _correlations(
    rows: StoredRows, mine: np.ndarray, theirs: np.ndarray, around: tuple[np.ndarray, np.ndarray]
) -> tuple[float, float]:
    """Correlate paired spots, and the means around them, over the genes their tables share."""
    values = gene_values(rows.atlas, tables=rows.tables)
    needed = np.unique(np.concatenate([mine, theirs, *(side.ravel() for side in around)]))
    tables = np.repeat(np.arange(len(rows.tables)), [table.n_spots for table in rows.tables])
    shared = values.measured[np.unique(tables[needed])].all(axis=0)
    held = values.take(needed)[:, np.flatnonzero(shared)].astype(np.float64)
    single = [held[np.searchsorted(needed, spots)] for spots in (mine, theirs)]
    means = [_mean_of(len(needed), np.searchsorted(needed, side)) @ held for side in around]
    return _row_correlation(*single), _row_correlation(*means)


def _mean_of(n_rows: int, near: np.ndarray) -> Any:
    """Return the matrix that averages the rows named in each row of ``near``."""
    import scipy.sparse

    row = np.repeat(np.arange(len(near)), near.shape[1])
    weights = np.full(near.size, 1 / near.shape[1])
    return scipy.sparse.csr_matrix((weights, (row, near.ravel())), shape=(len(near), n_rows))


def _row_correlation(left: Any, right: Any) -> float:
    """Return the mean correlation of the rows of two sparse matrices."""
    n = left.shape[1]
    sums = [np.asarray(side.sum(axis=1)).ravel() for side in (left, right)]
    squares = [np.asarray(side.multiply(side).sum(axis=1)).ravel() for side in (left, right)]
    product = np.asarray(left.multiply(right).sum(axis=1)).ravel()
    spread = (squares[0] - sums[0] ** 2 / n) * (squares[1] - sums[1] ** 2 / n)
    known = spread > 1e-12
    found = (product - sums[0] * sums[1] / n)[known] / np.sqrt(spread[known])
    return float(found.mean()) if len(found) else float("nan")


def _write(
    rows: StoredRows,
    places: np.ndarray,
    chosen: np.ndarray,
    found: Reconstruction3D,
    key: str,
    key_added: str,
    overwrite: bool,
) -> None:
    record = {
        "key": key,
        "slices": list(found.slices),
        "rotations": np.stack([move.rotation for move in found.moves]),
        "shifts": np.stack([move.shift for move in found.moves]),
        "heights": found.heights,
        "scores": columns_of(found.scores),
    }
    used = {rows.atlas.slices[number].table for number in chosen}
    tables = [name for name in rows.names if name in used]
    with ResultWriter(rows.atlas, overwrite=overwrite) as writer:
        writer.uns(key_added, record, tables=tables)
        writer.per_spot(key_added, 3, dtype=np.float64, tables=tables)
        for number, move, height in zip(chosen, found.moves, found.heights, strict=True):
            own = np.flatnonzero(rows.slice_codes == number)
            flat = move.apply(places[own])
            writer.put_spots(key_added, rows.spots[own], np.column_stack([flat, np.full(len(own), height)]))
