"""Prepare an atlas: which stages, in which order, on what each depends; done once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.errors import BadInput
from atlasnmf.pipeline.choices import BASELINE_HOPS
from atlasnmf.pipeline.feature_stages import FeatureStages
from atlasnmf.pipeline.prepared import Prepared
from atlasnmf.schema import AtlasFacts, Needs
from atlasnmf.threads import operation_threads

if TYPE_CHECKING:
    from atlasnmf.store.atlas import Atlas

__all__ = ["Preparation", "refuse_few_slices"]


class Preparation(FeatureStages):
    """The stages of one atlas, in order, each named in the ledger of its working copy."""

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
        self._say_numbered()
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


def refuse_few_slices(atlas: Atlas, needs: Needs) -> None:
    """Refuse an atlas with fewer slices than the model needs."""
    if atlas.n_slices < needs.min_slices:
        slices = "1 slice" if atlas.n_slices == 1 else f"{atlas.n_slices} slices"
        raise BadInput(
            f"{atlas.name} has {slices} and the model needs {needs.min_slices}; "
            "give --slice-key, ingest more slices, or fit without adversaries (--gan-weight 0)"
        )
