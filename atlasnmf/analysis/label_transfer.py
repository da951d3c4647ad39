"""Labels of some slices carried over to others, by the embedding or by matched pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.analysis.nearest import Nearest
from atlasnmf.analysis.spots import SpotLabels, StoredRows, slice_numbers, stored_labels, stored_rows
from atlasnmf.errors import BadInput, BadOption
from atlasnmf.seeds import rng_for
from atlasnmf.store.atlas import opened
from atlasnmf.store.matches import stored_matches
from atlasnmf.store.results import ResultWriter, refuse_existing

if TYPE_CHECKING:
    import pandas as pd

    from atlasnmf.store.atlas import Atlas, AtlasLike

__all__ = ["LabelTransfer", "label_transfer"]


@dataclass(frozen=True)
class LabelTransfer:
    """Labels carried over, and how far to trust them.

    Parameters
    ----------
    labels
        Column over all spots of the atlas, missing outside the target.
    confidence
        Share of the votes the label has, float32, NaN where there is no label.
    held_out_accuracy
        Share of labelled spots, withheld from the voters, that got their own label back; NaN by matches.
    accuracy
        Share of the target's spots with labels of their own that got them; NaN where there are none.
    n_labelled
        Spots that got a label.
    """

    labels: pd.Categorical
    confidence: np.ndarray
    held_out_accuracy: float
    accuracy: float
    n_labelled: int


def label_transfer(
    atlas: AtlasLike,
    label_key: str,
    key: str = "X_inspire",
    *,
    source: str | Sequence[str] | None = None,
    target: str | Sequence[str] | None = None,
    matches: str | None = None,
    n_neighbors: int = 15,
    n_sample: int = 200_000,
    held_out: float = 0.1,
    key_added: str | None = None,
    overwrite: bool = False,
    random_state: int = 0,
) -> LabelTransfer:
    """Carry labels from some slices to others, with a confidence for each spot.

    The nearest labelled spots in the embedding vote, each by the inverse of its distance; or the spots at the
    other ends of matched pairs, each by the score of the pair.

    Parameters
    ----------
    atlas
        An open atlas, the path of a store, or data in memory (which is changed).
    label_key
        obs column with the labels.
    key
        obsm key of an embedding of all slices.
    source, target
        Slices whose labels are used, and slices that get labels; by default all slices with labels, and all
        others (all slices when every one has labels). By matches labels go from source to target whichever of
        the two was matched to the other; without either both ways.
    matches
        Table of matched pairs, such as ``"spatialfuser_matches"``, to use in place of the embedding.
    n_neighbors
        Voters.
    n_sample
        Labelled spots among which the nearest are sought, at most, drawn evenly over labels.
    held_out
        Share of those withheld to measure how often they get their own label back.
    key_added
        Start of the obs columns ``<key_added>`` and ``<key_added>_confidence``, and of the uns entry with the
        figures; ``<label_key>_transferred`` by default.
    overwrite
        Replace older ones.
    random_state
        Seed of the draws.

    Returns
    -------
    LabelTransfer

    Raises
    ------
    BadInput
        There is no such embedding, table of matches or label, or the source has no labelled spot.
    BadOption
        There is no such slice, or the columns exist.

    Notes
    -----
    The embedding is read three times in runs; the labelled spots that vote are held, 4 p bytes each.

    Examples
    --------
    >>> import anndata, pandas as pd
    >>> rows = np.repeat([[0.0, 0.0], [5.0, 5.0]], 10, axis=0) + np.eye(20, 2)
    >>> obs = pd.DataFrame({"layer": ["L1"] * 5 + [None] * 5 + ["L2"] * 5 + [None] * 5})
    >>> obs.index = [f"spot{i}" for i in range(20)]
    >>> adata = anndata.AnnData(np.ones((20, 1)), obs=obs, obsm={"X_inspire": rows})
    >>> found = label_transfer(adata, "layer", n_neighbors=3, held_out=0)
    >>> adata.obs["layer_transferred"].value_counts().to_dict(), found.accuracy
    ({'L1': 10, 'L2': 10}, 1.0)
    """
    if n_neighbors < 1 or not 0 <= held_out < 1:
        raise BadOption("n_neighbors must be at least 1 and held_out in [0, 1)")
    found = opened(atlas)
    written = key_added or f"{label_key}_transferred"
    refuse_existing(found, obs=[written, f"{written}_confidence"], uns=[written], overwrite=overwrite)
    rows = None if matches is not None else stored_rows(found, key)
    labels = stored_labels(found, label_key)
    slices = found.slice_codes()
    from_, to = _ends(found, labels, slices, source, target)
    voters = np.where(np.isin(slices, from_), labels.codes, -1)
    if not (voters >= 0).any():
        names = ", ".join(found.slices[s].name for s in from_)
        raise BadInput(
            f"no spot of {names} has a value in obs[{label_key!r}]; name slices with labels as source"
        )
    goal = np.isin(slices, to)
    votes: _Votes
    if rows is None:
        votes = _by_matches(found, str(matches), voters, goal, len(labels.names))
    else:
        votes = _by_neighbours(
            rows, voters, goal, len(labels.names), n_neighbors, n_sample, held_out, random_state
        )
    return _write(found, labels, votes, goal, written, label_key, overwrite, (from_, to))


def _ends(
    atlas: Atlas, labels: SpotLabels, slices: np.ndarray, source: Any, target: Any
) -> tuple[np.ndarray, np.ndarray]:
    from_, to = slice_numbers(atlas, source), slice_numbers(atlas, target)
    labelled = np.unique(slices[labels.codes >= 0])
    if source is None:
        others = np.setdiff1d(labelled, to) if target is not None else labelled
        from_ = others if len(others) else labelled
    if target is None:
        others = np.setdiff1d(np.arange(atlas.n_slices), from_)
        to = others if len(others) else np.arange(atlas.n_slices)
    return from_, to


@dataclass(frozen=True)
class _Votes:
    codes: np.ndarray
    confidence: np.ndarray
    held_out_accuracy: float = float("nan")


def _elect(weights: np.ndarray, voted: np.ndarray, n_labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the label with the largest weight in each row and its share; -1 without a vote."""
    tally = np.zeros((len(voted), n_labels))
    place = np.nonzero((voted >= 0) & (weights > 0))
    np.add.at(tally, (place[0], voted[place]), weights[place])
    total = tally.sum(axis=1)
    best = tally.argmax(axis=1)
    share = np.divide(tally.max(axis=1), total, out=np.full(len(tally), np.nan), where=total > 0)
    return np.where(total > 0, best, -1).astype(np.int32), share.astype(np.float32)


def _by_neighbours(
    rows: StoredRows,
    voters: np.ndarray,
    goal: np.ndarray,
    n_labels: int,
    n_neighbors: int,
    n_sample: int,
    held_out: float,
    random_state: int,
) -> _Votes:
    own = voters[rows.spots]
    where = "label_transfer"
    drawn = rows.sample(n_sample, own, random_state=random_state, where=where, among=rows.finite())
    if not len(drawn):
        raise BadInput(f"no labelled spot has a finite obsm[{rows.key!r}]; fit the model again")
    reference, known = rows.take(drawn), own[drawn]
    accuracy = float("nan")
    hidden = rng_for(random_state, where, "held out").random(len(drawn)) < held_out
    if hidden.any() and not hidden.all():
        near = Nearest(reference[~hidden], "label transfer")
        guessed, _ = _vote(near, reference[hidden], known[~hidden], n_neighbors, n_labels)
        accuracy = float((guessed == known[hidden]).mean())
    near = Nearest(reference, "label transfer")
    codes = np.full(len(goal), -1, np.int32)
    confidence = np.full(len(goal), np.nan, np.float32)
    for run, values in rows.runs():
        wanted = goal[rows.spots[run]] & np.isfinite(values).all(axis=1)
        if wanted.any():
            spots = rows.spots[run][wanted]
            # a spot has no vote on itself
            place = np.searchsorted(drawn, np.arange(run.start, run.stop)[wanted])
            place = np.minimum(place, len(drawn) - 1)
            itself = np.where(drawn[place] == np.arange(run.start, run.stop)[wanted], place, -1)
            codes[spots], confidence[spots] = _vote(
                near, values[wanted], known, n_neighbors, n_labels, itself
            )
    return _Votes(codes, confidence, accuracy)


def _vote(
    near: Nearest,
    rows: np.ndarray,
    known: np.ndarray,
    n_neighbors: int,
    n_labels: int,
    itself: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    distances, found = near.search(rows, n_neighbors + (itself is not None))
    valid = found >= 0
    if itself is not None:
        valid &= found != itself[:, None]
        # without itself among them, the farthest is one too many
        valid[:, -1] &= valid.sum(axis=1) <= n_neighbors
    weights = np.where(valid, 1 / np.maximum(distances.astype(np.float64), 1e-9), 0)
    return _elect(weights, np.where(valid, known[found], -1), n_labels)


def _by_matches(atlas: Atlas, name: str, voters: np.ndarray, goal: np.ndarray, n_labels: int) -> _Votes:
    pairs = stored_matches(atlas, name).kept()
    ends = np.concatenate([pairs.source, pairs.target]), np.concatenate([pairs.target, pairs.source])
    weights = np.maximum(np.tile(pairs.score, 2), 1e-9)
    used = goal[ends[1]] & (voters[ends[0]] >= 0)
    voter, spot, weights = ends[0][used], ends[1][used], weights[used]
    spots, row = np.unique(spot, return_inverse=True)
    tally = np.zeros((len(spots), n_labels))
    np.add.at(tally, (row, voters[voter]), weights)
    codes = np.full(len(goal), -1, np.int32)
    confidence = np.full(len(goal), np.nan, np.float32)
    if len(spots):
        codes[spots] = tally.argmax(axis=1)
        confidence[spots] = tally.max(axis=1) / tally.sum(axis=1)
    return _Votes(codes, confidence)


def _write(
    atlas: Atlas,
    labels: SpotLabels,
    votes: _Votes,
    goal: np.ndarray,
    written: str,
    label_key: str,
    overwrite: bool,
    ends: tuple[np.ndarray, np.ndarray],
) -> LabelTransfer:
    import pandas as pd

    column = pd.Categorical.from_codes(votes.codes, categories=list(labels.names))
    both = (votes.codes >= 0) & (labels.codes >= 0)
    accuracy = float((votes.codes[both] == labels.codes[both]).mean()) if both.any() else float("nan")
    found = LabelTransfer(
        column, votes.confidence, votes.held_out_accuracy, accuracy, int((votes.codes >= 0).sum())
    )
    names = [table.name for table, spots in atlas.table_spots() if goal[spots].any()]
    record = {
        "label_key": label_key,
        "source": [atlas.slices[s].name for s in ends[0]],
        "target": [atlas.slices[s].name for s in ends[1]],
        "held_out_accuracy": found.held_out_accuracy,
        "accuracy": found.accuracy,
        "n_labelled": found.n_labelled,
        "n_without": int(goal.sum()) - found.n_labelled,
    }
    with ResultWriter(atlas, overwrite=overwrite) as writer:
        writer.obs(written, column, tables=names)
        writer.obs(f"{written}_confidence", votes.confidence, tables=names)
        writer.uns(written, record, tables=names)
    return found
