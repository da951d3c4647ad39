"""Figures that only some models have: slice effects, instability, hidden genes, platforms, training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from atlasnmf.plots.report.facts import Found
from atlasnmf.plots.report.mosaic import Picture
from atlasnmf.plots.report.pictures import picture_of

__all__ = ["Figure", "figures_of"]


@dataclass(frozen=True)
class Figure:
    """A picture with its title, what it says, and its text for those who do not see it."""

    title: str
    text: str
    picture: Picture
    alt: str


def figures_of(found: Found) -> list[Figure]:
    """Return the figures of a result: those of its model, then how the fit went."""
    makers = (_slice_effects, _stability, _held_out, _linked, _matched, _regions, _history)
    return [figure for make in makers for figure in make(found)]


def _history(found: Found) -> list[Figure]:
    from atlasnmf import plots

    history = found.record.get("history")
    if not isinstance(history, Mapping) or not any(
        np.asarray(values).dtype.kind in "fiu" and len(values)
        for name, values in history.items()
        if name not in ("step", "pass", "epoch", "iteration")
    ):
        return []
    text = "Curves that still fall at the end ask for more steps."
    picture = picture_of(plots.history(history), 90)
    return [Figure("Training", text, picture, "Figures of the fit over its steps")]


def _slice_effects(found: Found) -> list[Figure]:
    effects = found.record.get("gamma")
    if effects is None:
        return []
    spread = np.nanstd(np.asarray(effects, float), axis=1)
    names = [str(name) for name in np.atleast_1d(found.record.get("slices", range(len(spread))))]
    return [
        _bars(
            "Effects of the slices",
            names,
            spread,
            "spread of log effects over genes",
            "How much each slice's genes were raised or lowered to agree with the others: "
            "a slice far above the rest differs in protocol or in quality.",
        )
    ]


def _bars(title: str, names: list[str], values: np.ndarray, label: str, text: str) -> Figure:
    import matplotlib.pyplot as plt

    from atlasnmf.plots.style import category_colours, styled

    with styled():
        _, axes = plt.subplots(figsize=(4.6, 0.5 + 0.2 * len(names)), layout="constrained")
        axes.barh(range(len(names)), values, color=category_colours(1)[0])
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlabel(label)
        picture = picture_of(axes)
    said = ", ".join(f"{name} {value:.2g}" for name, value in zip(names, values, strict=True))
    return Figure(title, text, picture, f"{title}: {said}")


def _stability(found: Found) -> list[Figure]:
    from atlasnmf import plots

    record = found.record
    if "ranks" not in record or "instability_hungarian_mean" not in record:
        return []
    text = (
        f"How much patterns change when the data are perturbed, by their number; {record.get('rank')} "
        "were kept. A clear minimum is a number the data ask for; a curve that only rises means structure at "
        "several scales."
    )
    return [
        Figure(
            "Number of patterns",
            text,
            picture_of(plots.instability(record)),
            "Instability by number of patterns",
        )
    ]


def _regions(found: Found) -> list[Figure]:
    from atlasnmf import plots

    if not any(f"{found.key}_regions" in table.keys("uns") for table in found.atlas.tables):
        return []
    text = "Correlation of each pattern with the regions it agrees with most."
    picture = picture_of(plots.region_bubbles(found.atlas, found.key))
    return [Figure("Patterns and regions", text, picture, "Correlation of patterns with regions")]


def _held_out(found: Found) -> list[Figure]:
    from atlasnmf import plots

    table = found.record.get("holdout")
    if not isinstance(table, Mapping) or "r2" not in table:
        return []
    genes, scores = np.asarray(table["gene"], dtype=object), np.asarray(table["r2"], float)
    order = np.argsort(-np.nan_to_num(scores, nan=-1.0), kind="stable")
    best = ", ".join(f"{genes[i]} {scores[i]:.2f}" for i in order[:5])
    worst = ", ".join(f"{genes[i]} {scores[i]:.2f}" for i in order[::-1][:5])
    text = (
        f"{len(genes)} genes were hidden from the fine slice and imputed. Best: {best}. Worst: {worst}. "
        "Genes with few counts cannot score high whatever is done: their noise is not to be imputed."
    )
    picture = picture_of(plots.holdout(found.record))
    return [Figure("Hidden genes", text, picture, f"R2 of {len(genes)} hidden genes by their counts")]


def _linked(found: Found) -> list[Figure]:
    links = found.record.get("links")
    scaling = found.record.get("platform_scaling", found.record.get("scaling"))
    if scaling is None or not np.size(scaling):
        return []
    import matplotlib.pyplot as plt

    from atlasnmf.plots.style import category_colours, styled

    ratios = np.asarray(scaling, float)
    # 1 stands for genes of the coarse slice alone, of which nothing is known
    values = np.log10(ratios[(ratios > 0) & (ratios != 1.0)])
    if not len(values):
        return []
    with styled():
        _, axes = plt.subplots(figsize=(3.6, 2.0), layout="constrained")
        axes.hist(values, bins=40, color=category_colours(1)[0])
        axes.set_xlabel("log10 of the platform scaling")
        axes.set_ylabel("genes")
        picture = picture_of(axes)
    said = ""
    if isinstance(links, Mapping):
        plain = {name: value for name, value in links.items() if isinstance(value, int | float | np.number)}
        said = ", ".join(f"{name.replace('_', ' ')} {float(value):.4g}" for name, value in plain.items())
    text = "What the coarse platform sees of a gene relative to the fine one." + (
        f" Links: {said}." if said else ""
    )
    return [Figure("Platforms", text, picture, "Histogram of the platform scaling of genes")]


def _matched(found: Found) -> list[Figure]:
    """Return matches, registration and the flow of labels, as far as they are stored."""
    from atlasnmf import plots
    from atlasnmf.errors import AtlasError
    from atlasnmf.plots.report.facts import group_columns

    atlas, key = found.atlas, found.key
    if not atlas.has_table(f"{key}_matches"):
        return []
    groups = [group.title for group in group_columns(atlas, list(atlas.tables))][:1]
    text = {
        "Matches": "Spots that correspond, a sample of the pairs that passed quality control.",
        "Registration": "Two slices over each other, before and after alignment.",
        "Flow of labels": "Where the labels of one slice go along the pairs: straight bands are agreement.",
    }
    makers: dict[str, Callable[[], Any]] = {
        "Matches": lambda: plots.matches(atlas, key, color=groups[0] if groups else None, unit=found.unit),
        "Registration": lambda: plots.registration(atlas, key, unit=found.unit),
        "Flow of labels": lambda: plots.label_flow(atlas, groups[0], key),
    }
    figures = []
    for title, make in makers.items():
        if title == "Flow of labels" and not groups:
            continue
        try:
            axes = make()
        except AtlasError:
            continue  # pairs that all failed, or slices never aligned: the figures that can be drawn remain
        said = np.ravel(np.asarray(axes, dtype=object))[0].get_title()
        figures.append(Figure(title, text[title], picture_of(axes), f"{title}: {said}"))
    return figures + _unmatched(found)


def _unmatched(found: Found) -> list[Figure]:
    """Return the share of each label that found no partner, from the stored summary of matches."""
    name = f"{found.key}_matches_summary"
    record = next((t.uns(name) for t in found.atlas.tables if name in t.keys("uns")), None)
    if not isinstance(record, Mapping) or "unmatched" not in record:
        return []
    slices, labels = (np.asarray(record[column], dtype=object) for column in ("slice", "label"))
    shares = np.asarray(record["unmatched"], np.float64)
    order = np.argsort(-shares, kind="stable")[:20]
    names = [f"{slices[i]}: {labels[i]}" for i in order]
    text = "Share of the spots of a label without a partner: tissue that is new or lost stands first."
    return [_bars("Unmatched", names, shares[order], "share of the spots", text)]
