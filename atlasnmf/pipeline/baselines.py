"""The rival of every model: a PCA of log counts averaged over neighbours, out of core."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlasnmf.events import SILENT, Events
from atlasnmf.options import PrepareOptions, RunOptions, at_least
from atlasnmf.pipeline.choices import BASELINE_COMPONENTS
from atlasnmf.schema import Needs
from atlasnmf.store.atlas import opened

if TYPE_CHECKING:
    from atlasnmf.store.atlas import AtlasLike

__all__ = ["baseline"]

_BLOCK_ROWS = 32_768


def baseline(
    atlas: AtlasLike,
    *,
    n_components: int = BASELINE_COMPONENTS,
    n_hvgs: int = 6000,
    key_added: str = "X_smoothed_pca",
    overwrite: bool = False,
    random_state: int = 0,
    memory_budget: str | None = None,
    work_dir: Path | str | None = None,
    events: Events = SILENT,
    **options: Any,
) -> None:
    """Write a PCA of the log counts averaged over neighbours, centred per slice, out of core.

    Averaging and PCA are a strong rival of any spatial model; compare before you believe one.

    Parameters
    ----------
    atlas
        An open atlas, the path of a store, or data in memory (which is changed).
    n_components
        Components of the counts averaged twice over the neighbours.
    n_hvgs
        Variable genes per slice before intersecting.
    key_added
        obsm key of the scores, shape (n_spots, n_components), float32, NaN for spots left out.
    overwrite
        Replace an older result of that name.
    random_state
        Seed of the iteration that finds the components.
    memory_budget, work_dir
        See :class:`atlasnmf.options.RunOptions`.
    events
        The listener.
    **options
        See :class:`atlasnmf.options.PrepareOptions`.

    Raises
    ------
    BadInput, BadOption
        The atlas or an option cannot be used, or the key exists.

    Examples
    --------
    >>> import atlasnmf as an
    >>> an.tl.baseline("embryo.zarr", n_components=10)
    >>> an.open_atlas("embryo.zarr").tables[0].obsm("X_smoothed_pca").shape
    (200, 10)
    """
    from atlasnmf.pipeline.commands import prepared_for
    from atlasnmf.pipeline.prepared import smoothed_scores
    from atlasnmf.store.results import ResultWriter, refuse_existing

    at_least(1, n_components=n_components)
    atlas = opened(atlas)
    refuse_existing(atlas, obsm=[key_added], overwrite=overwrite)
    run = RunOptions(seed=random_state, memory_budget=memory_budget, work_dir=work_dir)
    needs = Needs(n_hvgs=n_hvgs, baseline_components=n_components)
    prepared = prepared_for(atlas, PrepareOptions(**options), run, needs, events=events)
    scores = smoothed_scores(prepared.working)
    order = prepared.working.vector("order")
    with ResultWriter(atlas, order, overwrite=overwrite) as writer:
        writer.per_spot(key_added, scores.shape[1])
        for start in range(0, len(scores), _BLOCK_ROWS):
            writer.put(key_added, start, scores[start : start + _BLOCK_ROWS])
