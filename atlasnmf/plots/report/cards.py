"""One card per factor: its map, the genes that set it apart, what they are enriched in, where it lives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from atlasnmf.plots.report.facts import Found, Scene, gene_weights, scene_of
from atlasnmf.plots.report.mosaic import Picture
from atlasnmf.plots.report.survey import Groups, Survey, survey

if TYPE_CHECKING:
    from atlasnmf.store.tables import TableHandle

__all__ = ["Card", "Home", "cards", "enriched_sets", "telling_genes"]

_TOP_GENES, _STRONG_GENES, _TOP_SETS, _TOP_HOMES = 10, 50, 5, 5
#: Groups with less than this share of the strongest group's mean are not named.
_NOTHING = 0.01
#: Pixels over which the end of the colours is taken, from the largest.
_END = 0.99
_CHANCE = 0.05


@dataclass(frozen=True)
class Home:
    """Mean of a factor in one group of spots, and that mean as a share of the largest."""

    name: str
    mean: float
    share: float


@dataclass(frozen=True)
class Card:
    """What one factor looks like and what makes it.

    Parameters
    ----------
    number
        Column of the factor, from 0.
    maps
        Pictures with their captions.
    genes
        The genes that set it apart.
    sets
        Enriched gene sets, each with the chance of seeing as much without enrichment.
    homes
        By grouping: the groups in which it is strongest.
    overall
        Mean over all spots.
    """

    number: int
    maps: tuple[tuple[str, Picture], ...]
    genes: tuple[str, ...]
    sets: tuple[tuple[str, float], ...]
    homes: Mapping[str, tuple[Home, ...]]
    overall: float


def cards(
    found: Found, columns: list[Groups], scenes: list[tuple[str, Scene]], surveys: list[Survey]
) -> Iterator[Card]:
    """Yield the cards of a result, in the order of its factors."""
    weights = gene_weights(found)
    sets = enriched_sets(found)
    for k in range(surveys[0].n_factors if surveys else 0):
        maps, homes = [], {}
        for (caption, scene), seen in zip(scenes, surveys, strict=True):
            if k < seen.n_factors:
                maps.append((caption, _map(scene, seen, k)))
        for title, means in surveys[0].by_group.items():
            names = next(g.names for g in (scenes[0][1].slices, *columns) if g.title == title)
            homes[title] = _homes(names, means[:, k])
        genes = () if weights is None or k >= weights[1].shape[1] else telling_genes(*weights, k)
        yield Card(k, tuple(maps), genes, sets.get(k, ()), homes, float(surveys[0].overall[k]))


def surveys_of(
    found: Found, columns: dict[str, list[Groups]], *, most_pixels: int
) -> tuple[list[tuple[str, Scene]], list[Survey]]:
    """Read every array of factors once; the first array's tables are also averaged by group."""
    scenes: list[tuple[str, Scene]] = []
    read: list[Survey] = []
    arrays = found.factor_arrays()
    for key, tables in arrays.items():
        scene = scene_of(found.atlas, tables, unit=found.unit, most_pixels=most_pixels // len(arrays))
        groups = [scene.slices, *columns.get(key, [])] if not read else []
        read.append(survey(tables, key, scene.mosaic, scene.place, groups))
        scenes.append((caption_of(key, tables) if len(arrays) > 1 else "", scene))
    return scenes, read


def caption_of(key: str, tables: list[TableHandle]) -> str:
    """Return what a map shows when a factor has several."""
    return f"{', '.join(table.name for table in tables)}: {key}"


def _map(scene: Scene, seen: Survey, k: int) -> Picture:
    column = seen.means[:, k]
    finite = column[np.isfinite(column)]
    if not len(finite):
        return scene.mosaic.paint(column, 1.0)
    low = float(np.quantile(finite, 1 - _END)) if finite.min() < 0 else 0.0
    high = float(np.quantile(finite, _END))
    # a factor of few spots ends at its strongest pixel
    return scene.mosaic.paint(column, high if high > low else max(float(finite.max()), 1e-12), start=low)


def _homes(names: tuple[str, ...], means: np.ndarray) -> tuple[Home, ...]:
    largest = np.nanmax(means) if np.isfinite(means).any() else 0.0
    if largest <= 0:
        return ()
    order = [
        i
        for i in np.argsort(-np.nan_to_num(means, nan=-np.inf), kind="stable")
        if means[i] > _NOTHING * largest
    ]
    return tuple(Home(names[i], float(means[i]), float(means[i] / largest)) for i in order[:_TOP_HOMES])


def telling_genes(genes: np.ndarray, weights: np.ndarray, k: int, n_top: int = _TOP_GENES) -> tuple[str, ...]:
    """Return genes that name a factor: strong there, and stronger there than elsewhere.

    Of the 50 largest weights, those largest relative to the gene's mean over factors: not the genes
    that are merely abundant.

    Examples
    --------
    >>> weights = np.array([[0.8, 0.7], [0.2, 0.0], [0.0, 0.3]])
    >>> telling_genes(np.array(["Actb", "Shh", "Hoxa1"]), weights, 0, 2)
    ('Shh', 'Actb')
    """
    strong = np.argsort(-weights[:, k], kind="stable")[:_STRONG_GENES]
    strong = strong[weights[strong, k] > 0]
    lift = weights[strong, k] / (weights[strong].mean(axis=1) + 1e-12)
    return tuple(genes[strong[np.argsort(-lift, kind="stable")][:n_top]].tolist())


def enriched_sets(found: Found) -> dict[int, tuple[tuple[str, float], ...]]:
    """Return the gene sets of every factor from ``uns["<key>_enrichment"]``, the smallest q first.

    Over-representation where it was tested, else GSEA's sets at the top of the ranking; q of at most 0.05.
    """
    name = f"{found.key}_enrichment"
    record = next((table.uns(name) for table in found.atlas.tables if name in table.keys("uns")), None)
    if not isinstance(record, Mapping) or "gene_sets" not in record:
        return {}
    names = np.asarray(record["gene_sets"], dtype=object)
    if isinstance(record.get("over_representation"), Mapping):
        q = np.asarray(record["over_representation"]["q"], np.float64)
    elif isinstance(record.get("gsea"), Mapping):
        at_top = np.asarray(record["gsea"]["score"], np.float64) > 0
        q = np.where(at_top, np.asarray(record["gsea"]["q"], np.float64), np.inf)
    else:
        return {}
    best = np.argsort(q, axis=1, kind="stable")[:, :_TOP_SETS]
    return {
        k: tuple((str(names[i]), float(q[k, i])) for i in best[k] if q[k, i] <= _CHANCE)
        for k in range(len(q))
    }
