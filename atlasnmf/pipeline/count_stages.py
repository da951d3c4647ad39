"""Counts into the working copy: survey of the tables, choice of genes, order in space, and the copy."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.errors import BadInput
from atlasnmf.events import SILENT, Events
from atlasnmf.options import PrepareOptions, RunOptions
from atlasnmf.pipeline.choices import settle
from atlasnmf.pipeline.limits import Limits
from atlasnmf.pipeline.prepared import Given
from atlasnmf.pipeline.stages import Stages
from atlasnmf.schema import Needs

if TYPE_CHECKING:
    from dask.distributed import Client

    from atlasnmf.features.genes import SliceGenes
    from atlasnmf.features.qc import Survey
    from atlasnmf.store.atlas import Atlas
    from atlasnmf.store.counts import CountSource
    from atlasnmf.store.tables import TableHandle
    from atlasnmf.store.working import WorkingCopy

__all__ = ["CountStages"]

_SURVEYED = ("totals", "n_genes", "kept", "n_spots", "sums", "squares", "gene_n_spots")


class CountStages:
    """The stages of one atlas that read its tables; those after them read the working copy alone.

    Parameters
    ----------
    atlas
        The user's store.
    working
        Its working copy, locked by the caller.
    needs
        What the model asks for.
    options, run
        What the user said.
    given
        Genes and components of a trained model, instead of those this atlas would choose.
    client
        A Dask client for the tiles, or None for threads of this process.
    events
        The listener.
    """

    def __init__(
        self,
        atlas: Atlas,
        working: WorkingCopy,
        needs: Needs,
        options: PrepareOptions,
        run: RunOptions,
        *,
        given: Given | None = None,
        client: Client | None = None,
        events: Events = SILENT,
    ) -> None:
        self.atlas, self.working, self.needs = atlas, working, needs
        self.limits = Limits.of(run)
        self.seed = run.seed
        self.events = events
        self.warnings: list[str] = []
        self._sources: dict[str, CountSource] = {}
        self.tiling: dict[str, Any] = {
            "client": client,
            "n_workers": self.limits.n_workers,
            "events": events,
        }
        shared = set.intersection(*(set(table.var_names()) for table in atlas.tables))
        self.settled = settle(options, needs, len(shared))
        self.given = given
        if given is not None:
            self.settled = replace(self.settled, target_sum=given.target_sum, genes="given", n_hvgs=0)
        self.stages = Stages(working, atlas.fingerprint())

    def _survey(self, key: str) -> dict[str, Any]:
        from atlasnmf.features.genes import is_mitochondrial
        from atlasnmf.features.qc import refuse_bad_counts, survey
        from atlasnmf.store.layers import layers_of_counts

        codes, kept = self.atlas.slice_codes(), []
        for index, (table, spots) in enumerate(self.atlas.table_spots()):
            genes = table.var_names()
            found = survey(
                self._counts_of(table),
                codes[spots],
                n_slices=self.atlas.n_slices,
                n_cols=table.n_genes,
                use=~is_mitochondrial(genes),
                min_genes=self.settled.min_genes,
                stage=f"survey {table.name}",
                **self.tiling,
            )
            doubted = found.check.n_fractional + found.check.n_negative
            refuse_bad_counts(
                found.check,
                where=table.counts.where,
                spots=table.obs_names(),
                genes=genes,
                integer=self.settled.integer_counts,
                count_layers=layers_of_counts(table) if doubted else (),
            )
            for name in _SURVEYED:
                self.working.put_vector(f"survey_{name}_{index}", getattr(found, name))
            kept.append(found.kept)
        self.working.put_vector("kept", np.concatenate(kept))
        return {"n_kept": int(np.concatenate(kept).sum())}

    def _counts_of(self, table: TableHandle) -> CountSource:
        """Return counts that read by rows; those stored by columns are turned once, in the working copy."""
        from atlasnmf.store.columns import readable_counts

        if table.name not in self._sources:
            budget = self.limits.budget.array_bytes // 2
            self._sources[table.name] = readable_counts(table, self.working, budget_bytes=budget)
        return self._sources[table.name]

    def _surveyed(self, index: int) -> Survey:
        from atlasnmf.features.qc import CountCheck, Survey

        parts = {name: self.working.vector(f"survey_{name}_{index}") for name in _SURVEYED}
        return Survey(check=CountCheck(), **parts)

    def _say_numbered(self) -> None:
        """Say that names of genes were never set: AnnData numbers them, and numbers join what is unlike."""
        for table in self.atlas.tables:
            names = table.var_names()
            if np.array_equal(names, np.arange(len(names)).astype(str)):
                others = " and join tables by position" if len(self.atlas.tables) > 1 else ""
                self._warn(
                    f"genes of table {table.name!r} are named by numbers (0, 1, 2) that tell a reader nothing"
                    f"{others}; if a column of var has names, store them: adata.var_names = adata.var['gene']"
                )
                return

    def _say_left_out(self) -> None:
        kept, codes = self.working.vector("kept"), self.atlas.slice_codes()
        n_left = int(((codes >= 0) & ~kept).sum())
        if n_left:
            spots = "1 spot has" if n_left == 1 else f"{n_left:,} spots have"
            fewest = self.settled.min_genes
            few = "no detected gene" if fewest <= 1 else f"fewer than {fewest} detected genes"
            get = "gets" if n_left == 1 else "get"
            self._warn(f"{spots} {few} and {get} NaN results")
        sizes = np.bincount(codes[kept], minlength=self.atlas.n_slices)
        for info, size in zip(self.atlas.slices, sizes, strict=True):
            if size == 0:
                raise BadInput(
                    f"slice {info.name!r} has no spots with {self.settled.min_genes} detected genes or more; "
                    "lower --min-genes or leave the slice out"
                )

    def _genes(self, key: str) -> dict[str, Any]:
        from atlasnmf.features.genes import SliceGenes, is_mitochondrial
        from atlasnmf.features.hvg import highly_variable

        if self.given is not None:
            tables = [self.atlas.table(info.table) for info in self.atlas.slices]
            has = [np.isin(self.given.genes, table.var_names().astype(np.str_)) for table in tables]
            self.working.put_vector("genes", self.given.genes)
            self.working.put_vector("gene_mask", np.stack(has))
            return {"n_genes": len(self.given.genes)}
        codes, entries = self.atlas.slice_codes(), []
        names = tuple(info.name for info in self.atlas.slices)
        for index, (table, spots) in enumerate(self.atlas.table_spots()):
            found, genes = self._surveyed(index), table.var_names()
            usable = (found.gene_n_spots >= self.settled.min_spots) & ~is_mitochondrial(genes)
            variable = None
            if self.settled.n_hvgs:
                variable = highly_variable(
                    self._counts_of(table),
                    codes[spots],
                    found,
                    usable,
                    self.settled.n_hvgs,
                    slice_names=names,
                    stage=f"variable genes {table.name}",
                    **self.tiling,
                )
            for s in np.flatnonzero(found.n_spots):
                own = None if variable is None else variable[s]
                entries.append((s, SliceGenes(names[s], genes, usable[s], own)))
        entries.sort(key=lambda entry: entry[0])
        chosen, mask = self._pick_genes([entry for _, entry in entries])
        self.working.put_vector("genes", chosen)
        self.working.put_vector("gene_mask", mask)
        return {"n_genes": len(chosen)}

    def _pick_genes(self, entries: list[SliceGenes]) -> tuple[tuple[str, ...], np.ndarray]:
        """Choose the model's genes from those of the slices; return them and which slice measured which."""
        from atlasnmf.features.genes import choose_genes

        choice = choose_genes(entries, union=self.settled.genes == "union")
        return choice.genes, choice.mask

    def _refuse_too_few_genes(self) -> None:
        n_genes = len(self.working.vector("genes"))
        if n_genes < self.needs.min_genes:
            raise BadInput(
                f"the model needs at least {self.needs.min_genes} genes and the slices share "
                f"{n_genes} usable ones; ask for fewer factors (--n-factors, --ranks), raise --n-hvgs, "
                "or take --genes union"
            )

    def _order(self, key: str) -> dict[str, Any]:
        from atlasnmf.graph.build import count_duplicates
        from atlasnmf.tiles.order import spatial_order

        coordinates, kept = self.atlas.coordinates(), self.working.vector("kept")
        codes = np.where(kept, self.atlas.slice_codes(), -1)
        order, offsets = spatial_order(coordinates, codes)
        coordinates = coordinates[order]
        self.working.put_vector("order", order)
        self.working.put_vector("offsets", offsets)
        self.working.put_vector("coordinates", coordinates)
        slices = pairwise(offsets)
        return {"n_duplicated": sum(count_duplicates(coordinates[start:stop]) for start, stop in slices)}

    def _counts(self, key: str) -> dict[str, Any]:
        from atlasnmf.store.copy import copy_counts

        counts = copy_counts(
            self.atlas,
            self.working,
            name="counts",
            order=self.working.vector("order"),
            offsets=self.working.vector("offsets"),
            genes=self.working.vector("genes").tolist(),
            key=key,
            budget_bytes=self.limits.budget.array_bytes,
            n_workers=self.limits.n_workers,
            sources={table.name: self._counts_of(table) for table in self.atlas.tables},
            events=self.events,
        )
        totals = np.concatenate(
            [self.working.vector(f"survey_totals_{i}") for i in range(len(self.atlas.tables))]
        )
        self.working.put_vector("totals", totals[self.working.vector("order")].astype(np.float32))
        self.working.put_vector("gene_sums", self._gene_sums())
        return {"nnz": int(counts.nnz)}

    def _gene_sums(self) -> np.ndarray:
        """Sum the counts of the model's genes by slice, from what the survey found, shape (S, G)."""
        from atlasnmf.features.genes import gene_lookup

        genes = self.working.vector("genes").tolist()
        sums = np.zeros((self.atlas.n_slices, len(genes)))
        for index, table in enumerate(self.atlas.tables):
            lut = gene_lookup(table.var_names(), genes)
            sums[:, lut[lut >= 0]] += self._surveyed(index).sums[:, lut >= 0]
        return sums

    def _warn(self, message: str) -> None:
        self.warnings.append(message)
        self.events.warn(message)
