"""How well a few patterns tell a region from the rest, against as many patterns taken at random."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.seeds import rng_for

__all__ = ["RegionPrediction", "predict_region"]


@dataclass(frozen=True)
class RegionPrediction:
    """Areas under the curve of true against false positives.

    Parameters
    ----------
    patterns
        The patterns chosen.
    auc
        Of the model on them.
    random
        Of the models on patterns taken at random, float64, shape (n_random,).
    """

    patterns: tuple[int, ...]
    auc: float
    random: np.ndarray = field(repr=False)

    @property
    def share_below(self) -> float:
        """Share of the random models that do worse."""
        return float((self.random < self.auc).mean())


def predict_region(
    patterns: np.ndarray,
    inside: np.ndarray,
    chosen: Sequence[int] | None = None,
    *,
    n_chosen: int = 3,
    n_random: int = 1000,
    n_sample: int = 50_000,
    random_state: int = 0,
) -> RegionPrediction:
    """Predict a region by logistic regression on a few patterns, and on as many taken at random.

    Parameters
    ----------
    patterns
        Shape (n, K); spots with a value that is not finite are left out.
    inside
        Whether each spot is in the region, bool, shape (n,).
    chosen
        Patterns to predict from; those that correlate most with the region when not given.
    n_chosen
        How many, when ``chosen`` is not given.
    n_random
        Random draws; the same patterns drawn again are fitted once.
    n_sample
        Spots the models are fitted and rated on, at most.
    random_state
        Seed of the draws.

    Raises
    ------
    BadInput
        The region is empty or everything, or there are too few patterns.
    BadOption
        A pattern that is not there is chosen.

    References
    ----------
    Cahill et al., PNAS (2024), "Substructures of the mouse isocortex in PPs": 1000 draws, three patterns.

    Notes
    -----
    At most ``min(n_random, K choose n_chosen)`` fits, each of ``O(n n_chosen^2)`` a step.

    Examples
    --------
    >>> inside = np.arange(40) < 15
    >>> patterns = np.column_stack([inside, ~inside, np.arange(40) % 2, np.arange(40) % 3])
    >>> found = predict_region(patterns, inside, n_chosen=1, n_random=8)
    >>> found.patterns, found.auc
    ((0,), 1.0)
    """
    patterns, inside = np.asarray(patterns), np.asarray(inside, bool)
    if len(patterns) != len(inside):
        raise BadInput(f"{len(patterns)} spots have patterns and {len(inside)} a region; pass the same spots")
    finite = np.flatnonzero(np.isfinite(patterns).all(axis=1))
    if len(finite) > n_sample:
        finite = np.sort(rng_for(random_state, "predict region", "sample").choice(finite, n_sample, False))
    values, target = patterns[finite].astype(np.float64), inside[finite]
    if target.all() or not target.any():
        raise BadInput("the region holds no spot or all of them; choose another region")
    spread = values.std(axis=0)
    values = (values - values.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    if chosen is None:
        with_region = values[target].mean(axis=0)
        chosen = np.sort(np.argsort(-with_region, kind="stable")[:n_chosen]).tolist()
    n_patterns = values.shape[1]
    if not chosen or not all(0 <= pattern < n_patterns for pattern in chosen):
        raise BadOption(f"patterns {list(chosen)} are not all there; choose from 0 to {n_patterns - 1}")
    rng = rng_for(random_state, "predict region", "draws")
    size = len(set(chosen))
    draws = Counter(
        tuple(np.sort(rng.choice(n_patterns, size, replace=False)).tolist()) for _ in range(n_random)
    )
    areas = {draw: _area(values[:, list(draw)], target) for draw in draws}
    random = np.repeat(list(areas.values()), [draws[draw] for draw in areas])
    auc = _area(values[:, sorted(set(chosen))], target)
    return RegionPrediction(tuple(sorted(set(chosen))), auc, random)


def _area(values: np.ndarray, target: np.ndarray) -> float:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    model = LogisticRegression(solver="newton-cholesky").fit(values, target)
    return float(roc_auc_score(target, model.decision_function(values)))
