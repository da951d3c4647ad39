"""A fine and a coarse slice of one tissue: what is refused, and how they are linked."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.pipeline.preparation import Preparation
from atlasnmf.schema import AtlasFacts, PairNeeds

if TYPE_CHECKING:
    from atlasnmf.features.pairing import Links
    from atlasnmf.pipeline.request import FitRequest
    from atlasnmf.store.atlas import Atlas

__all__ = [
    "PairPreparation",
    "check_pair",
    "common_genes",
    "dense_columns",
    "wanted_genes",
]

#: Genes that an alignment is estimated from, and cells it looks at.
_ALIGN_GENES, _ALIGN_CELLS = 40, 20_000
#: A share of linked cells below this is worth a warning.
_FEW_LINKED = 0.5


def common_genes(atlas: Atlas) -> list[str]:
    """Return the genes that both tables of a pair have, sorted."""
    fine, coarse = (table.var_names().astype(np.str_) for table in atlas.tables)
    return sorted(set(fine.tolist()) & set(coarse.tolist()))


def check_pair(atlas: Atlas, request: FitRequest, pair: PairNeeds) -> None:
    """Refuse a pair that cannot be used; reads names and positions, no counts.

    Raises
    ------
    BadOption
        The tables are not named, or an option has no usable value.
    BadInput
        No common genes, fewer of them than factors, genes to hold out that are not there, frames that do not
        overlap.
    """
    from atlasnmf import models
    from atlasnmf.store.names import no_such

    if atlas.n_slices != 2 or len(atlas.tables) != 2:
        names = ", ".join(table.name for table in atlas.tables)
        raise BadOption(f"{atlas.name} has tables {names}; name the two of the pair by --fine and --coarse")
    if getattr(request.params, "tables", None) is None:
        names = " and ".join(table.name for table in atlas.tables)
        raise BadOption(f"which of {names} is which? name the tables by --fine and --coarse")
    genes = common_genes(atlas)
    fine, coarse = atlas.tables
    if not genes:
        raise BadInput(
            f"tables {fine.name!r} and {coarse.name!r} have no gene in common (such as "
            f"{str(fine.var_names()[0])!r} and {str(coarse.var_names()[0])!r}); use one kind of gene names"
        )
    needs = models.needs(request.model, request.params, atlas.n_spots)
    if needs.min_genes > len(genes):
        raise BadInput(
            f"{needs.min_genes} factors are more than the {len(genes)} genes that {fine.name!r} and "
            f"{coarse.name!r} share; ask for fewer (--n-factors)"
        )
    models.check(request.model, request.params, tuple(genes), request.run.seed)
    wanted_genes(request.params, coarse.var_names().astype(np.str_).tolist(), genes)
    labels = request.run.labels
    if labels is not None and labels not in fine.obs_columns():
        raise BadOption(
            f"--labels: {no_such('obs column', labels, fine.obs_columns(), f'table {fine.name!r}')}"
        )
    if not pair.align:
        _linked(atlas.coordinates_of(fine), atlas.coordinates_of(coarse), pair)


def wanted_genes(params: Any, known: list[str], panel: list[str]) -> list[str]:
    """Return the genes to write imputed counts of; raises BadInput for one that the coarse table lacks."""
    if not params.impute:
        return []
    if params.impute in ("all", "panel"):
        return known if params.impute == "all" else panel
    names = [name.strip() for name in params.impute.split(",") if name.strip()]
    missing = sorted(set(names) - set(known))
    if missing:
        raise BadInput(f"--impute: {missing[0]!r} is no gene of the coarse table; name genes that it has")
    return names


def _linked(fine: np.ndarray, coarse: np.ndarray, pair: PairNeeds, affine: np.ndarray | None = None) -> Links:
    from atlasnmf.features.pairing import link_spots, parse_affine, spacing, transformed

    if affine is None and pair.affine is not None:
        affine = parse_affine(pair.affine, fine.shape[1])
    moved = fine if affine is None else transformed(fine, affine)
    return link_spots(moved, coarse, pair.max_distance or spacing(coarse), n_spots=pair.n_links)


class PairPreparation(Preparation):
    """Genes of the coarse slice, those of the panel first, and a link for every cell."""

    def _pair(self) -> PairNeeds:
        assert self.needs.pair is not None
        return self.needs.pair

    def _genes(self, key: str) -> dict[str, Any]:
        from atlasnmf.features.genes import is_mitochondrial

        names, seen = [], []
        for index, table in enumerate(self.atlas.tables):
            genes = table.var_names().astype(np.str_)
            enough = self._surveyed(index).gene_n_spots[index] >= self.settled.min_spots
            usable = enough & ~is_mitochondrial(genes)
            names.append(set(genes.tolist()))
            seen.append(set(genes[usable].tolist()))
        panel = sorted(seen[0] & seen[1])
        others = sorted(seen[1] - names[0]) if self._pair().coarse_only else []
        mask = np.ones((2, len(panel) + len(others)), dtype=bool)
        mask[0, len(panel) :] = False
        self.working.put_vector("genes", [*panel, *others])
        self.working.put_vector("gene_mask", mask)
        return {"n_genes": mask.shape[1], "n_panel": len(panel), "n_fine_only": len(names[0] - names[1])}

    def _refuse_too_few_genes(self) -> None:
        facts = self.working.ledger.facts("genes")
        fine, coarse = (table.name for table in self.atlas.tables)
        if facts["n_panel"] < self.needs.min_genes:
            raise BadInput(
                f"tables {fine!r} and {coarse!r} share {facts['n_panel']} genes seen in "
                f"{self.settled.min_spots} spots or more, fewer than {self.needs.min_genes}; "
                "lower --n-factors or --min-spots"
            )
        if facts["n_fine_only"]:
            genes = "1 gene" if facts["n_fine_only"] == 1 else f"{facts['n_fine_only']:,} genes"
            self._warn(f"{genes} of {fine!r} are not in {coarse!r} and are not used")

    def _more_stages(self) -> None:
        pair = self._pair()
        found = self.stages.run(
            "links",
            {
                "max_distance": pair.max_distance,
                "n_links": pair.n_links,
                "affine": pair.affine,
                "align": pair.align,
                "seed": self.seed if pair.align else None,
            },
            after=["counts" if pair.align else "order"],
            work=self._links,
        )
        self._say_links(found)

    def _links(self, key: str) -> dict[str, Any]:
        offsets, coordinates = self.working.vector("offsets"), self.working.vector("coordinates")
        fine, coarse = coordinates[: offsets[1]], coordinates[offsets[1] :]
        facts: dict[str, Any] = {"score": None, "max_distance": self._reach(coarse)}
        affine = None
        if self._pair().align:
            affine, facts["score"] = self._aligned(fine, coarse)
            facts["affine"] = affine.tolist()
        links = _linked(fine, coarse, self._pair(), affine)
        self.working.put_vector("link_spots", links.spots)
        self.working.put_vector("link_weights", links.weights)
        return facts | {"share": links.share_linked, "n_empty": links.n_empty(len(coarse))}

    def _reach(self, coarse: np.ndarray) -> float:
        from atlasnmf.features.pairing import spacing

        return self._pair().max_distance or spacing(coarse)

    def _aligned(self, fine: np.ndarray, coarse: np.ndarray) -> tuple[np.ndarray, float]:
        from atlasnmf.features.pairing import align_rigid
        from atlasnmf.seeds import rng_for

        if fine.shape[1] != 2:
            raise BadOption("--align works in the plane; give an --affine for positions of three dimensions")
        counts = self.working.csr("counts")
        n_panel = self.working.ledger.facts("genes")["n_panel"]
        sums = self._gene_sums()[:, :n_panel].min(axis=0)
        genes = np.sort(np.argsort(-sums)[:_ALIGN_GENES])
        rng = rng_for(self.seed, "siid", "align")
        cells = np.sort(rng.permutation(len(fine))[:_ALIGN_CELLS])
        spots = len(fine) + np.arange(len(coarse))
        found = align_rigid(
            fine[cells],
            coarse,
            dense_columns(counts.read_rows(cells).to_scipy()[:, genes]),
            dense_columns(counts.read_rows(spots).to_scipy()[:, genes]),
            max_distance=self._reach(coarse),
            rng=rng,
        )
        if not found.trusted:
            self._warn(
                f"the estimated alignment scores {found.score:.2f}, too little to be trusted: look at where "
                "cells and spots lie, or give an --affine"
            )
        return found.affine, found.score

    def _say_links(self, found: dict[str, Any]) -> None:
        fine, coarse = (table.name for table in self.atlas.tables)
        reach = f"{found['max_distance']:.3g} units of the coordinates"
        if found["share"] < 1:
            more = "; check the frames or --max-distance" if found["share"] < _FEW_LINKED else ""
            self._warn(
                f"{1 - found['share']:.1%} of the cells of {fine!r} lie farther than {reach} from every spot "
                f"of {coarse!r} and are fitted without it{more}"
            )
        if found["n_empty"]:
            spots = "1 spot" if found["n_empty"] == 1 else f"{found['n_empty']:,} spots"
            self._warn(f"{spots} of {coarse!r} have no cells and get NaN results")

    def _facts(self) -> AtlasFacts:
        links = self.working.vector("link_spots"), self.working.vector("link_weights")
        return replace(super()._facts(), links=links)


def dense_columns(matrix: Any) -> np.ndarray:
    """Return a few columns as an array, float64."""
    stored = matrix.tocoo()
    out = np.zeros(stored.shape)
    out[stored.row, stored.col] = stored.data
    return out
