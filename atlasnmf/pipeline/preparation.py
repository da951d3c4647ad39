"""Prepare an atlas: survey, genes, order, counts, graph, neighbourhood features; each stage done once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.errors import BadInput
from atlasnmf.events import SILENT, Events
from atlasnmf.options import PrepareOptions, RunOptions
from atlasnmf.pipeline.checks import refuse_few_slices
from atlasnmf.pipeline.choices import BASELINE_HOPS, Settled, settle
from atlasnmf.pipeline.limits import Limits
from atlasnmf.pipeline.stages import Stages
from atlasnmf.schema import AtlasFacts, Needs
from atlasnmf.threads import operation_threads

if TYPE_CHECKING:
    from dask.distributed import Client

    from atlasnmf.features.components import Components
    from atlasnmf.features.genes import SliceGenes
    from atlasnmf.features.libraries import LogCounts
    from atlasnmf.features.qc import Survey
    from atlasnmf.store.atlas import Atlas
    from atlasnmf.store.counts import CountSource
    from atlasnmf.store.tables import TableHandle
    from atlasnmf.store.working import WorkingCopy

__all__ = ["Preparation", "Prepared", "preparation_for"]


@dataclass(frozen=True)
class Prepared:
    """An atlas ready for a model.

    Parameters
    ----------
    atlas, working
        The user's store and the working copy beside it.
    settled
        The options, with every choice made.
    facts
        What a model may know before it sees a spot.
    keys
        Ledger keys of the stages: together they decide every bit of the features.
    seconds
        What each stage took in this run; skipped stages are absent.
    warnings
        What the user should look at.
    """

    atlas: Atlas
    working: WorkingCopy
    settled: Settled
    facts: AtlasFacts
    keys: dict[str, str]
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """Return the outcome for scripts."""
        return {
            "store": self.atlas.name,
            "n_spots": self.atlas.n_spots,
            "n_used": int(self.facts.n_spots.sum()),
            "slices": dict(zip(self.facts.slices, self.facts.n_spots.tolist(), strict=True)),
            "n_genes": self.facts.n_genes,
            "stages": self.seconds,
            "warnings": list(self.warnings),
        }

    def lines(self) -> list[str]:
        """Return the outcome for people."""
        done = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.seconds.items())
        return [
            f"{self.atlas.name}: {int(self.facts.n_spots.sum()):,} of {self.atlas.n_spots:,} spots, "
            f"{self.facts.n_slices} slices, {self.facts.n_genes:,} genes",
            f"stages: {done or 'all done before'}",
        ]


@dataclass(frozen=True)
class Given:
    """What a trained model has fixed: new spots are seen through it.

    Parameters
    ----------
    genes
        The model's genes, in order.
    components
        Gene components, shape (G, P), or None when the model reads none.
    target_sum
        Counts a spot is scaled to.
    """

    genes: tuple[str, ...]
    components: np.ndarray | None
    target_sum: float


class Preparation:
    """The stages of one atlas, in order, each named in the ledger of its working copy.

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

    def run(self) -> Prepared:
        """Do what is missing.

        Raises
        ------
        BadInput, BadOption
            The atlas or an option cannot be used; the store has not been touched.
        """
        with operation_threads(1):
            return self._run()

    def _run(self) -> Prepared:
        refuse_few_slices(self.atlas, self.needs)
        settled = self.settled
        self.stages.run(
            "survey",
            {"min_genes": settled.min_genes, "integer": settled.integer_counts},
            after=["store"],
            work=self._survey,
        )
        self._say_left_out()
        self.stages.run(
            "genes",
            {
                "genes": settled.genes if self.given is None else list(self.given.genes),
                "n_hvgs": settled.n_hvgs,
                "min_spots": settled.min_spots,
            },
            after=["survey"],
            work=self._genes,
        )
        self._refuse_too_few_genes()
        order = self.stages.run("order", {}, after=["survey"], work=self._order)
        if order["n_duplicated"]:
            self._warn(f"{order['n_duplicated']:,} spots share their coordinates with another (duplicated)")
        self.stages.run("counts", {}, after=["genes", "order"], work=self._counts)
        if settled.graph:
            self.stages.run(
                "graph",
                {
                    "radius": settled.radius,
                    "n_neighbors": settled.n_neighbors,
                    "radius_rule": settled.radius_rule,
                },
                after=["order"],
                work=self._graph,
            )
        if settled.hops:
            self.stages.run(
                "smoothed",
                {"hops": settled.hops, "target_sum": settled.target_sum},
                after=["counts", "graph"],
                work=self._smoothed,
            )
        if settled.n_components:
            self.stages.run(
                "components",
                {
                    "n_components": settled.n_components,
                    "hops": settled.component_hops,
                    "standardise": settled.standardise_genes,
                    "target_sum": settled.target_sum,
                    "seed": self.seed,
                    "given": self._given_digest(),
                },
                after=["counts", "graph"],
                work=self._components,
            )
        if settled.baseline_components:
            self.stages.run(
                "baseline",
                {
                    "n_components": settled.baseline_components,
                    "hops": BASELINE_HOPS,
                    "target_sum": settled.target_sum,
                    "seed": self.seed,
                },
                after=["counts", "graph"],
                work=self._baseline,
            )
        self._more_stages()
        keys = {name: self.stages.key(name) for name in self.stages.names}
        return Prepared(
            self.atlas,
            self.working,
            settled,
            self._facts(),
            keys,
            self.stages.seconds,
            tuple(self.warnings),
        )

    def _more_stages(self) -> None:
        """Do what a kind of atlas needs beside the stages of all."""

    def _given_digest(self) -> str | None:
        from atlasnmf.store.fingerprint import digest_array

        if self.given is None or self.given.components is None:
            return None
        return digest_array(self.given.components)

    # -- stages ---------------------------------------------------------------------------------------------

    def _survey(self, key: str) -> dict[str, Any]:
        from atlasnmf.features.genes import is_mitochondrial
        from atlasnmf.features.qc import refuse_bad_counts, survey
        from atlasnmf.store.layers import layers_of_counts

        codes, kept = self.atlas.slice_codes(), []
        for index, table in enumerate(self.atlas.tables):
            start, stop = self.atlas.table_offsets[index : index + 2]
            genes = table.var_names()
            found = survey(
                self._counts_of(table),
                codes[start:stop],
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

    def _say_left_out(self) -> None:
        kept, codes = self.working.vector("kept"), self.atlas.slice_codes()
        n_left = int(((codes >= 0) & ~kept).sum())
        if n_left:
            spots = "1 spot has" if n_left == 1 else f"{n_left:,} spots have"
            self._warn(f"{spots} fewer than {self.settled.min_genes} detected genes and get NaN results")
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
        for index, table in enumerate(self.atlas.tables):
            found, genes = self._surveyed(index), table.var_names()
            usable = (found.gene_n_spots >= self.settled.min_spots) & ~is_mitochondrial(genes)
            variable = None
            if self.settled.n_hvgs:
                start, stop = self.atlas.table_offsets[index : index + 2]
                variable = highly_variable(
                    self._counts_of(table),
                    codes[start:stop],
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

    def _graph(self, key: str) -> dict[str, Any]:
        from atlasnmf.graph.write import settle_radii, write_graph
        from atlasnmf.store.parts import plan_parts

        coordinates, offsets = self.working.vector("coordinates"), self.working.vector("offsets")
        radii = None
        if self.settled.n_neighbors is None:
            names = [info.name for info in self.atlas.slices]
            radii = settle_radii(
                coordinates, offsets, self.settled.radius, names, rule=self.settled.radius_rule
            )
        target = self.working.create_csr(
            "graph", plan_parts(offsets), n_cols=int(offsets[-1]), dtype=np.uint8, key=key
        )
        degrees = write_graph(
            target,
            coordinates,
            offsets,
            radii=radii,
            n_neighbors=self.settled.n_neighbors,
            stage="neighbours",
            **self.tiling,
        )
        self.working.put_vector("degrees", degrees)
        return {"mean_degree": float(degrees.mean()) - 1, "radii": radii or [], "n_edges": int(target.nnz)}

    def _log_counts(self) -> LogCounts:
        from atlasnmf.features.libraries import LogCounts

        return LogCounts(self.working.csr("counts"), self.working.vector("totals"), self.settled.target_sum)

    def _smoothed(self, key: str) -> None:
        from atlasnmf.features.smooth import write_smoothed

        counts = self.working.csr("counts")
        targets = [
            self.working.create_csr(
                f"smoothed_{hop}", counts.parts, n_cols=counts.n_cols, dtype=np.float32, key=key
            )
            for hop in range(1, self.settled.hops + 1)
        ]
        write_smoothed(
            self._log_counts(),
            self.working.csr("graph"),
            targets,
            degrees=self.working.vector("degrees"),
            stage="smooth",
            **self.tiling,
        )

    def _components(self, key: str) -> dict[str, Any]:
        found = self._given_components() or self._found_components(
            self.settled.n_components, self.settled.component_hops, self.settled.standardise_genes
        )
        scale = self._write_scores("scores", found, key)
        self.working.put_vector("components", found.loadings)
        self.working.put_vector("centres", found.centres)
        self.working.put_vector("component_scale", scale)
        return {"n_passes": found.n_passes, "residual": found.residual}

    def _baseline(self, key: str) -> dict[str, Any]:
        found = self._found_components(self.settled.baseline_components, BASELINE_HOPS, False)
        self._write_scores("baseline_scores", found, key)
        return {"n_passes": found.n_passes, "residual": found.residual}

    def _write_scores(self, name: str, found: Components, key: str) -> np.ndarray:
        from atlasnmf.features.components import write_scores

        target = self.working.create_dense(
            name,
            self.working.csr("counts").parts,
            row_shape=(found.hops + 1, found.loadings.shape[1]),
            key=key,
        )
        graph = self.working.csr("graph")
        return write_scores(self._log_counts(), graph, found, target, stage="scores", **self.tiling)

    def _found_components(self, n_components: int, hops: int, standardise: bool, **part: Any) -> Components:
        from atlasnmf.features.components import find_components

        n_genes = self.working.csr("counts").n_cols
        return find_components(
            self._log_counts(),
            self.working.csr("graph"),
            self.working.vector("offsets"),
            n_genes,
            n_components=min(n_components, n_genes - 1),
            hops=hops,
            standardise=standardise,
            seed=self.seed,
            stage="components",
            **part,
            **self.tiling,
        )

    def _given_components(self) -> Components | None:
        """Return a trained model's components, centred on the slices of this atlas."""
        from atlasnmf.features.components import Components, slice_means

        if self.given is None or self.given.components is None:
            return None
        loadings = self.given.components
        means = slice_means(
            self._log_counts(),
            self.working.csr("graph"),
            self.working.vector("offsets"),
            len(loadings),
            self.settled.component_hops,
            stage="centres",
            **self.tiling,
        )
        return Components(loadings, np.zeros(loadings.shape[1]), means, n_passes=0, residual=0.0)

    def _facts(self) -> AtlasFacts:
        vector = self.working.vector
        offsets = vector("offsets")
        components: dict[str, Any] = {}
        if self.settled.n_components:
            components = {name: vector(name) for name in ("components", "centres", "component_scale")}
        return AtlasFacts(
            slices=tuple(info.name for info in self.atlas.slices),
            n_spots=np.diff(offsets),
            genes=tuple(vector("genes").tolist()),
            gene_mask=vector("gene_mask").astype(bool),
            gene_sums=vector("gene_sums"),
            nnz_per_spot=self.working.csr("counts").nnz / max(int(offsets[-1]), 1),
            target_sum=self.settled.target_sum,
            **components,
        )

    def _warn(self, message: str) -> None:
        self.warnings.append(message)
        self.events.warn(message)


def preparation_for(needs: Needs) -> type[Preparation]:
    """Return the stages that suit an atlas: of a pair, of slices in one frame, or of any slices."""
    if needs.pair is not None:
        from atlasnmf.pipeline.pairs import PairPreparation

        return PairPreparation
    if needs.frame is not None:
        from atlasnmf.pipeline.frames import FramePreparation

        return FramePreparation
    return Preparation


_SURVEYED = ("totals", "n_genes", "kept", "n_spots", "sums", "squares", "gene_n_spots")
