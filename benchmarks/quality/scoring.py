"""Regions from an embedding, and how well they agree with the labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_score
from sklearn.mixture import GaussianMixture


def score(
    embeddings: Sequence[np.ndarray], labels: Sequence[np.ndarray], seed: int = 0, n_init: int = 5
) -> dict:
    """Mean over slices of ARI and NMI of a tied mixture of the joint embedding, and of the silhouette.

    The mixture sees all spots; the figures only those with a label.
    Silhouette: Euclidean, by label, per slice.
    """
    known = [np.array([isinstance(name, str) for name in part]) for part in labels]
    names = sorted({name for part, keep in zip(labels, known, strict=True) for name in part[keep]})
    joint = np.concatenate(embeddings)
    mixture = GaussianMixture(
        len(names), covariance_type="tied", random_state=seed, n_init=n_init, max_iter=200
    )
    found = np.split(mixture.fit_predict(joint), np.cumsum([len(z) for z in embeddings])[:-1])
    figures = []
    for z, part, cluster, keep in zip(embeddings, labels, found, known, strict=True):
        truth = part[keep].astype(str)
        figures.append(
            (
                adjusted_rand_score(truth, cluster[keep]),
                normalized_mutual_info_score(truth, cluster[keep]),
                silhouette_score(z[keep], truth, sample_size=min(5000, int(keep.sum())), random_state=0),
            )
        )
    ari, nmi, asw = np.mean(figures, 0)
    return {"ari": float(ari), "nmi": float(nmi), "asw": float(asw)}
