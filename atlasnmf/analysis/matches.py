"""What matched pairs of spots say of domains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.analysis.spots import stored_labels
from atlasnmf.store.atlas import opened
from atlasnmf.store.matches import Matches, stored_matches
from atlasnmf.store.plain import columns_of
from atlasnmf.store.results import ResultWriter, refuse_existing

if TYPE_CHECKING:
    import pandas as pd

    from atlasnmf.store.atlas import Atlas, AtlasLike

__all__ = ["match_summary"]


def match_summary(
    atlas: AtlasLike,
    label_key: str = "domains",
    *,
    matches: str = "spatialfuser_matches",
    key_added: str | None = None,
    overwrite: bool = False,
) -> pd.DataFrame:
    """Say for every label of every slice how many of its spots are matched, and to what.

    Parameters
    ----------
    atlas
        An open atlas, the path of a store, or data in memory (which is changed).
    label_key
        obs column of domains or labels.
    matches
        Table of matched pairs.
    key_added
        uns key to write, ``<matches>_summary`` by default: the columns of what is returned. Beside it the obs
        column ``<key_added>_status`` says of every spot ``passed``, ``failed`` (in pairs that quality control
        refused alone) or ``unmatched``: a map of new and lost tissue. Tables without any pair have none.
    overwrite
        Replace an older one.

    Returns
    -------
    pandas.DataFrame
        ``slice``, ``label``, ``n_spots``, ``matched`` and ``passed`` (shares of the spots in any pair, and in
        one that passed quality control), ``unmatched`` (one less ``passed``: new or lost tissue), ``partner``
        (the commonest label at the other end of the pairs that passed), ``purity`` (its share of those
        pairs), ``coverage`` (share of the partner's spots, in the slices matched with, that these pairs
        reach) and ``agreement`` (share of the pairs with the same label at both ends).

    Raises
    ------
    BadInput
        There are no such matches or labels.

    Examples
    --------
    >>> import atlasnmf as an
    >>> found = an.tl.match_summary("sections.zarr", "domain")
    >>> bool(found["unmatched"].between(0, 1).all()), int(found["n_spots"].sum())
    (True, 1003)
    """
    import pandas as pd

    found = opened(atlas)
    written = key_added or f"{matches}_summary"
    refuse_existing(found, uns=[written], obs=[f"{written}_status"], overwrite=overwrite)
    pairs = stored_matches(found, matches)
    labels = stored_labels(found, label_key)
    slices = found.slice_codes()
    n_labels = len(labels.names)
    group = np.where(labels.codes >= 0, slices.astype(np.int64) * n_labels + labels.codes, -1)
    sizes = np.bincount(group[group >= 0], minlength=found.n_slices * n_labels)
    own, other = _both_ways(pairs.kept())
    known = (group[own] >= 0) & (group[other] >= 0)
    own, other = own[known], other[known]
    any_own = np.unique(np.concatenate([pairs.source, pairs.target]))
    matched, passed = (
        _share(group, any_own, sizes),
        _share(group, np.unique(_both_ways(pairs.kept())[0]), sizes),
    )
    rows = []
    for number in np.flatnonzero(sizes).tolist():
        of, ends = number // n_labels, other[group[own] == number]
        rows.append(
            {
                "slice": found.slices[of].name,
                "label": labels.names[number % n_labels],
                "n_spots": int(sizes[number]),
                "matched": matched[number],
                "passed": passed[number],
                "unmatched": 1 - passed[number],
                **_partner(ends, labels.codes, slices, sizes.reshape(-1, n_labels), number % n_labels),
            }
        )
        rows[-1]["partner"] = labels.names[rows[-1]["partner"]] if rows[-1]["partner"] >= 0 else ""
    frame = pd.DataFrame(rows)
    status = _status(found, pairs)
    with ResultWriter(found, overwrite=overwrite) as writer:
        writer.uns(written, columns_of(frame) | {"label_key": label_key})
        writer.obs(f"{written}_status", status)
    return frame


def _status(atlas: Atlas, pairs: Matches) -> dict[str, pd.Categorical]:
    import pandas as pd

    codes = np.full(atlas.n_spots, 2, np.int8)
    codes[np.concatenate([pairs.source, pairs.target])] = 1
    codes[_both_ways(pairs.kept())[0]] = 0
    return {
        table.name: pd.Categorical.from_codes(codes[spots], categories=["passed", "failed", "unmatched"])
        for table, spots in atlas.table_spots()
        if (codes[spots] < 2).any()
    }


def _both_ways(pairs: Matches) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([pairs.source, pairs.target]), np.concatenate([pairs.target, pairs.source])


def _share(group: np.ndarray, spots: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    own = group[spots]
    return np.bincount(own[own >= 0], minlength=len(sizes)) / np.maximum(sizes, 1)


def _partner(
    ends: np.ndarray, codes: np.ndarray, slices: np.ndarray, sizes: np.ndarray, label: int
) -> dict[str, Any]:
    """Describe the other ends of the pairs of one label of one slice."""
    if not len(ends):
        return {"partner": -1, "purity": np.nan, "coverage": np.nan, "agreement": np.nan}
    votes = np.bincount(codes[ends], minlength=sizes.shape[1])
    partner = int(votes.argmax())
    reached = np.unique(ends[codes[ends] == partner])
    there = sizes[np.unique(slices[ends]), partner].sum()
    return {
        "partner": partner,
        "purity": votes[partner] / len(ends),
        "coverage": len(reached) / max(there, 1),
        "agreement": votes[label] / len(ends),
    }
