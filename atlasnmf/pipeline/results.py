"""From a trained fit to arrays in the store: all of them or none, in the user's order of rows."""

from __future__ import annotations

import platform
from collections.abc import Collection, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from atlasnmf import models
from atlasnmf.pipeline.match_results import write_matches
from atlasnmf.pipeline.request import FitRequest
from atlasnmf.store.names import refuse_unsafe
from atlasnmf.store.results import ResultWriter
from atlasnmf.store.results import refuse_existing as refuse_keys

if TYPE_CHECKING:
    from atlasnmf.pipeline.trained import Trained
    from atlasnmf.store.atlas import Atlas

__all__ = [
    "Kind",
    "SliceResults",
    "add_per_spot",
    "label_column",
    "provenance",
    "refuse_existing",
    "renamed",
    "versions",
    "write_results",
]

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
    refuse_unsafe("--key-added", request.key)
    keys = {
        group: [renamed(name, request) for name in names]
        for group, names in models.results(request.model).items()
    }
    refuse_keys(atlas, **keys, uns=[request.key], overwrite=request.run.overwrite)


def versions() -> dict[str, str]:
    """Return the versions that made a result."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


class Kind(Protocol):
    """What differs between the results of an atlas of slices and those of a pair of platforms."""

    def tables(self, slice_index: int) -> list[str]:
        """Return the tables that what a model says of a slice's spots is written into."""

    def offer(self, name: str, rows: np.ndarray) -> None:
        """Take the next rows of a result, in working order."""

    def finish(
        self, writer: ResultWriter, uns: dict[str, Any], written: dict[str, list[str]]
    ) -> Mapping[str, Any]:
        """Write what comes after the rows, add to ``uns``; return figures of merit."""


class SliceResults:
    """Results of slices of one kind: in all tables; with labels, compared with the smoothed PCA."""

    def __init__(self, fit: Trained) -> None:
        self._fit = fit
        # what domains are read from: a model's embedding, or the first thing it says of spots
        self._compared = (
            models.results(fit.request.model)["obsm"][0] if fit.request.run.labels is not None else None
        )
        self._rows: list[np.ndarray] = []

    def tables(self, slice_index: int) -> list[str]:
        """Return all tables."""
        return [table.name for table in self._fit.atlas.tables]

    def offer(self, name: str, rows: np.ndarray) -> None:
        """Keep the rows that are compared."""
        if name == self._compared:
            self._rows.append(rows)

    def finish(
        self, writer: ResultWriter, uns: dict[str, Any], written: dict[str, list[str]]
    ) -> Mapping[str, Any]:
        """Compare with labels where there are any."""
        return {} if self._compared is None else _quality(self._fit, np.concatenate(self._rows))


def _kind_of(fit: Trained) -> Kind:
    if fit.prepared.facts.links is None:
        return SliceResults(fit)
    from atlasnmf.pipeline.pair_results import PairResults

    return PairResults(fit)


def write_results(fit: Trained) -> dict[str, list[str]]:
    """Infer every spot by tile and write arrays, loadings, figures and history.

    Returns
    -------
    The result keys by table.
    """
    request, prepared = fit.request, fit.prepared
    result = fit.model.result(fit.state)
    kind, uns = _kind_of(fit), dict(result.uns)
    written: dict[str, list[str]] = {table.name: [] for table in fit.atlas.tables}
    with ResultWriter(
        fit.atlas,
        prepared.working.vector("order"),
        overwrite=request.run.overwrite,
        budget_bytes=_spill_bytes(fit),
    ) as writer:
        add_per_spot(writer, fit, kind, written)
        for name, values in result.varm.items():
            writer.varm(renamed(name, request), np.asarray(values), prepared.facts.genes)
            for keys in written.values():
                keys.append(renamed(name, request))
        fit.quality = dict(result.quality) | dict(kind.finish(writer, uns, written))
        for keys in written.values():
            keys.append(request.key)
        if result.pairs is not None:
            table = renamed(models.results(request.model)["tables"][0], request)
            written[table] = write_matches(writer, fit, result.pairs, table)
        writer.uns(request.key, {**uns, **provenance(fit)})
    return written


def add_per_spot(
    writer: ResultWriter,
    fit: Trained,
    kind: Kind,
    written: dict[str, list[str]],
    *,
    leave_out: Collection[str] = (),
) -> None:
    """Hand the rows of every tile to the writer, but for results of some names.

    Parameters
    ----------
    kind
        Says which tables a result is written into, and looks at the rows as they pass.
    written
        Keys by table, to which those of the results are added.
    """
    begun: set[str] = set()
    for tile, values in fit.embed():
        for name, rows in values.items():
            if name in leave_out:
                continue
            key = renamed(name, fit.request)
            if key not in begun:
                begun.add(key)
                tables = kind.tables(tile.slice_index)
                writer.per_spot(key, rows.shape[1], tables=tables)
                for table in tables:
                    written[table].append(key)
            writer.put(key, tile.start, rows)
            kind.offer(name, rows)


def _spill_bytes(fit: Trained) -> int:
    from atlasnmf.pipeline.limits import Limits

    return max(Limits.of(fit.request.run).budget.array_bytes // 8, 16 * 10**6)


def label_column(atlas: Atlas, key: str) -> np.ndarray:
    """Return the labels of all spots of an atlas, missing where unknown, dtype object."""
    columns = [np.asarray(table.obs_column(key), dtype=np.object_) for table in atlas.tables]
    return np.concatenate(columns)


def _quality(fit: Trained, embedding: np.ndarray) -> dict[str, Any]:
    """Measure the embedding and the smoothed PCA of the same spots against the user's labels."""
    from atlasnmf.analysis.baseline import quality_beside_baseline
    from atlasnmf.pipeline.prepared import smoothed_scores

    working = fit.prepared.working
    order = working.vector("order")
    labels = label_column(fit.atlas, str(fit.request.run.labels))
    found = quality_beside_baseline(
        embedding,
        smoothed_scores(working),
        labels[order],
        fit.atlas.slice_codes()[order],
        random_state=fit.request.run.seed,
    )
    names = [info.name for info in fit.atlas.slices]
    for rows in (found["slices"], found["baseline"]["slices"]):
        for row in rows:
            row["slice"] = names[int(row["slice"])]
    return found


def provenance(fit: Trained) -> dict[str, Any]:
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
