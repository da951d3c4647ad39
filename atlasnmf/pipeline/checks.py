"""What a fit refuses before any work: results in the way, unusable labels, too little memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from atlasnmf.errors import BadOption
from atlasnmf.pipeline.choices import needs_of
from atlasnmf.pipeline.frames import check_frame
from atlasnmf.pipeline.limits import Limits
from atlasnmf.pipeline.pairs import check_pair
from atlasnmf.pipeline.preparation import refuse_few_slices
from atlasnmf.pipeline.request import FitRequest
from atlasnmf.pipeline.results import label_column, refuse_existing
from atlasnmf.pipeline.sizes import Sizes, settled_to
from atlasnmf.store.disk import refuse_unwritable_store

if TYPE_CHECKING:
    from atlasnmf.store.atlas import Atlas

__all__ = ["check"]

#: Domains are sought in the number of the labels: beyond the cell types of a whole brain they take long.
_MOST_LABELS = 1000


def check(atlas: Atlas, request: FitRequest) -> None:
    """Refuse what can be refused without reading counts.

    Raises
    ------
    BadInput
        Names, positions, slices or labels cannot be used, or the store cannot be written.
    BadOption
        Results of this name exist, an option has no usable value, or the budget is too small.
    """
    limits = Limits.of(request.run)
    if atlas.path is not None:
        refuse_unwritable_store(atlas.path)
    atlas.check()
    needs = needs_of(request, atlas.n_spots)
    if (needs.passes or needs.frame is not None) and request.run.patience is not None:
        raise BadOption(f"--patience: {request.model} ends by itself when it has settled; leave it out")
    if needs.pair is not None:
        check_pair(atlas, request, needs.pair)
    if needs.frame is not None:
        check_frame(atlas, request, needs)
    refuse_few_slices(atlas, needs)
    refuse_existing(atlas, request)
    if request.run.labels is not None and needs.pair is None:
        _refuse_labels(atlas, request.run.labels)
    request, _ = settled_to(atlas, request, limits)
    Sizes.of(atlas, request).require(limits.budget)


def _refuse_labels(atlas: Atlas, key: str) -> None:
    from atlasnmf.analysis.baseline import MIN_LABELLED
    from atlasnmf.metrics import label_codes
    from atlasnmf.store.names import no_such

    for table in atlas.tables:
        if key not in table.obs_columns():
            raise BadOption(
                f"--labels: {no_such('obs column', key, table.obs_columns(), f'table {table.name!r}')}"
            )
    labels, _ = label_codes(label_column(atlas, key))
    labelled, codes = labels >= 0, atlas.slice_codes()
    if np.bincount(codes[labelled & (codes >= 0)], minlength=1).max() < MIN_LABELLED:
        raise BadOption(
            f"--labels {key}: no slice has {MIN_LABELLED} spots with a label; name another column"
        )
    used = labels[labelled & (codes >= 0)]
    n_used = len(np.unique(used))
    if n_used < 2:
        raise BadOption(
            f"--labels {key}: all spots have the same label; name a column of two regions or more"
        )
    if n_used > _MOST_LABELS or 2 * n_used > len(used):
        raise BadOption(
            f"--labels {key}: {n_used:,} different labels on {len(used):,} spots name spots, not regions; "
            f"name a column of 2 to {_MOST_LABELS:,} regions or cell types"
        )
