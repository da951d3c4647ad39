"""From a trained fit to arrays in the store: all of them or none, in the user's order of rows."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf import models
from atlasnmf.pipeline.request import FitRequest
from atlasnmf.store.results import ResultWriter
from atlasnmf.store.results import refuse_existing as refuse_keys

if TYPE_CHECKING:
    from atlasnmf.pipeline.fitting import Fit
    from atlasnmf.schema import SpotPairs
    from atlasnmf.store.atlas import Atlas

__all__ = ["add_per_spot", "provenance", "refuse_existing", "renamed", "versions", "write_results"]

_PACKAGES = ("atlasnmf", "torch", "numpy", "scipy", "numba", "zarr", "anndata", "spatialdata", "dask")


def renamed(name: str, request: FitRequest) -> str:
    """Return a result key with the model's name replaced by ``key_added``.

    Examples
    --------
    >>> from atlasnmf.options import RunOptions
    >>> renamed("X_inspire", FitRequest("inspire", "s.zarr", None, run=RunOptions(key_added="run2")))
    'X_run2'
    """
    return name.replace(request.model, request.key)


def refuse_existing(atlas: Atlas, request: FitRequest) -> None:
    """Refuse before any work when results of this name are there; raises BadOption naming the mend."""
    keys = {group: [renamed(name, request) for name in names] for group, names in _declared(request).items()}
    refuse_keys(atlas, **keys, uns=[request.key], overwrite=request.run.overwrite)


def _declared(request: FitRequest) -> dict[str, tuple[str, ...]]:
    return models.results(request.model)


def versions() -> dict[str, str]:
    """Return the versions that made a result."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def write_results(fit: Fit) -> dict[str, list[str]]:
    """Infer every spot by tile and write arrays, loadings, figures and history.

    Returns
    -------
    The result keys by table.
    """
    request, prepared = fit.request, fit.prepared
    result = fit.model.result(fit.state)
    fit.quality = dict(result.quality)
    embedding = None
    if request.run.labels is not None and prepared.facts.links is None:
        # what domains are read from: a model's embedding, or the first thing it says of spots
        embedding = _Collected(_declared(request)["obsm"][0])
    with ResultWriter(
        fit.atlas,
        prepared.working.vector("order"),
        overwrite=request.run.overwrite,
        budget_bytes=_spill_bytes(fit),
    ) as writer:
        written: dict[str, list[str]] = {table.name: [] for table in fit.atlas.tables}
        add_per_spot(writer, fit, embedding, written=written)
        for name, values in result.varm.items():
            writer.varm(renamed(name, request), np.asarray(values), prepared.facts.genes)
            for keys in written.values():
                keys.append(renamed(name, request))
        uns = dict(result.uns)
        if prepared.facts.links is not None:
            from atlasnmf.pipeline.pair_results import write_pair

            fit.quality |= write_pair(writer, fit, uns, written)
        if result.pairs is not None:
            _write_matches(writer, fit, result.pairs, written)
        if embedding is not None:
            fit.quality |= _quality(fit, embedding.array())
        writer.uns(request.key, {**uns, **provenance(fit)})
    own = {table.name for table in fit.atlas.tables}
    return {name: [*keys, request.key] if name in own else keys for name, keys in written.items()}


def _write_matches(writer: ResultWriter, fit: Fit, pairs: SpotPairs, written: dict[str, list[str]]) -> None:
    """Write pairs of spots as a table of their own, by the names of tables and spots."""
    import pandas as pd

    atlas, order = fit.atlas, fit.prepared.working.vector("order")
    names = np.concatenate([np.asarray(table.obs_names(), dtype=object) for table in atlas.tables])
    columns: dict[str, Any] = {}
    for end, rows in (("source", pairs.source), ("target", pairs.target)):
        spots = order[rows]
        of_table = np.searchsorted(atlas.table_offsets, spots, side="right") - 1
        columns[f"{end}_table"] = pd.Categorical.from_codes(of_table, [table.name for table in atlas.tables])
        columns[end] = names[spots]
    columns |= {"score": pairs.score, "cosine": pairs.cosine, "passed": pairs.passed}
    index = pd.Index([f"pair_{number}" for number in range(len(pairs.score))], dtype=object)
    name = renamed(f"{fit.request.model}_matches", fit.request)
    writer.table(name, pd.DataFrame(columns, index=index))
    written[name] = ["source", "target", "score", "passed"]


def add_per_spot(
    writer: ResultWriter,
    fit: Fit,
    collected: _Collected | None = None,
    *,
    leave_out: tuple[str, ...] = (),
    written: dict[str, list[str]] | None = None,
) -> list[str]:
    """Hand the rows of every tile to the writer, but for results whose name ends so.

    Returns
    -------
    The keys; those of each table are appended to ``written``. What a model says of a pair's spots is written
    into the table of their slice, and else into all tables.
    """
    keys: list[str] = []
    one_slice = fit.prepared.facts.links is not None
    for tile, values in fit.embed():
        for name, rows in values.items():
            if name.endswith(leave_out):
                continue
            key = renamed(name, fit.request)
            if key not in keys:
                tables = (
                    [fit.atlas.slices[tile.slice_index].table] if one_slice else list(written or []) or None
                )
                writer.per_spot(key, rows.shape[1], tables=tables)
                keys.append(key)
                for table in tables or []:
                    if written is not None:
                        written[table].append(key)
            writer.put(key, tile.start, rows)
            if collected is not None:
                collected.offer(name, rows)
    return keys


class _Collected:
    """Keeps one of the per-spot arrays in memory, in working order."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._rows: list[np.ndarray] = []

    def offer(self, name: str, rows: np.ndarray) -> None:
        if name == self._name:
            self._rows.append(rows)

    def array(self) -> np.ndarray:
        return np.concatenate(self._rows)


def _spill_bytes(fit: Fit) -> int:
    from atlasnmf.pipeline.limits import Limits

    return max(Limits.of(fit.request.run).budget.array_bytes // 8, 16 * 10**6)


def _quality(fit: Fit, embedding: np.ndarray) -> dict[str, Any]:
    """Measure the embedding and the smoothed PCA of the same spots against the user's labels."""
    from atlasnmf.analysis.baseline import quality_beside_baseline
    from atlasnmf.pipeline.baselines import smoothed_scores
    from atlasnmf.pipeline.checks import label_column

    working = fit.prepared.working
    order = working.vector("order")
    labels = label_column(fit.atlas, str(fit.request.run.labels))
    return quality_beside_baseline(
        embedding,
        smoothed_scores(working),
        labels[order],
        fit.atlas.slice_codes()[order],
        random_state=fit.request.run.seed,
    )


def provenance(fit: Fit) -> dict[str, Any]:
    """Return what made a result: parameters, seed, command, versions, history, figures, status."""
    request, prepared = fit.request, fit.prepared
    return {
        "status": "done",
        "model": request.model,
        "params": request.params.model_dump(mode="json"),
        "prepare": vars(prepared.settled),
        "seed": request.run.seed,
        "command": request.command(),
        "versions": versions(),
        "slices": list(prepared.facts.slices),
        "slice_key": prepared.atlas.slice_key or "",
        "n_spots": prepared.facts.n_spots,
        "n_genes": prepared.facts.n_genes,
        "history": dict(fit.history),
        "seconds": fit.seconds,
        "wait_share": fit.wait_share,
        "labels": request.run.labels or "",
        "quality": fit.quality,
        "warnings": list(prepared.warnings),
    }
