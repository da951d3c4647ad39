"""Which region, or union of regions, each pattern is: all singles, touching pairs and triples, and larger."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from atlasnmf.analysis.regions import Regions
from atlasnmf.errors import BadInput, BadOption
from atlasnmf.metrics.regions import RegionSums, region_sums

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["RegionLinks", "Score", "link_regions", "search_unions"]

Score = Literal["pearson", "dice"]

_SCORES = ("pearson", "dice")
#: Rows of unions scored at a time.
_CHUNK_ROWS = 1 << 16


@dataclass(frozen=True)
class RegionLinks:
    """How patterns agree with regions.

    Parameters
    ----------
    regions
        Names of the R regions.
    sizes
        Their spots, int64, shape (R,).
    pearson, dice
        Agreement with every single region, float64, shape (R, K).
    n_unions
        How many unions of 1, 2, 3 regions were looked at.
    unions
        The best unions, a row each: ``pattern``, ``score`` (pearson or dice), ``size``, ``rank`` (from 0),
        ``regions`` (names joined by ``+``), ``pearson``, ``dice``, ``n_spots``.
    """

    regions: tuple[str, ...]
    sizes: np.ndarray
    pearson: np.ndarray
    dice: np.ndarray
    n_unions: tuple[int, ...]
    unions: pd.DataFrame

    def best(self, score: Score = "pearson") -> pd.DataFrame:
        """Return the best union of each pattern, of any size, a row per pattern."""
        chosen = self.unions[self.unions["score"] == score]
        # Of equal scores the smaller union: a region is named before its parts. Rounding must not decide.
        rounded = chosen.assign(rounded=chosen[score].round(10))
        order = rounded.sort_values(
            ["pattern", "rounded", "size"], ascending=[True, False, True], kind="stable"
        )
        return order.drop_duplicates("pattern").drop(columns="rounded").reset_index(drop=True)


class _Best:
    """The best unions of one size by one score, for each pattern, as they come."""

    def __init__(self, n_patterns: int, n_top: int) -> None:
        self.n_top = n_top
        self.scores = [np.empty(0)] * n_patterns
        self.unions: list[np.ndarray] = [np.empty((0, 0), np.int64)] * n_patterns

    def offer(self, unions: np.ndarray, scores: np.ndarray) -> None:
        for k in range(len(self.scores)):
            mine = np.nan_to_num(scores[:, k], nan=-np.inf)
            if len(self.scores[k]) == self.n_top:
                better = np.flatnonzero(mine > self.scores[k][-1])
            else:
                better = np.flatnonzero(np.isfinite(mine))
            if not len(better):
                continue
            if len(better) > self.n_top:
                better = np.sort(better[np.argpartition(-mine[better], self.n_top - 1)[: self.n_top]])
            together = np.concatenate([self.scores[k], mine[better]])
            order = np.argsort(-together, kind="stable")[: self.n_top]
            rows = unions[better].astype(np.int64)
            held = self.unions[k] if len(self.scores[k]) else rows[:0]
            self.scores[k], self.unions[k] = together[order], np.concatenate([held, rows])[order]


def link_regions(
    patterns: np.ndarray, regions: Regions, *, max_size: int = 3, n_top: int = 10, min_spots: int = 1
) -> RegionLinks:
    """Compare patterns with every region, every touching pair and every connected triple of regions.

    Parameters
    ----------
    patterns
        Shape (n, K); spots with a value that is not finite are left out.
    regions
        From :func:`atlasnmf.analysis.regions.regions_of`.
    max_size
        Largest union looked at exhaustively: 1, 2 or 3. Larger ones: :func:`search_unions`.
    n_top
        Unions kept of each size, for each pattern and score.
    min_spots
        Regions with fewer spots with patterns are left out.

    Raises
    ------
    BadInput
        The numbers of spots differ, or no region is left.
    BadOption
        No such size.

    References
    ----------
    Cahill et al., PNAS (2024), "Spatial neighborhood query", "Spatial correlation analysis and entity
    linking".

    Notes
    -----
    One pass over the spots sums patterns by region; a union of disjoint regions adds these sums, so
    unions cost no spots: 2 (m K) additions for m unions of two sizes of sums. Two million triples of 11
    patterns take a few seconds; memory beside the sums is one run of 65,536 unions.

    Examples
    --------
    >>> from atlasnmf.analysis.regions import regions_of
    >>> from atlasnmf.graph.grid import grid_graph
    >>> regions = regions_of(list("aabbcd"), grid_graph(np.column_stack([np.arange(6), np.zeros(6)])))
    >>> links = link_regions(np.array([[0.0], [0], [1], [1], [1], [0]]), regions)
    >>> links.best()["regions"].tolist(), links.n_unions
    (['b+c'], (4, 3, 2))
    """
    if max_size not in (1, 2, 3):
        raise BadOption(f"unions of up to {max_size} regions cannot all be looked at; take 1, 2 or 3")
    sums, kept = _usable(patterns, regions, min_spots)
    small = Regions(
        tuple(np.array(regions.names, dtype=object)[kept]),
        regions.labels,
        regions.contains[kept],
        regions.adjacent[np.ix_(kept, kept)],
    )
    n_patterns = sums.deviations.shape[1]
    counts, rows = [], []
    for size in range(1, max_size + 1):
        best = {score: _Best(n_patterns, n_top) for score in _SCORES}
        n_unions = 0
        for unions in _gathered(_unions(small, size)):
            n_unions += len(unions)
            best["pearson"].offer(unions, sums.pearson(unions))
            best["dice"].offer(unions, sums.dice(unions))
        counts.append(n_unions)
        rows += [_rows(sums, small.names, score, size, best[score]) for score in _SCORES]
    singles = np.arange(len(kept))[:, None]
    import pandas as pd

    return RegionLinks(
        small.names,
        sums.sizes.astype(np.int64),
        sums.pearson(singles),
        sums.dice(singles),
        tuple(counts),
        pd.concat(rows, ignore_index=True),
    )


def _usable(patterns: np.ndarray, regions: Regions, min_spots: int) -> tuple[RegionSums, np.ndarray]:
    sums = region_sums(patterns, regions.labels, regions.contains)
    kept = np.flatnonzero(sums.sizes >= max(min_spots, 1))
    if not len(kept):
        raise BadInput(f"no region has {min_spots} spots with patterns; lower the number")
    return sums.only(kept), kept


def _unions(regions: Regions, size: int) -> Iterator[np.ndarray]:
    if size == 1:
        yield np.arange(len(regions.names))[:, None]
    elif size == 2:
        yield regions.pairs()
    else:
        yield from regions.triples()


def _gathered(parts: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Join short runs of unions and cut long ones: fewer, even steps."""
    waiting: list[np.ndarray] = []
    n_waiting = 0
    for part in parts:
        for start in range(0, len(part), _CHUNK_ROWS):
            waiting.append(part[start : start + _CHUNK_ROWS])
            n_waiting += len(waiting[-1])
            if n_waiting >= _CHUNK_ROWS:
                yield np.concatenate(waiting)
                waiting, n_waiting = [], 0
    if waiting:
        yield np.concatenate(waiting)


def _rows(sums: RegionSums, names: tuple[str, ...], score: str, size: int, best: _Best) -> pd.DataFrame:
    import pandas as pd

    parts = []
    for pattern, unions in enumerate(best.unions):
        if not len(best.scores[pattern]):
            continue
        parts.append(
            pd.DataFrame(
                {
                    "pattern": pattern,
                    "score": score,
                    "size": size,
                    "rank": np.arange(len(unions)),
                    "regions": ["+".join(names[region] for region in union) for union in unions],
                    "pearson": sums.pearson(unions)[:, pattern],
                    "dice": sums.dice(unions)[:, pattern],
                    "n_spots": sums.sizes[unions].sum(axis=1).astype(np.int64),
                }
            )
        )
    return pd.concat(parts) if parts else pd.DataFrame()


def search_unions(
    patterns: np.ndarray,
    regions: Regions,
    *,
    score: Score = "pearson",
    max_size: int = 8,
    width: int = 50,
    min_spots: int = 1,
) -> pd.DataFrame:
    """Search larger unions: grow the best ones by a touching region, keep the best of what comes out.

    Parameters
    ----------
    patterns, regions, min_spots
        As in :func:`link_regions`.
    score
        What is best: ``"pearson"`` or ``"dice"``.
    max_size
        Regions of a union at most.
    width
        Unions kept of each size, the width of the beam.

    Returns
    -------
    pandas.DataFrame
        A row per pattern: ``pattern``, ``size``, ``regions``, ``pearson``, ``dice``, ``n_spots``.

    Raises
    ------
    BadOption
        No such score.

    Notes
    -----
    A pattern's search ends when two sizes in a row bring nothing better. The answer is at least as good as
    the best single region; with ``width`` no smaller than the number of regions also as the best pair.

    Examples
    --------
    >>> from atlasnmf.analysis.regions import regions_of
    >>> from atlasnmf.graph.grid import grid_graph
    >>> regions = regions_of(list("abcdef"), grid_graph(np.column_stack([np.arange(6), np.zeros(6)])))
    >>> search_unions(np.array([[0.0], [1], [1], [1], [1], [0]]), regions)["regions"].tolist()
    ['b+c+d+e']
    """
    if score not in _SCORES:
        raise BadOption(f"no score {score!r}; choose pearson or dice")
    sums, kept = _usable(patterns, regions, min_spots)
    names = tuple(np.array(regions.names, dtype=object)[kept])
    adjacent, disjoint = regions.adjacent[np.ix_(kept, kept)], regions.disjoint[np.ix_(kept, kept)]
    rate = sums.pearson if score == "pearson" else sums.dice
    import pandas as pd

    rows = []
    for pattern in range(sums.deviations.shape[1]):
        union = _grown(pattern, rate, adjacent, disjoint, max_size, width)
        if union is None:
            continue
        rows.append(
            {
                "pattern": pattern,
                "size": len(union),
                "regions": "+".join(names[region] for region in union),
                "pearson": float(sums.pearson(union[None])[0, pattern]),
                "dice": float(sums.dice(union[None])[0, pattern]),
                "n_spots": int(sums.sizes[union].sum()),
            }
        )
    return pd.DataFrame(rows)


def _grown(
    pattern: int, rate: object, adjacent: np.ndarray, disjoint: np.ndarray, max_size: int, width: int
) -> np.ndarray | None:
    beam = np.arange(len(adjacent))[:, None]
    best, best_score, without_gain = None, -np.inf, 0
    for _ in range(max_size):
        scores = np.nan_to_num(rate(beam)[:, pattern], nan=-np.inf)  # type: ignore[operator]
        order = np.argsort(-scores, kind="stable")[:width]
        order = order[np.isfinite(scores[order])]
        if not len(order):
            break
        if scores[order[0]] > best_score + 1e-12:
            best, best_score, without_gain = beam[order[0]], scores[order[0]], 0
        else:
            without_gain += 1
            if without_gain == 2:
                break
        beam = _extended(beam[order], adjacent, disjoint)
        if not len(beam):
            break
    return best


def _extended(beam: np.ndarray, adjacent: np.ndarray, disjoint: np.ndarray) -> np.ndarray:
    """Return all unions one touching region larger, each once."""
    allowed = adjacent[beam].any(axis=1) & disjoint[beam].all(axis=1)
    rows, added = np.nonzero(allowed)
    return np.unique(np.sort(np.column_stack([beam[rows], added]), axis=1), axis=0)
