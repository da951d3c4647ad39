"""Quality of an embedding against labels, so that every fit can be shown beside a smoothed PCA."""

from __future__ import annotations

from typing import Any

import numpy as np

from atlasnmf.analysis.domains import assign_domains
from atlasnmf.errors import BadInput
from atlasnmf.metrics import adjusted_rand, label_codes, normalised_mutual_information, silhouette

__all__ = ["quality", "quality_beside_baseline"]

#: Fewest labelled spots of a slice that figures of quality are made of.
MIN_LABELLED = 10


def quality(
    embedding: np.ndarray,
    labels: Any,
    slices: Any | None = None,
    *,
    n_domains: int | None = None,
    n_sample: int = 100_000,
    random_state: int = 0,
) -> dict[str, Any]:
    """Measure how well an embedding of several slices finds labelled regions.

    A Gaussian mixture with one covariance and as many components as labels is fitted to the joint
    embedding of all slices; in each slice its groups are compared with the labels (ARI, NMI), and the
    silhouette width of the labels is taken in the embedding (ASW). The figures are means over slices.

    Parameters
    ----------
    embedding
        Shape (n, p); rows that are not finite are left out.
    labels
        Known regions of the n spots; missing where unknown. Spots without a label take part in the mixture.
    slices
        Slice of each spot, of any type; one slice when not given.
    n_domains
        Components of the mixture; the number of distinct labels when not given.
    n_sample
        Spots the mixture is fitted to, at most.
    random_state
        Seed of samples and of the mixture.

    Returns
    -------
    dict
        ``ari``, ``nmi``, ``asw`` (means over slices), ``n_domains``, and ``slices``, a list of dicts with
        ``slice``, ``n_spots`` (labelled and embedded), ``ari``, ``nmi`` and ``asw``. Slices with fewer than
        ten labelled spots are left out.

    Raises
    ------
    BadInput
        The lengths differ, or no slice has labels.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> labels = np.repeat(["a", "b"], 50)
    >>> embedding = np.where(labels == "a", 0.0, 9.0)[:, None] + rng.normal(size=(100, 2))
    >>> quality(embedding, labels)["ari"]
    1.0
    """
    embedding = np.asarray(embedding)
    codes, names = label_codes(labels)
    places, slice_names = (np.zeros(len(codes), int), ["all"]) if slices is None else label_codes(slices)
    if not len(embedding) == len(codes) == len(places):
        raise BadInput(
            f"{len(embedding)} spots are embedded, {len(codes)} have labels and {len(places)} slices; "
            "pass one of each a spot"
        )
    n_domains = n_domains or max(len(names), 1)
    groups = assign_domains(embedding, n_domains=n_domains, n_sample=n_sample, random_state=random_state)
    rows: list[dict[str, Any]] = []
    for place, name in enumerate(slice_names):
        here = np.flatnonzero((places == place) & (codes >= 0) & (groups >= 0))
        if len(here) < MIN_LABELLED:
            continue
        found: dict[str, float] = {
            "ari": adjusted_rand(codes[here], groups[here]),
            "nmi": normalised_mutual_information(codes[here], groups[here]),
            "asw": silhouette(embedding[here], codes[here], random_state=random_state),
        }
        rows.append({"slice": str(name), "n_spots": len(here), **found})
    if not rows:
        raise BadInput(
            f"no slice has {MIN_LABELLED} spots with a label and an embedding; check the label column"
        )
    means = {figure: _mean([row[figure] for row in rows]) for figure in ("ari", "nmi", "asw")}
    return {**means, "n_domains": n_domains, "slices": rows}


def _mean(figures: list[float]) -> float:
    """Mean of the defined figures: a slice with one label has no silhouette."""
    defined = [figure for figure in figures if np.isfinite(figure)]
    return float(np.mean(defined)) if defined else float("nan")


def quality_beside_baseline(
    embedding: np.ndarray, scores: np.ndarray, labels: Any, slices: Any | None = None, **options: Any
) -> dict[str, Any]:
    """Return the quality of a model's embedding with that of the smoothed PCA under ``"baseline"``.

    Parameters
    ----------
    embedding
        Of the model, shape (n, p).
    scores
        Of the smoothed PCA, which any model has to beat, shape (n, P), the same spots in the same order.
    labels, slices, **options
        As in :func:`quality`.
    """
    own = quality(embedding, labels, slices, **options)
    return {**own, "baseline": quality(scores, labels, slices, **options)}
