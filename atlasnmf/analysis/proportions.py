"""How much of each slice or stage a domain takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from atlasnmf.analysis.spots import stored_labels
from atlasnmf.errors import BadInput
from atlasnmf.store.atlas import opened
from atlasnmf.store.names import natural_key
from atlasnmf.store.results import ResultWriter, refuse_existing

if TYPE_CHECKING:
    import pandas as pd

    from atlasnmf.store.atlas import AtlasLike

__all__ = ["proportions"]


def proportions(
    atlas: AtlasLike,
    label_key: str = "domains",
    *,
    by: str | None = None,
    key_added: str | None = None,
    overwrite: bool = False,
) -> pd.DataFrame:
    """Return the share of each domain in each slice or stage.

    Parameters
    ----------
    atlas
        An open atlas, the path of a store, or data in memory (which is changed).
    label_key
        obs column of domains or labels.
    by
        obs column of stages, or whatever to group by; slices when not given.
    key_added
        uns key to write, ``<label_key>_proportions`` by default: ``groups``, ``labels``, ``shares`` and
        ``n_spots``, both of shape (n_groups, n_labels).
    overwrite
        Replace an older one.

    Returns
    -------
    pandas.DataFrame
        Shares, groups in rows (in natural order), labels in columns; rows sum to 1 over the spots with a
        label.

    Raises
    ------
    BadInput
        There is no such column.

    Examples
    --------
    >>> import anndata, pandas as pd
    >>> obs = pd.DataFrame({"domains": ["a", "b", "b", "b"], "stage": [1, 1, 2, 2]}, index=list("wxyz"))
    >>> proportions(anndata.AnnData(np.ones((4, 1)), obs=obs), by="stage").to_numpy().tolist()
    [[0.5, 0.5], [0.0, 1.0]]
    """
    import pandas as pd

    found = opened(atlas)
    written = key_added or f"{label_key}_proportions"
    refuse_existing(found, uns=[written], overwrite=overwrite)
    labels = stored_labels(found, label_key)
    if by is None:
        codes, names = found.slice_codes(), tuple(info.name for info in found.slices)
    else:
        groups = stored_labels(found, by)
        codes, names = groups.codes, groups.names
    known = (labels.codes >= 0) & (codes >= 0)
    if not known.any():
        raise BadInput(f"no spot has both obs[{label_key!r}] and obs[{by!r}]; check the columns")
    cells = codes[known].astype(np.int64) * len(labels.names) + labels.codes[known]
    counts = np.bincount(cells, minlength=len(names) * len(labels.names)).reshape(len(names), -1)
    order = sorted(range(len(names)), key=lambda at: natural_key(names[at])) if by else range(len(names))
    columns = sorted(range(len(labels.names)), key=lambda at: natural_key(labels.names[at]))
    counts = counts[np.ix_(list(order), columns)]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    frame = pd.DataFrame(
        shares,
        index=pd.Index([names[at] for at in order], name=by or "slice"),
        columns=pd.Index([labels.names[at] for at in columns], name=label_key),
    )
    record = {"by": by or "slice", "groups": list(frame.index), "labels": list(frame.columns)}
    with ResultWriter(found, overwrite=overwrite) as writer:
        writer.uns(written, record | {"shares": shares, "n_spots": counts})
    return frame
