"""New spots and new slices through a trained model: the same genes, components and weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.options import RunOptions
from atlasnmf.pipeline.preparation import Preparation
from atlasnmf.pipeline.prepared import Given

if TYPE_CHECKING:
    from atlasnmf.pipeline.trained import Trained
    from atlasnmf.store.atlas import Atlas

__all__ = ["transform"]


def transform(
    fit: Trained,
    atlas: Atlas,
    *,
    key_added: str | None = None,
    overwrite: bool = False,
    work_dir: Path | str | None = None,
) -> dict[str, list[str]]:
    """Embed another atlas with a trained model and write embedding, factors and loadings into its store.

    Parameters
    ----------
    fit
        The trained model.
    atlas
        New spots: other slices of the same kind, with the model's genes (missing ones count as zero).
    key_added
        Prefix of the result keys; the fit's own when not given.
    overwrite
        Replace results of that name.
    work_dir
        Place of the new atlas's working copy, when not beside its store; other slices of the store that was
        fitted need one.

    Returns
    -------
    The result keys by table.

    Raises
    ------
    BadInput
        The new tables have fewer than half of the model's genes.
    BadOption
        Results of that name exist.

    Notes
    -----
    Scores of the new slices are centred on their own means, as those of the trained slices were, so an
    offset between slices does not move the embedding. The factor weights need no slice effect; the
    discriminators compare trained slices and say nothing of new ones.
    """
    from atlasnmf import models
    from atlasnmf.pipeline.choices import needs_of
    from atlasnmf.pipeline.limits import Limits
    from atlasnmf.pipeline.loading import loader_for
    from atlasnmf.pipeline.results import SliceResults, add_per_spot, provenance, refuse_existing, renamed
    from atlasnmf.store.results import ResultWriter
    from atlasnmf.store.working import WorkingCopy

    # The encoder is fixed by the size of the trained atlas, not of the new one.
    needs = replace(needs_of(fit.request, fit.atlas.n_spots), min_slices=1)
    if needs.passes or needs.frame is not None:
        raise BadOption(f"{fit.request.model} has no embedding of new spots; fit it to a store that has them")
    _require_genes(fit, atlas)
    run: RunOptions = fit.request.run.model_copy(
        update={
            "key_added": key_added or fit.request.key,
            "overwrite": overwrite,
            "labels": None,
            "work_dir": work_dir,
        }
    )
    request = replace(fit.request, store=atlas.name, run=run)
    atlas.check()
    working = WorkingCopy.open(atlas, work_dir)
    with working.locked():
        refuse_existing(atlas, request)
        given = Given(
            fit.prepared.facts.genes, fit.prepared.facts.components, fit.prepared.settled.target_sum
        )
        prepared = Preparation(
            atlas, working, needs, request.prepare, run, given=given, events=fit.events
        ).run()
        loader = loader_for(working, needs, request, Limits.of(run), fit.events)
        new = replace(fit, request=request, prepared=prepared, _loader=loader, _shared=None, quality={})
        loadings = fit.model.result(fit.state).varm
        with ResultWriter(atlas, working.vector("order"), overwrite=overwrite) as writer:
            written: dict[str, list[str]] = {table.name: [] for table in atlas.tables}
            add_per_spot(
                writer, new, SliceResults(new), written, leave_out=models.trained_only(request.model)
            )
            for name, values in loadings.items():
                writer.varm(renamed(name, request), np.asarray(values), prepared.facts.genes)
                for keys in written.values():
                    keys.append(renamed(name, request))
            trained_on = {"status": "transformed", "trained_on": fit.atlas.name}
            writer.uns(request.key, provenance(new) | trained_on)
    return {name: [*keys, request.key] for name, keys in written.items()}


def _require_genes(fit: Trained, atlas: Atlas) -> None:
    genes = fit.prepared.facts.genes
    for table in atlas.tables:
        share = np.isin(np.array(genes, dtype=str), table.var_names().astype(str)).mean()
        if share < 0.5:
            raise BadInput(
                f"table {table.name!r} has {share:.0%} of the {len(genes)} genes the model was trained on; "
                "give a store with the same genes"
            )
