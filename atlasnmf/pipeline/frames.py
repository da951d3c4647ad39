"""Slices that may measure different things, brought into one frame: kinds of features, and registration."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.pipeline.choices import PANEL_GENES, PANEL_SUM, SEQUENCING_SUM
from atlasnmf.pipeline.frame_notes import Laid, frame_notes
from atlasnmf.pipeline.preparation import Preparation
from atlasnmf.schema import AtlasFacts, Frame, FrameNeeds, Needs
from atlasnmf.seeds import rng_for

if TYPE_CHECKING:
    from atlasnmf.features.components import Components
    from atlasnmf.features.registration import Note
    from atlasnmf.features.rigid import Rigid
    from atlasnmf.pipeline.request import FitRequest
    from atlasnmf.store.atlas import Atlas

__all__ = ["FramePreparation", "check_frame", "kinds_of"]

#: Slices measure the same kind of features when at least this share of the smaller set is common.
_COMMON = 0.5
#: Components that slices are cut into groups by.
_GROUP_COMPONENTS = 10


def kinds_of(atlas: Atlas, features: str) -> np.ndarray:
    """Give slices that measure the same kind of features the same number, by names alone.

    Parameters
    ----------
    atlas
        The slices.
    features
        ``auto``, ``shared`` or ``own`` (see :class:`atlasnmf.schema.FrameNeeds`).

    Returns
    -------
    kinds
        int64, shape (S,), from 0 in the order of slices.
    """
    if features == "own":
        return np.arange(atlas.n_slices)
    names = [set(atlas.table(info.table).var_names().tolist()) for info in atlas.slices]
    kinds: list[int] = []
    leaders: list[int] = []
    for own in names:
        common = [len(own & names[s]) / max(min(len(own), len(names[s])), 1) for s in leaders]
        like = next((kind for kind, share in enumerate(common) if share >= _COMMON), None)
        if features == "shared" and leaders:
            like = 0
        if like is None:
            like = len(leaders)
            leaders.append(len(kinds))
        kinds.append(like)
    return np.array(kinds)


def check_frame(atlas: Atlas, request: FitRequest, needs: Needs) -> None:
    """Refuse slices that cannot be embedded or compared; reads names, no counts.

    Raises
    ------
    BadInput
        A slice has fewer features than the model needs, or slices said to share features have none in common.
    BadOption
        A gene named by an option is in no slice.
    """
    from atlasnmf import models
    from atlasnmf.errors import BadInput

    assert needs.frame is not None
    for info in atlas.slices:
        n_features = atlas.table(info.table).n_genes
        if n_features < needs.min_genes:
            raise BadInput(
                f"slice {info.name!r} has {n_features} features and the model needs {needs.min_genes}; "
                "ask for fewer --heads"
            )
    if needs.frame.features == "shared" and atlas.n_slices > 1:
        names = [set(atlas.table(info.table).var_names().tolist()) for info in atlas.slices]
        if not set.intersection(*names):
            raise BadInput(
                f"the slices of {atlas.name} have no feature in common to share an encoder; "
                "leave --encoders out, or give each its own (--encoders own)"
            )
    models.check(request.model, request.params, atlas.genes, request.run.seed)


class FramePreparation(Preparation):
    """Features by kind, and the positions of all slices in the frame of the first."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        assert self.needs.frame is not None
        self.frame: FrameNeeds = self.needs.frame
        self.kinds = kinds_of(self.atlas, self.frame.features)
        if self.n_kinds > 1:
            self._settle_kinds(arguments[3])

    @property
    def n_kinds(self) -> int:
        """Kinds of features."""
        return int(self.kinds.max()) + 1

    def _members(self, kind: int) -> list[int]:
        return np.flatnonzero(self.kinds == kind).tolist()

    def _settle_kinds(self, options: Any) -> None:
        """Choose by the largest kind what is chosen by the number of genes."""
        sizes = [self.atlas.table(info.table).n_genes for info in self.atlas.slices]
        panel = max(sizes) <= PANEL_GENES
        self.settled = replace(
            self.settled,
            genes="kinds",
            n_hvgs=0 if panel else (self.needs.n_hvgs if options.n_hvgs is None else options.n_hvgs),
            target_sum=options.target_sum or (PANEL_SUM if panel else SEQUENCING_SUM),
        )

    # -- genes ----------------------------------------------------------------------------------------------

    def _pick_genes(self, entries: list[Any]) -> tuple[tuple[str, ...], np.ndarray]:
        """Choose the genes of each kind by itself; one that two kinds chose is a column of both."""
        from atlasnmf.features.genes import choose_genes

        if self.n_kinds == 1:
            return super()._pick_genes(entries)
        chosen: list[tuple[str, ...]] = []
        for kind in range(self.n_kinds):
            own = [entries[s] for s in self._members(kind)]
            if min(len(entry.genes) for entry in own) <= PANEL_GENES:
                own = [replace(entry, variable=None) for entry in own]
            chosen.append(choose_genes(own).genes)
        genes = tuple(sorted(set().union(*chosen)))
        mask = np.stack([np.isin(np.array(genes), np.array(chosen[kind])) for kind in self.kinds])
        return genes, mask

    def _refuse_too_few_genes(self) -> None:
        from atlasnmf.errors import BadInput

        mask = self.working.vector("gene_mask").astype(bool)
        for info, n_genes in zip(self.atlas.slices, mask.sum(axis=1), strict=True):
            if n_genes < self.needs.min_genes:
                raise BadInput(
                    f"slice {info.name!r} has {n_genes} usable features and the model needs "
                    f"{self.needs.min_genes}; ask for fewer --heads, or lower --min-spots"
                )

    # -- components, each kind's own ------------------------------------------------------------------------

    def _components(self, key: str) -> dict[str, Any]:
        if self.n_kinds == 1:
            return super()._components(key)
        settled = self.settled
        return self._by_kind(
            "scores",
            {"components": "loadings", "centres": "centres"},
            settled.n_components,
            settled.component_hops,
            key,
        )

    def _baseline(self, key: str) -> dict[str, Any]:
        if self.n_kinds == 1:
            return super()._baseline(key)
        from atlasnmf.pipeline.choices import BASELINE_HOPS

        return self._by_kind("baseline_scores", {}, self.settled.baseline_components, BASELINE_HOPS, key)

    def _by_kind(
        self, name: str, kept: dict[str, str], n_components: int, hops: int, key: str
    ) -> dict[str, Any]:
        """Find the components of each kind and write the scores of its slices."""
        from atlasnmf.features.components import write_scores

        mask = self.working.vector("gene_mask").astype(bool)
        genes = [mask[self._members(kind)[0]] for kind in range(self.n_kinds)]
        width = min(n_components, *(int(own.sum()) - 1 for own in genes))
        target = self.working.create_dense(
            name, self.working.csr("counts").parts, row_shape=(hops + 1, width), key=key
        )
        found: list[Components] = []
        scales = []
        for kind, own in enumerate(genes):
            members = self._members(kind)
            standardise = bool(self.settled.standardise_genes and own.sum() > PANEL_GENES)
            components = self._found_components(width, hops, standardise, slices=members, genes=own)
            graph = self.working.csr("graph")
            scales.append(
                write_scores(
                    self._log_counts(),
                    graph,
                    components,
                    target,
                    slices=members,
                    stage=f"scores of kind {kind + 1}",
                    **self.tiling,
                )
            )
            found.append(components)
        if kept:
            self.working.put_vector("components", np.stack([part.loadings for part in found]))
            self.working.put_vector("centres", np.sum([part.centres for part in found], axis=0))
            self.working.put_vector("component_scale", np.stack(scales))
        return {
            "n_passes": max(part.n_passes for part in found),
            "residual": max(part.residual for part in found),
        }

    # -- one frame ------------------------------------------------------------------------------------------

    def _more_stages(self) -> None:
        after = ["order"] if self.frame.register_by in ("icp", "ndt", "none") else ["components"]
        if "components" not in self.stages.names:
            after = ["order"]
        found = self.stages.run(
            "frame",
            {
                "register_by": self.frame.register_by,
                "reflection": self.frame.reflection,
                "partners": self.frame.partners,
                "seed": self.seed,
            },
            after=after,
            work=self._frame,
        )
        for note in found["notes"]:
            self._warn(note)

    def _frame(self, key: str) -> dict[str, Any]:
        from atlasnmf.features.pairing import spacing

        offsets = self.working.vector("offsets")
        given = [self.working.vector("coordinates")[lo:hi] for lo, hi in pairwise(offsets)]
        if all(not np.ptp(part[:, 2:], axis=0).any() for part in given):
            given = [part[:, :2] for part in given]  # a height that every slice keeps makes no volume
        names = [info.name for info in self.atlas.slices]
        placed, laid = [given[0]], []
        moves: list[dict[str, Any]] = [{"method": "none", "score": 1.0, "onto": names[0], "trusted": True}]
        for s in range(1, len(given)):
            onto = 0 if self.frame.partners == "first" else s - 1
            found = self._laid(given[s], placed[onto], s, onto)
            if found is None:
                placed.append(given[s])
                moves.append({"method": "none", "score": 1.0, "onto": names[onto], "trusted": True})
                continue
            placed.append(found.rigid.apply(given[s]))
            laid.append(found)
            moves.append(
                {
                    "method": found.method,
                    "score": float(found.score),
                    "onto": names[onto],
                    "rotation": found.rigid.rotation.tolist(),
                    "shift": found.rigid.shift.tolist(),
                    "reflected": bool(found.rigid.reflected),
                    "trusted": found.trusted,
                }
            )
        self.working.put_vector("positions", np.concatenate(placed))
        # a lone spot takes the spacing of its partners
        spacings = [spacing(part) if len(part) > 1 else 0.0 for part in placed]
        self.working.put_vector("spacing", np.array(spacings))
        self.working.put_vector("trusted", np.array([move["trusted"] for move in moves]))
        return {"moves": moves, "notes": frame_notes(laid)}

    def _laid(self, moving: np.ndarray, fixed: np.ndarray, s: int, onto: int) -> Laid | None:
        """Lay one slice onto another; None where positions are taken as they are."""
        from atlasnmf.features.registration import FEWEST_SPOTS, POOR_SCORE, register
        from atlasnmf.features.rigid import Rigid

        method = self.frame.register_by
        if method == "none" or moving.shape[1] != 2:
            return None
        slices, alike = self.atlas.slices, bool(self.kinds[s] == self.kinds[onto])
        of = partial(Laid, slices[s].name, slices[onto].name, alike)
        if min(len(moving), len(fixed)) < FEWEST_SPOTS:
            return of(Rigid.identity(), "none", 0.0, False)
        features = None
        if method in ("auto", "features") and "components" in self.stages.names:
            features = self._averaged(s), self._averaged(onto)
            if not alike:
                by_maps = of(*self._laid_by_maps(moving, fixed, *features, s))
                if by_maps.trusted or method == "features":
                    return by_maps
                features = None
        found = register(
            moving,
            fixed,
            method=method,
            reflection=self.frame.reflection,
            features=features,
            rng=rng_for(self.seed, "spatialfuser", "registration", s),
        )
        trusted = bool(found.score >= POOR_SCORE)
        return of(found.rigid, found.method, float(found.score), trusted, found.notes)

    def _averaged(self, s: int) -> np.ndarray:
        """Return the most averaged scores of a slice."""
        offsets = self.working.vector("offsets")
        return self.working.dense("scores").read(*offsets[s : s + 2].tolist())[:, -1]

    def _laid_by_maps(
        self, moving: np.ndarray, fixed: np.ndarray, own: np.ndarray, other: np.ndarray, s: int
    ) -> tuple[Rigid, str, float, bool, tuple[Note, ...]]:
        """Lay a slice onto one that measures something else, by what the groups of one say of the other's."""
        from atlasnmf.features.registration import unit_notes
        from atlasnmf.features.tissue_maps import POOR_SCORE, register_maps, tissue_groups

        rng = rng_for(self.seed, "spatialfuser", "tissue maps", s)
        n_components = min(_GROUP_COMPONENTS, own.shape[1])
        groups = [tissue_groups(rows[:, :n_components], rng) for rows in (own, other)]
        found = register_maps(moving, fixed, *groups, reflection=self.frame.reflection, rng=rng)
        notes = unit_notes(moving, fixed)
        return found.rigid, "tissue maps", found.score, found.score >= POOR_SCORE, notes

    def _facts(self) -> AtlasFacts:
        vector = self.working.vector
        moves = self.working.ledger.facts("frame")["moves"]
        frame = Frame(vector("positions"), vector("spacing"), vector("trusted").astype(bool), tuple(moves))
        return replace(super()._facts(), frame=frame, kinds=self.kinds)
