"""Features of the copied counts: the graph of neighbours, neighbourhood sums, and components."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.pipeline.choices import BASELINE_HOPS
from atlasnmf.pipeline.count_stages import CountStages

if TYPE_CHECKING:
    from atlasnmf.features.components import Components
    from atlasnmf.features.libraries import LogCounts

__all__ = ["FeatureStages"]


class FeatureStages(CountStages):
    """The stages of one atlas that say what is around a spot."""

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

    def _given_digest(self) -> str | None:
        from atlasnmf.store.fingerprint import digest_array

        if self.given is None or self.given.components is None:
            return None
        return digest_array(self.given.components)
