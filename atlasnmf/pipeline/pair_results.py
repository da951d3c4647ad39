"""The results of a pair: types and depths of cells, imputed genes, the scores of a holdout."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.pipeline.pairs import dense_columns, wanted_genes

if TYPE_CHECKING:
    from atlasnmf.pipeline.trained import Trained
    from atlasnmf.store.results import ResultWriter

__all__ = ["PairResults", "score_holdout"]

#: Cells that a holdout is scored on, spread evenly over the slice, and genes held dense at a time.
_SCORED_CELLS, _GENES_AT_A_TIME = 131_072, 32
#: Nearest cells that baselines C and D average over.
_NEIGHBOURS = 30
#: Imputed values computed at a time.
_IMPUTED_VALUES = 1 << 22


def score_holdout(fit: Trained) -> tuple[dict[str, Any], dict[str, Any]]:
    """Score the genes that were hidden from the fine slice, beside imputation without a model.

    Returns
    -------
    figures
        Means over genes: of every score of the model and ``baselines``, the R2 of A to D.
    table
        The same by gene, with total counts and the share of zeros that was seen, and that is predicted for
        as many counts; empty without a holdout.

    Notes
    -----
    On at most 131 072 cells spread evenly over the slice. Some genes at a time are dense.
    """
    from scipy.spatial import cKDTree

    from atlasnmf.batches.samplers import spread_rows
    from atlasnmf.metrics import GENE_SCORES, gene_scores, predicted_zeros, r_squared, spot_baselines

    folds = fit.model.folds(fit.state)
    if not folds:
        return {}, {}
    source, facts = fit.source, fit.prepared.facts
    assert facts.links is not None
    n_fine = int(facts.n_spots[0])
    rows = spread_rows(source.offsets, _SCORED_CELLS, seed=fit.request.run.seed)[0]
    cells = source.counts.read_rows(rows).to_scipy().tocsc()
    coarse = source.counts.read_rows(np.arange(n_fine, source.n_spots)).to_scipy().tocsc()
    positions = fit.prepared.working.vector("coordinates")[rows]
    _, neighbours = cKDTree(positions).query(positions, k=min(_NEIGHBOURS, len(rows)))
    neighbours = neighbours.reshape(len(rows), -1)
    spot_of = facts.links[0][rows, 0]
    everything = np.asarray(cells.sum(axis=1)).ravel()
    parts: list[dict[str, np.ndarray]] = []
    for lane, hidden in folds:
        totals = everything - np.asarray(cells[:, hidden].sum(axis=1)).ravel()
        for start in range(0, len(hidden), _GENES_AT_A_TIME):
            genes = hidden[start : start + _GENES_AT_A_TIME]
            measured = dense_columns(cells[:, genes])
            imputed = fit.model.impute(fit.state, rows, genes, lane)
            plain = spot_baselines(dense_columns(coarse[:, genes]), spot_of, totals, neighbours)
            part = {"gene": np.array(facts.genes, dtype=object)[genes]}
            part |= gene_scores(measured, imputed)
            part |= {f"baseline_{name}": r_squared(measured, values) for name, values in plain.items()}
            part["counts"] = measured.sum(axis=0)
            part["coarse_counts"] = np.asarray(coarse[:, genes].sum(axis=0)).ravel().astype(np.float64)
            part["zeros"] = (measured == 0).mean(axis=0)
            # of a gene that the fine slice never showed, the platform's scaling is unknown
            scale = measured.sum(axis=0) / np.maximum(imputed.sum(axis=0), 1e-30)
            part["predicted_zeros"] = predicted_zeros(imputed * scale)
            parts.append(part)
    table = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    figures: dict[str, Any] = {name: _mean(table[name]) for name in GENE_SCORES}
    figures["baselines"] = {name: _mean(table[f"baseline_{name}"]) for name in "ABCD"}
    figures["n_genes"] = len(table["gene"])
    return figures, table | {"n_cells": len(rows)}


class PairResults:
    """Results of a pair: what a model says of a slice's spots stands in the table of that slice."""

    def __init__(self, fit: Trained) -> None:
        self._fit = fit

    def tables(self, slice_index: int) -> list[str]:
        """Return the table of the slice."""
        return [self._fit.atlas.slices[slice_index].table]

    def offer(self, name: str, rows: np.ndarray) -> None:
        """Look at nothing: factors of a pair are compared by their types."""

    def finish(
        self, writer: ResultWriter, uns: dict[str, Any], written: dict[str, list[str]]
    ) -> dict[str, Any]:
        """Write types, depths and imputed genes; return the scores of a holdout and of labels."""
        return _write_pair(writer, self._fit, uns, written)


def _write_pair(
    writer: ResultWriter, fit: Trained, uns: dict[str, Any], written: dict[str, list[str]]
) -> dict[str, Any]:
    """Write the types of cells, add what is known of links and of a holdout to ``uns``; return figures."""
    import pandas as pd

    fine, key = fit.atlas.tables[0], fit.request.key
    names = [f"factor_{k + 1}" for k in range(fit.state.n_factors)]
    codes, depths = np.full(fine.n_spots, -1, dtype=np.int16), np.full(fine.n_spots, np.nan)
    order = fit.prepared.working.vector("order")
    for rows in _runs(fit, _SCORED_CELLS):
        weights = fit.model.weights(fit.state, rows)
        depths[order[rows]] = weights.sum(axis=1)
        codes[order[rows]] = np.where(weights.sum(axis=1) > 0, weights.argmax(axis=1), -1)
    writer.obs(f"{key}_type", {fine.name: pd.Categorical.from_codes(codes, names)})
    writer.obs(f"{key}_depth", {fine.name: depths})
    written[fine.name] += [f"{key}_type", f"{key}_depth"]
    genes = list(fit.prepared.facts.genes)
    known = fit.atlas.tables[1].var_names().astype(np.str_).tolist()
    asked = wanted_genes(fit.request.params, known, genes[: fit.model.method.n_panel])
    fitted = set(genes)
    wanted = [gene for gene in asked if gene in fitted]
    if len(wanted) < len(asked):
        fit.events.warn(
            f"{len(asked) - len(wanted):,} genes to impute were seen in too few spots, and were not fitted"
        )
    if wanted:
        _write_imputed(writer, fit, wanted)
        uns["imputed_genes"] = np.array(wanted, dtype=object)
        written[fine.name].append(f"{key}_imputed")
    links = fit.prepared.working.ledger.facts("links")
    uns["links"] = {name: value for name, value in links.items() if value is not None}
    uns["fine"], uns["coarse"] = (table.name for table in fit.atlas.tables)
    figures, table = score_holdout(fit)
    if table:
        uns["holdout"] = table
    if fit.request.run.labels is not None:
        figures |= _agreement(fine.obs_column(fit.request.run.labels), codes)
    return figures


def _agreement(labels: Any, codes: np.ndarray) -> dict[str, float]:
    """Return how well the factor that leads in a cell agrees with known types, over cells that have both."""
    from atlasnmf.metrics import adjusted_rand, label_codes, normalised_mutual_information

    known, _ = label_codes(np.asarray(labels, dtype=np.object_))
    both = (known >= 0) & (codes >= 0)
    return {
        "ari": round(adjusted_rand(known[both], codes[both]), 5),
        "nmi": round(normalised_mutual_information(known[both], codes[both]), 5),
        "n_labelled": int(both.sum()),
    }


def _runs(fit: Trained, most: int) -> Iterator[np.ndarray]:
    """Yield the fine working rows in runs."""
    n_fine = int(fit.prepared.facts.n_spots[0])
    for start in range(0, n_fine, most):
        yield np.arange(start, min(start + most, n_fine))


def _write_imputed(writer: ResultWriter, fit: Trained, wanted: list[str]) -> None:
    """Write the mean counts of genes for every cell, some cells at a time."""
    place = {gene: at for at, gene in enumerate(fit.prepared.facts.genes)}
    genes = np.array([place[gene] for gene in wanted])
    name = f"{fit.request.key}_imputed"
    writer.per_spot(name, len(genes), tables=[fit.atlas.tables[0].name])
    for rows in _runs(fit, max(_IMPUTED_VALUES // len(genes), 1)):
        writer.put(name, int(rows[0]), fit.model.impute(fit.state, rows, genes).astype(np.float32))


def _mean(values: np.ndarray) -> float:
    return round(float(np.nanmean(values)), 5)
