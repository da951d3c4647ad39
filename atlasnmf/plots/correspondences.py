"""Spots that correspond: lines between slices, labels flowing from one to the other, registration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.plots.axes import axes_grid, colour_bar, one_axes
from atlasnmf.plots.colourings import colouring_of
from atlasnmf.plots.panels import scale_bar
from atlasnmf.plots.stored import unit_of
from atlasnmf.plots.style import CONTINUOUS, MISSING, category_colours, styled
from atlasnmf.seeds import rng_for
from atlasnmf.store.atlas import opened
from atlasnmf.store.matches import stored_matches
from atlasnmf.store.names import no_such

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from atlasnmf.store.atlas import Atlas, AtlasLike

__all__ = ["label_flow", "matches", "registration"]

_MEND = "run atlasnmf fit spatialfuser first"
#: Colours of the two slices of a registration: told apart by any eye, also where they overlap.
_TWO = ("#d55e00", "#0072b2")


@dataclass(frozen=True)
class _Pairs:
    """Numbers of matched spots in the atlas, and their scores."""

    source: np.ndarray
    target: np.ndarray
    score: np.ndarray
    slices: tuple[str, str]


def _pairs(atlas: Atlas, key: str, slices: Sequence[str] | None, all_pairs: bool) -> _Pairs:
    """Read the matches of one pair of slices; the pair with most matches when none is asked for."""
    name = f"{key}_matches"
    found = stored_matches(atlas, name)
    found = found if all_pairs else found.kept()
    ends, score = (found.source, found.target), found.score
    codes, names = atlas.slice_codes(), [info.name for info in atlas.slices]
    if not len(score):
        raise BadInput(f"no pair of {name!r} passed quality control; draw all with all_pairs=True")
    of = np.column_stack([codes[ends[0]], codes[ends[1]]])
    if slices is None:
        both, counts = np.unique(of, axis=0, return_counts=True)
        wanted = both[np.argmax(counts)]
    else:
        if len(slices) != 2:
            raise BadOption(f"matches join two slices, got {len(slices)}; name two")
        for one in slices:
            if one not in names:
                raise BadOption(no_such("slice", one, names, atlas.name))
        wanted = np.array([names.index(one) for one in slices])
    turned = (of == wanted[::-1]).all(axis=1)
    here = (of == wanted).all(axis=1) | turned
    if not here.any():
        raise BadInput(f"no pair joins {names[wanted[0]]!r} and {names[wanted[1]]!r} in {name!r}")
    source = np.where(turned, ends[1], ends[0])[here]
    target = np.where(turned, ends[0], ends[1])[here]
    return _Pairs(source, target, score[here], (names[wanted[0]], names[wanted[1]]))


def matches(
    atlas: AtlasLike,
    key: str = "spatialfuser",
    *,
    slices: Sequence[str] | None = None,
    color: str | int | None = None,
    factors: str | None = None,
    n_lines: int = 300,
    all_pairs: bool = False,
    unit: str = "",
    cmap: str = CONTINUOUS,
    panel_width: float = 6.0,
    random_state: int = 0,
    axes: Axes | None = None,
) -> Axes:
    """Draw two slices side by side and lines between spots that match, coloured by score.

    Parameters
    ----------
    atlas
        An open atlas, the path of a store, or data in memory.
    key
        The result; table ``<key>_matches`` is read.
    slices
        Two slices; those with the most matches when not given.
    color
        What colours the spots: an obs column, or the number of a factor of ``factors``; grey when not given.
    factors
        Result that a number of a factor belongs to.
    n_lines
        Lines drawn, a random sample of the pairs.
    all_pairs
        Also pairs that did not pass quality control.
    unit
        Of the coordinates, as in :func:`atlasnmf.pl.factors`.
    cmap, panel_width
        Colours of scores, and inches.
    random_state
        Seed of the sample.
    axes
        Axes to draw on; a new figure when not given.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    BadInput
        There are no matches, or none between these slices.
    BadOption
        There is no such slice.

    Examples
    --------
    >>> import atlasnmf as an
    >>> axes = an.pl.matches("sections.zarr", color="domain", n_lines=100)
    >>> axes.figure.savefig("matches.png")
    """
    atlas = opened(atlas)
    pairs = _pairs(atlas, key, slices, all_pairs)
    colouring = None if color is None else colouring_of(atlas, color, factors or key)
    codes, names = atlas.slice_codes(), [info.name for info in atlas.slices]
    xy = np.asarray(atlas.coordinates(), np.float64)[:, :2]
    rows = [np.flatnonzero(codes == names.index(name)) for name in pairs.slices]
    shift = _beside(xy, rows)
    drawn = rng_for(random_state, "plots", "matches").permutation(len(pairs.score))[:n_lines]
    drawn = drawn[np.argsort(pairs.score[drawn], kind="stable")]
    with styled():
        from matplotlib.collections import LineCollection

        axes = one_axes(axes, panel_width, 0.55 * panel_width)
        for own, offset, name in zip(rows, shift, pairs.slices, strict=True):
            places = xy[own] + offset
            colours = MISSING if colouring is None else colouring.rgba(own)
            size = float(np.clip(8_000 / max(len(own), 1), 0.2, 14.0))
            axes.scatter(places[:, 0], places[:, 1], c=colours, s=size, linewidths=0, rasterized=True)
            top = places[:, 1].min()
            axes.text(places[:, 0].mean(), top, name, ha="center", va="bottom", fontsize=9)
        ends = np.stack([xy[pairs.source[drawn]] + shift[0], xy[pairs.target[drawn]] + shift[1]], axis=1)
        lines = LineCollection(list(ends), cmap=cmap, linewidths=0.5, alpha=0.8, rasterized=True)
        lines.set_array(pairs.score[drawn])
        axes.add_collection(lines)
        axes.set_aspect("equal")
        axes.autoscale_view()
        axes.invert_yaxis()
        axes.set_axis_off()
        scale_bar(axes, unit or unit_of(atlas))
        colour_bar(lines, axes, "score", shrink=0.6, aspect=18)
        axes.set_title(f"{len(pairs.score):,} pairs, {len(drawn):,} drawn", fontsize=8)
    return axes


def _beside(xy: np.ndarray, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return shifts that put the first group of spots left of the second, centred at the same height."""
    lows, highs = zip(*((xy[own].min(axis=0), xy[own].max(axis=0)) for own in rows), strict=True)
    gap = 0.25 * max(highs[0][0] - lows[0][0], highs[1][0] - lows[1][0])
    middle = [-(low[1] + high[1]) / 2 for low, high in zip(lows, highs, strict=True)]
    left = np.array([-highs[0][0] - gap / 2, middle[0]])
    return [left, np.array([-lows[1][0] + gap / 2, middle[1]])]


def label_flow(
    atlas: AtlasLike,
    labels: str = "domains",
    key: str = "spatialfuser",
    *,
    slices: Sequence[str] | None = None,
    all_pairs: bool = False,
    least: float = 0.005,
    panel_width: float = 4.0,
    axes: Axes | None = None,
) -> Axes:
    """Draw how labels of one slice flow into those of another along matched pairs (a Sankey diagram).

    Parameters
    ----------
    atlas, key, slices, all_pairs
        As in :func:`matches`.
    labels
        obs column of labels in both slices; pairs with an end that has none are left out.
    least
        Flows of a smaller share of the pairs are not drawn.
    panel_width
        Inches.
    axes
        Axes to draw on; a new figure when not given.

    Returns
    -------
    matplotlib.axes.Axes
        Bars of the first slice left, of the second right, high as their shares of the pairs; in the title the
        share of pairs with the same label at both ends.

    Raises
    ------
    BadInput
        There are no matches or no such column, or no pair has labels at both ends.
    BadOption
        There is no such slice.

    Examples
    --------
    >>> import atlasnmf as an
    >>> axes = an.pl.label_flow("sections.zarr", "domain")
    >>> axes.figure.savefig("flow.png")
    """
    atlas = opened(atlas)
    pairs = _pairs(atlas, key, slices, all_pairs)
    groups = colouring_of(atlas, labels, key)
    if not groups.groups:
        raise BadInput(f"obs column {labels!r} holds numbers; give a column of labels")
    ends = np.column_stack([groups.values[pairs.source], groups.values[pairs.target]])
    ends = ends[np.isfinite(ends).all(axis=1)].astype(np.int64)
    if not len(ends):
        raise BadInput(f"no matched pair has obs[{labels!r}] at both ends")
    n = len(groups.groups)
    flows = np.bincount(ends[:, 0] * n + ends[:, 1], minlength=n * n).reshape(n, n) / len(ends)
    with styled():
        axes = one_axes(axes, panel_width, panel_width)
        _sankey(axes, flows, groups.groups, category_colours(n), least)
        for x, name in zip((0.0, 1.0), pairs.slices, strict=True):
            axes.text(x, -0.02, name, ha="center", va="bottom", fontsize=9)
        same = float((ends[:, 0] == ends[:, 1]).mean())
        axes.set_title(f"{len(ends):,} pairs, {same:.0%} with the same label", fontsize=8, pad=14)
    return axes


def _sankey(
    axes: Axes, flows: np.ndarray, names: Sequence[str], colours: Sequence[Any], least: float
) -> None:
    from matplotlib.patches import PathPatch, Rectangle
    from matplotlib.path import Path

    gap, width = 0.015, 0.05
    starts = []
    for x, sizes in ((0.0, flows.sum(axis=1)), (1.0, flows.sum(axis=0))):
        top, tops = 0.0, np.zeros(len(names))
        for i in np.flatnonzero(sizes > 0).tolist():
            tops[i] = top
            axes.add_patch(Rectangle((x - width / 2, top), width, sizes[i], color=colours[i], linewidth=0))
            side, align = (x - 0.04, "right") if x == 0 else (x + 0.04, "left")
            axes.text(side, top + sizes[i] / 2, names[i], ha=align, va="center", fontsize=7)
            top += sizes[i] + gap
        starts.append(tops)
    left, right = (tops.copy() for tops in starts)
    for i, j in np.argwhere(flows > 0).tolist():
        size = flows[i, j]
        a, b = left[i], right[j]
        left[i], right[j] = a + size, b + size
        if size < least:
            continue
        x0, x1 = width / 2, 1 - width / 2
        points = [(x0, a), (0.5, a), (0.5, b), (x1, b), (x1, b + size), (0.5, b + size), (0.5, a + size)]
        points += [(x0, a + size), (x0, a)]
        steps = [Path.MOVETO, *[Path.CURVE4] * 3, Path.LINETO, *[Path.CURVE4] * 3, Path.CLOSEPOLY]
        axes.add_patch(PathPatch(Path(points, steps), facecolor=colours[i], alpha=0.45, linewidth=0))
    axes.set_xlim(-0.45, 1.45)
    axes.set_ylim(1.0 + gap * len(names), -0.06)
    axes.set_axis_off()


def registration(
    atlas: AtlasLike,
    key: str = "spatialfuser",
    *,
    slices: Sequence[str] | None = None,
    n_shown: int = 40_000,
    unit: str = "",
    panel_width: float = 3.0,
    random_state: int = 0,
    axes: Any = None,
) -> np.ndarray:
    """Draw two slices over each other: as they are stored, and as they were aligned.

    Parameters
    ----------
    atlas
        An open atlas, the path of a store, or data in memory.
    key
        The result; ``obsm["<key>_aligned"]`` is read.
    slices
        Two slices; the first two with aligned coordinates when not given.
    n_shown
        Spots of each slice that are drawn.
    unit
        Of the coordinates, as in :func:`atlasnmf.pl.factors`.
    panel_width
        Inches.
    random_state
        Seed of the spots shown.
    axes
        Two axes to draw on; a new figure when not given.

    Returns
    -------
    numpy.ndarray
        Axes before and after, shape (2,), each with a scale bar.

    Raises
    ------
    BadInput
        Fewer than two slices have aligned coordinates.
    BadOption
        There is no such slice, or another number of axes was given.

    Examples
    --------
    >>> import atlasnmf as an
    >>> before, after = an.pl.registration("sections.zarr")
    >>> after.figure.savefig("registration.png")
    """
    atlas = opened(atlas)
    aligned = np.full((atlas.n_spots, 2), np.nan)
    for table, spots in atlas.table_spots():
        if f"{key}_aligned" in table.keys("obsm"):
            aligned[spots] = np.asarray(table.obsm(f"{key}_aligned"))[:, :2]
    codes, names = atlas.slice_codes(), [info.name for info in atlas.slices]
    there = [names[code] for code in np.unique(codes[np.isfinite(aligned).all(axis=1)])]
    for name in slices or ():
        if name not in there:
            raise BadOption(no_such("aligned slice", name, there, atlas.name))
    chosen = list(slices or there[:2])
    if len(chosen) != 2:
        raise BadInput(
            f"{len(chosen)} slices of {atlas.name} have obsm['{key}_aligned'] where two are needed; {_MEND}"
        )
    rng = rng_for(random_state, "plots", "registration")
    rows = [
        np.flatnonzero((codes == names.index(name)) & np.isfinite(aligned).all(axis=1)) for name in chosen
    ]
    rows = [np.sort(rng.permutation(own)[:n_shown]) for own in rows]
    before = np.asarray(atlas.coordinates(), np.float64)[:, :2]
    with styled():
        made = axes_grid(axes, 2, "panel", n_columns=2, width=panel_width, height=panel_width)
        both = np.concatenate(rows)
        for axis, places, title in zip(made, (before, aligned), ("as stored", "aligned"), strict=True):
            for own, colour, name in zip(rows, _TWO, chosen, strict=True):
                size = float(np.clip(6_000 / max(len(own), 1), 0.2, 10.0))
                axis.scatter(
                    *places[own].T, s=size, color=colour, alpha=0.5, linewidths=0, rasterized=True, label=name
                )
            low, high = places[both].min(axis=0), places[both].max(axis=0)
            margin = 0.04 * np.maximum(high - low, 1e-9)
            axis.set_xlim(low[0] - margin[0], high[0] + margin[0])
            axis.set_ylim(high[1] + margin[1], low[1] - margin[1])
            axis.set_aspect("equal", adjustable="box")
            axis.set_axis_off()
            axis.set_title(title)
            scale_bar(axis, unit or unit_of(atlas))
        made[1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), markerscale=3)
    return made
