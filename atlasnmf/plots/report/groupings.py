"""Domains and other groups of spots: a map with its colours, and how much of each slice they take."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from atlasnmf.plots.panels import bar_text
from atlasnmf.plots.report.facts import Scene, group_columns, scene_of
from atlasnmf.plots.report.mosaic import Picture
from atlasnmf.plots.report.survey import Groups, commonest
from atlasnmf.plots.style import category_colours

if TYPE_CHECKING:
    from atlasnmf.store.atlas import Atlas

__all__ = ["Grouping", "groupings"]

#: Of a map over the whole page, pixels.
_WIDTH = 1000


@dataclass(frozen=True)
class Grouping:
    """A grouping as the page shows it: the map, colours with names and sizes, shares by slice."""

    title: str
    picture: Picture
    entries: tuple[tuple[str, str, int], ...]
    n_missing: int
    bar: str
    slices: tuple[str, ...]
    shares: tuple[tuple[float, ...], ...]


def groupings(atlas: Atlas, *, unit: str, most_pixels: int) -> list[Grouping]:
    """Return the groupings of an atlas, read column by column; none for a volume's many regions."""
    tables = list(atlas.tables)
    columns = group_columns(atlas, tables)
    scenes: dict[tuple[str, ...], Scene] = {}
    shown = []
    for groups in columns:
        # a slice without any group would be one grey blot
        starts = np.cumsum([0, *(table.n_spots for table in tables)])
        has = [bool((groups.codes[a:b] >= 0).any()) for a, b in pairwise(starts)]
        chosen = [table for table, there in zip(tables, has, strict=True) if there]
        names = tuple(table.name for table in chosen)
        if names not in scenes:
            scenes[names] = scene_of(atlas, chosen, unit=unit, width=_WIDTH, most_pixels=3 * most_pixels)
        kept = np.repeat(has, np.diff(starts))
        shown.append(_shown(scenes[names], Groups(groups.title, groups.names, groups.codes[kept])))
    return shown


def _shown(scene: Scene, groups: Groups) -> Grouping:
    from matplotlib.colors import to_hex

    colours = category_colours(len(groups.names))
    behind = commonest(scene.mosaic, scene.place, groups.codes, len(groups.names))
    known = groups.codes >= 0
    sizes = np.bincount(groups.codes[known], minlength=len(groups.names))
    n_slices = len(scene.slices.names)
    table = np.zeros((n_slices, len(groups.names)))
    np.add.at(table, (scene.slices.codes[known], groups.codes[known]), 1)
    table /= np.maximum(table.sum(axis=1, keepdims=True), 1)
    return Grouping(
        title=groups.title,
        picture=scene.mosaic.paint_groups(behind, colours),
        entries=tuple(
            (name, to_hex(colour), int(size))
            for name, colour, size in zip(groups.names, colours, sizes, strict=True)
        ),
        n_missing=int((~known).sum()),
        bar=bar_text(scene.mosaic.bar[0], scene.mosaic.unit),
        slices=scene.slices.names,
        shares=tuple(tuple(row) for row in table.tolist()),
    )
