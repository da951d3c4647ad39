"""From facts to what the page shows: one section a result, with what is particular to its model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from atlasnmf.plots.report.cards import Card, cards, surveys_of
from atlasnmf.plots.report.facts import Found, group_columns
from atlasnmf.plots.report.particulars import Figure, figures_of
from atlasnmf.plots.report.pictures import picture_of
from atlasnmf.plots.report.survey import Groups
from atlasnmf.result_names import are_shares

__all__ = ["Quality", "Section", "section_of"]

#: What is said of a figure of quality where it is shown.
_MEANING = {
    "ari": "agreement with the labels over pairs of spots, corrected for chance: 1 perfect, 0 chance",
    "nmi": "information that clusters and labels share: 1 perfect",
    "asw": "how separated the labels are in the embedding (silhouette): 1 apart, 0 mixed",
    "r2": "squared correlation of imputed and measured counts over cells, mean over hidden genes",
    "pearson": "correlation of imputed and measured counts, mean over hidden genes",
    "spearman": "rank correlation of imputed and measured counts, mean over hidden genes",
    "rmse": "error of standardised counts: 0 perfect",
    "js": "divergence of the distributions over cells: 0 perfect",
    "ssim": "structural similarity: 1 perfect",
    "loss": "what the fit made small; comparable between fits of the same data and model only",
}
#: Figures whose names are abbreviations.
_SHORT = {"ari": "ARI", "nmi": "NMI", "asw": "ASW", "r2": "R2", "rmse": "RMSE", "js": "JS", "ssim": "SSIM"}
_ABOUT = {
    "inspire": "INSPIRE: one embedding of all slices and one set of non-negative factors. "
    "A factor is a share of every spot; shares of a spot sum to 1.",
    "stanmf": "staNMF: the number of patterns that comes back most alike when the data are perturbed, "
    "and those patterns. A pattern is an amount, not a share.",
    "siid": "SIID: a fine and a coarse slice of one tissue factorised together. A factor is a share of "
    "every cell and of every spot; it imputes genes the panel lacks.",
    "spatialfuser": "SpatialFuser: embeddings of slices brought together, and pairs of spots "
    "that correspond.",
}
_BASELINE = "smoothed PCA"


@dataclass(frozen=True)
class Quality:
    """One figure of quality beside its rival's."""

    name: str
    value: float
    rival: float | None
    meaning: str

    @property
    def title(self) -> str:
        """What the figure is called where it is shown."""
        return _SHORT.get(self.name, self.name)


@dataclass(frozen=True)
class Section:
    """What the page shows of one result."""

    key: str
    model: str
    about: str
    facts: tuple[tuple[str, str], ...]
    quality: tuple[Quality, ...]
    rival: str
    figures: tuple[Figure, ...]
    cards: tuple[Card, ...]
    slices: tuple[str, ...]
    bars: tuple[str, ...]
    shares: bool
    command: str
    params: Mapping[str, Any]
    versions: Mapping[str, str]
    warnings: tuple[str, ...] = field(default=())


def section_of(found: Found, *, most_pixels: int) -> Section:
    """Gather what there is to show of one result; arrays of factors are read once."""
    record = found.record
    arrays = found.factor_arrays()
    columns = {key: group_columns(found.atlas, tables) for key, tables in arrays.items()}
    positions = found.atlas.coordinates_of(found.atlas.tables[0])
    # a third coordinate that is the same everywhere makes no volume
    three = positions.shape[1] == 3 and bool((np.ptp(positions, axis=0) > 0).all())
    scenes, surveys = surveys_of(found, columns, most_pixels=most_pixels)
    chosen: list[Groups] = columns.get(next(iter(arrays), ""), [])
    made = tuple(cards(found, chosen, scenes, surveys))
    if three and made:
        made = _seen_along_axes(found, made)
    quality, rival = _quality(record)
    missing = [
        f"{seen.n_missing:,} of {seen.n_spots:,} spots were left out and have no result"
        for seen in surveys
        if seen.n_missing
    ]
    return Section(
        key=found.key,
        model=found.model,
        about=_ABOUT.get(found.model, f"A fit of the model {found.model}."),
        facts=_facts(record),
        quality=quality,
        rival=rival,
        figures=tuple(figures_of(found)),
        cards=made,
        slices=scenes[0][1].slices.names if scenes else (),
        bars=tuple(_bar(scene.mosaic, found.unit) for _, scene in scenes),
        shares=any(map(are_shares, arrays)),
        command=str(record.get("command", "")),
        params=record.get("params") or {},
        versions=record.get("versions") or {},
        warnings=(*map(str, record.get("warnings", ())), *missing, *_doubts(record, quality, made)),
    )


def _bar(mosaic: Any, unit: str) -> str:
    from atlasnmf.plots.panels import bar_text

    return bar_text(mosaic.bar[0], unit)


def _facts(record: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return what was run, in words."""
    rows = [("Status", str(record.get("status", "unknown"))), ("Seed", str(record.get("seed", "unknown")))]
    if "slices" in record:
        slices = [str(name) for name in np.atleast_1d(record["slices"])]
        shown = ", ".join(slices[:8]) + (f" and {len(slices) - 8} more" if len(slices) > 8 else "")
        rows.append(("Slices", shown))
    if "n_spots" in record:
        rows.append(("Spots fitted", f"{int(np.sum(record['n_spots'])):,}"))
    if "n_genes" in record:
        rows.append(("Genes fitted", f"{int(np.max(record['n_genes'])):,}"))
    if "seconds" in record:
        rows.append(("Time of the fit", f"{float(record['seconds']):,.0f} s"))
    rows += _links((record.get("quality") or {}).get("links"))
    history = record.get("history")
    losses = _last_losses(history) if isinstance(history, Mapping) else np.empty(0)
    if len(losses):
        rows.append(("Loss, first to last", f"{losses[0]:.4g} to {losses[-1]:.4g} in {len(losses):,} steps"))
    return tuple(rows)


def _last_losses(history: Mapping[str, Any]) -> np.ndarray:
    """Return the losses of the steps that had the terms the last one has: a new term makes another loss."""
    known = {
        name: np.isfinite(np.asarray(values, float))
        for name, values in history.items()
        if np.asarray(values).dtype.kind in "fiu"
    }
    if "loss" not in known or not known["loss"].any():
        return np.empty(0)
    steps = np.flatnonzero(known["loss"])
    terms = np.stack([known[name][steps] for name in sorted(known)], axis=1)
    other = np.flatnonzero((terms != terms[-1]).any(axis=1))
    return np.asarray(history["loss"], float)[steps[other[-1] + 1 if len(other) else 0 :]]


def _links(links: Any) -> list[tuple[str, str]]:
    """Say of every pair of slices how many spots were matched; stored as columns."""
    if not isinstance(links, Mapping) or "n_pairs" not in links:
        return []
    names = ("source", "target", "n_pairs", "n_passed", "unmatched")
    columns = [np.atleast_1d(np.asarray(links[name], dtype=object)) for name in names]
    return [
        (
            f"{source} with {target}",
            f"{int(n_pairs):,} pairs, {int(n_passed):,} of them above chance; "
            f"{float(unmatched):.0%} of the spots unmatched",
        )
        for source, target, n_pairs, n_passed, unmatched in zip(*columns, strict=True)
    ]


def _quality(record: Mapping[str, Any]) -> tuple[tuple[Quality, ...], str]:
    quality = record.get("quality") or {}
    baseline = quality.get("baseline") or {}
    rival = _BASELINE if baseline else ""
    rows = []
    baselines = quality.get("baselines") or {}
    for name in _MEANING:
        value = quality.get(name)
        if not isinstance(value, int | float | np.number):
            continue
        other = baseline.get(name)
        if name == "r2" and baselines:
            best = max(baselines, key=lambda which: float(baselines[which]))
            other, rival = baselines[best], f"best baseline ({best})"
        rows.append(Quality(name, float(value), None if other is None else float(other), _MEANING[name]))
    return tuple(rows), rival


def _doubts(record: Mapping[str, Any], quality: tuple[Quality, ...], made: tuple[Card, ...]) -> list[str]:
    """Return what a careful reader would hold against a result."""
    doubts = []
    if str(record.get("status", "done")) != "done":
        doubts.append(f"the fit is not finished (status {record['status']})")
    for row in quality:
        if row.rival is not None and row.name in ("ari", "nmi", "r2") and row.value < row.rival:
            doubts.append(
                f"{row.title} of {row.value:.3f} is below that of the simple rival, {row.rival:.3f}: "
                "what the model adds does not show in this figure"
            )
    seen: dict[tuple[str, ...], int] = {}
    for card in made:
        same = next((k for genes, k in seen.items() if len(set(genes) & set(card.genes)) >= 8), None)
        if same is not None:
            doubts.append(f"factors {same} and {card.number} share most of their genes; fewer factors may do")
        elif card.genes:
            seen[card.genes] = card.number
    return doubts


def _seen_along_axes(found: Found, made: tuple[Card, ...]) -> tuple[Card, ...]:
    """Replace the maps of a volume by views along its three axes."""
    from dataclasses import replace

    from atlasnmf import plots

    return tuple(
        replace(
            card,
            maps=(("", picture_of(plots.projections(found.atlas, found.key, patterns=[card.number]), 80)),),
        )
        for card in made
    )
