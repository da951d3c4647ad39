"""The training of SIID: a pass over both slices a step, from one state to the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from atlasnmf.batches.passes import Pass
from atlasnmf.kernels.cpu.em import padded_width, spot_mixtures
from atlasnmf.models.siid.em import (
    CoarseSums,
    FineSums,
    Shared,
    coarse_loss,
    entropy_weight,
    maximise,
    price_of,
)
from atlasnmf.models.siid.holdout import held_out
from atlasnmf.models.siid.params import FACTOR_LADDER, Params
from atlasnmf.models.siid.passes import CoarseTask, FineTask, Thinning, transposed_links
from atlasnmf.models.siid.start import first_shared
from atlasnmf.models.siid.state import COARSE, FINE, Lane, State
from atlasnmf.schema import AtlasFacts, SliceBatch

__all__ = ["SiidMethod"]

_REAL = np.float32
#: Share of the molecules set aside to compare numbers of factors, and passes of the comparison.
_ASIDE, _CHOICE_PASSES = 0.1, 25
#: Passes over the coarse slice for the genes that it alone has.
_REST_PASSES = 40
#: The sizes of the negative binomial are estimated in every so many of the first passes, within bounds.
_SIZE_EVERY, _SIZE_PASSES, _SIZES = 5, 30, (0.05, 1e4)
_FIRST_SIZE = 10.0


class SiidMethod:
    """Expectation and maximisation, a pass a step; restarts and folds are lanes of the same pass.

    Parameters
    ----------
    params, facts, device, seed
        As for ``build``. The first slice is the fine one, the second the coarse one; genes that both have
        come first.
    """

    name = "siid"

    def __init__(self, params: Params, facts: AtlasFacts, device: str, seed: int) -> None:
        assert facts.links is not None
        self.params, self.facts, self.device, self.seed = params, facts, str(device), seed
        self.n_fine, self.n_coarse = (int(n) for n in facts.n_spots)
        self.n_panel = int(facts.gene_mask[FINE].sum())
        jointly = params.out_of_panel == "jointly"
        self.n_fitted = facts.n_genes if jointly else self.n_panel
        self.folds, self.crossed = held_out(params.holdout, facts.genes[: self.n_panel], seed=seed)
        self.spots, self.weights = facts.links

    @cached_property
    def _by_spot(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return transposed_links(self.spots, self.weights, self.n_coarse)

    @cached_property
    def _links(self) -> tuple[np.ndarray, np.ndarray]:
        """Links with a row for every working row: what goes beside a pass."""
        k = self.spots.shape[1]
        spots, weights = np.full((self._n, k), -1, np.int32), np.zeros((self._n, k), _REAL)
        spots[: self.n_fine], weights[: self.n_fine] = self.spots, self.weights
        return spots, weights

    @property
    def _n(self) -> int:
        return self.n_fine + self.n_coarse

    def lanes(self, phase: str, n_factors: int) -> list[Lane]:
        """Return the fits that a phase begins with."""
        nobody = np.zeros(0, dtype=np.int64)
        hidden = self.folds[0] if self.folds and not self.crossed else nobody
        if phase == "choose":
            fits = [h for h in FACTOR_LADDER if h <= self.n_panel - len(hidden)]
            return [Lane(0, h, hidden) for h in fits or [2]]
        if self.crossed:
            folds = [Lane(0, n_factors, genes, fold) for fold, genes in enumerate(self.folds)]
            return [Lane(0, n_factors, nobody), *folds]
        return [Lane(start, n_factors, hidden) for start in range(self.params.restarts)]

    def _measured(self, lanes: list[Lane]) -> np.ndarray:
        measured = np.zeros((len(lanes), self.n_fitted), dtype=bool)
        measured[:, : self.n_panel] = True
        for row, lane in zip(measured, lanes, strict=True):
            row[lane.hidden] = False
        return measured

    # -- the loop ------------------------------------------------------------------------------------------

    def init(self, sample: list[SliceBatch]) -> State:
        """Return the first state: profiles of groups of the sample's cells, cells undecided between them."""
        chosen = self.params.n_factors
        if chosen == "auto":
            return self._first(sample, "choose", 0)
        return self._first(sample, "fit", chosen)

    def _first(self, sample: list[SliceBatch], phase: str, n_factors: int) -> State:
        lanes = self.lanes(phase, n_factors)
        counts = sample[FINE].counts
        shared = first_shared(
            counts,
            self._measured(lanes),
            self.facts.gene_sums[FINE, : self.n_fitted],
            self.facts.gene_sums[COARSE, : self.n_fitted],
            n_factors=[lane.n_factors for lane in lanes],
            starts=[lane.start for lane in lanes],
            seed=self.seed,
        )
        return self._undecided(phase, n_factors, lanes, shared)

    def _undecided(self, phase: str, n_factors: int, lanes: list[Lane], shared: Shared) -> State:
        factors = np.zeros((self._n, len(lanes), shared.loadings.shape[2]), _REAL)
        for r, lane in enumerate(lanes):
            factors[: self.n_fine, r, : lane.n_factors] = 1 / lane.n_factors
        # depth and share are solved for in the first pass; until then their scale is that of the mean
        fine, coarse = (self.facts.gene_sums[s, : self.n_fitted].sum() for s in (FINE, COARSE))
        depths = np.full((self._n, len(lanes)), fine / max(self.n_fine, 1), _REAL)
        linked = int((self.spots[:, 0] >= 0).sum())
        shares = np.full((self._n, len(lanes)), coarse / max(linked, 1), _REAL)
        if self.params.coarse_counts == "negative-binomial":
            shared = replace(shared, size=np.full(shared.scaling.shape, _FIRST_SIZE))
        return State(
            phase,
            0,
            n_factors,
            np.arange(len(lanes)),
            shared,
            factors,
            depths,
            shares,
            np.full(len(lanes), np.inf),
            np.zeros((0, factors.shape[2])),
        )

    def step(self, state: State, unit: Pass) -> tuple[State, dict[str, float]]:
        """Go over both slices once; over the coarse one alone for the rest of the genes."""
        if state.phase == "rest":
            return self._rest_pass(state, unit)
        before = state.losses
        state, sums = self._fit_pass(state, unit)
        best = int(state.losses.argmin())
        figures = {"loss": float(state.losses[best]), "factors": float(state.n_factors)}
        if state.phase == "choose":
            figures["aside"] = float(sums["aside"].min())
            return self._chosen(state, sums["aside"]), figures
        slowest = float(_relative_change(before, state.losses).max())
        figures["change"] = min(slowest, 1.0)
        return self._next(state, slowest), figures

    def done(self, state: State) -> bool:
        """Say whether the loss has settled and all genes have loadings."""
        return state.phase == "done"

    # -- a pass --------------------------------------------------------------------------------------------

    def mixtures(self, state: State) -> np.ndarray:
        """Return the mixture of factors that every coarse row sees, float32, shape (n_coarse, R, H)."""
        starts, rows, weights = self._by_spot
        mixed = spot_mixtures(starts, rows, weights, state.shares, state.factors)
        return mixed * state.shared.scale.astype(_REAL)

    def _lanes_of(self, state: State) -> list[Lane]:
        lanes = self.lanes(state.phase, state.n_factors)
        return [lanes[at] for at in state.lanes]

    def _coarse(self, state: State, unit: Pass) -> tuple[np.ndarray, dict[str, Any]]:
        shared, mixtures = state.shared, self.mixtures(state)
        scaling = None if shared.size is None else shared.scaling
        task = CoarseTask(
            self.n_fine, mixtures, shared.loadings.astype(_REAL), scaling, shared.size, self.device
        )
        return mixtures, unit.only(COARSE).reduce(task)

    def _fit_pass(self, state: State, unit: Pass) -> tuple[State, dict[str, Any]]:
        shared = state.shared
        measured = self._measured(self._lanes_of(state))
        mixtures, coarse = self._coarse(state, unit)
        push = price_of(shared)[None].astype(_REAL)
        if shared.size is not None:
            push = np.concatenate(coarse["push"])
        passes = _CHOICE_PASSES if state.phase == "choose" else self.params.passes
        task = FineTask(
            measured,
            shared.loadings.astype(_REAL),
            shared.scale,
            np.concatenate(coarse["pull"]),
            push,
            np.einsum("rg,rgk->rk", measured, shared.loadings).astype(_REAL),
            self.params.sweeps,
            entropy_weight(self.params.entropy_lambda, state.step, passes),
            self.device,
            Thinning(_ASIDE, self.seed) if state.phase == "choose" else None,
        )
        rows = (state.factors, state.depths, state.shares)
        sums = unit.only(FINE).reduce(task, rows=rows, beside=self._links)
        losses = self._coarse_loss(shared, mixtures, coarse) + sums["figures"][0]
        exposures = sums["exposures"]
        exposure = exposures[1][:, None, :]
        if shared.size is not None:
            # the cost of a mixture depends on the spot: both sums are taken once more, of the new mixtures
            unscaled = replace(state, shared=replace(shared, scale=np.ones_like(shared.scale)))
            mixtures, coarse = self._coarse(unscaled, unit)
            exposure = coarse["exposure"]
        new = maximise(
            shared,
            FineSums(sums["expected"], exposures[0]),
            CoarseSums(coarse["expected"], exposure),
            measured,
        )
        if shared.size is not None:
            new = replace(new, size=_sizes(shared.size, coarse["figures"], state.step))
        return replace(state, step=state.step + 1, shared=new, losses=losses), sums

    @staticmethod
    def _coarse_loss(shared: Shared, mixtures: np.ndarray, coarse: dict[str, Any]) -> np.ndarray:
        if shared.size is not None:
            return -coarse["figures"][:, 0]
        gene_counts = (shared.loadings * coarse["expected"]).sum(axis=2)
        return coarse_loss(shared, coarse["figures"], gene_counts, mixtures.sum(axis=0, dtype=np.float64))

    # -- from phase to phase -------------------------------------------------------------------------------

    def _chosen(self, state: State, aside: np.ndarray) -> State:
        """Choose the number of factors that says most of the molecules set aside, and start the fit."""
        if state.step < _CHOICE_PASSES:
            return state
        lanes = self._lanes_of(state)
        best = int(aside.argmin())
        n_factors = lanes[best].n_factors
        width = padded_width(n_factors)
        # the fit starts from the loadings that were compared, cells undecided again
        fresh = self.lanes("fit", n_factors)
        one = state.shared.only(best)
        shared = Shared(
            np.repeat(one.loadings[:, :, :width], len(fresh), axis=0),
            np.repeat(one.scaling, len(fresh), axis=0),
            np.ones((len(fresh), width)),
        )
        return self._undecided("fit", n_factors, fresh, shared)

    def _next(self, state: State, slowest: float) -> State:
        params = self.params
        if state.step == params.restart_passes and len(state.lanes) > 1 and not self.crossed:
            state = self._only(state, int(state.losses.argmin()))
        settled = slowest < params.tol and params.entropy_lambda is None
        if state.step < params.passes and not (settled and state.step > min(params.restart_passes, 5)):
            return state
        if not self.crossed and len(state.lanes) > 1:
            state = self._only(state, int(state.losses.argmin()))
        n_rest = self.facts.n_genes - self.n_fitted
        if not n_rest or params.out_of_panel != "after":
            return replace(state, phase="done")
        rest = np.zeros((n_rest, state.factors.shape[2]))
        sums = self.facts.gene_sums[COARSE]
        used = max(float(sums[: self.n_fitted].sum()), 1.0)
        rest[:, : state.n_factors] = (sums[self.n_fitted :] / used)[:, None]
        return replace(state, phase="rest", step=0, rest=rest)

    @staticmethod
    def _only(state: State, lane: int) -> State:
        one = slice(lane, lane + 1)
        return replace(
            state,
            lanes=state.lanes[one],
            shared=state.shared.only(lane),
            factors=np.ascontiguousarray(state.factors[:, one]),
            depths=np.ascontiguousarray(state.depths[:, one]),
            shares=np.ascontiguousarray(state.shares[:, one]),
            losses=state.losses[one],
        )

    def _rest_pass(self, state: State, unit: Pass) -> tuple[State, dict[str, float]]:
        """Move the loadings of the genes that only the coarse slice has, the mixtures fixed.

        One Poisson regression a gene, ``V_vg ~ Poisson(t_v . q_g)``, all in the same pass.
        """
        mixtures = self.mixtures(state)[:, :1]
        whole = np.concatenate([state.shared.loadings[0], state.rest])[None]
        task = CoarseTask(self.n_fine, mixtures, whole.astype(_REAL), None, None, self.device)
        sums = unit.only(COARSE).reduce(task)
        exposure = mixtures[:, 0].sum(axis=0, dtype=np.float64)
        counts = state.rest * sums["expected"][0, self.n_fitted :]
        rest = np.divide(counts, exposure, out=np.zeros_like(counts), where=exposure > 0)
        done = state.step + 1 >= _REST_PASSES
        state = replace(state, step=state.step + 1, rest=rest, phase="done" if done else "rest")
        return state, {"loss": float(state.losses[0]), "factors": float(state.n_factors)}

    # -- saving --------------------------------------------------------------------------------------------

    def pack(self, state: State) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return the state as arrays and JSON scalars."""
        shared = state.shared
        arrays = {
            "lanes": state.lanes,
            "loadings": shared.loadings,
            "scaling": shared.scaling,
            "scale": shared.scale,
            "factors": state.factors,
            "depths": state.depths,
            "shares": state.shares,
            "losses": state.losses,
            "rest": state.rest,
        }
        if shared.size is not None:
            arrays["size"] = shared.size
        return arrays, {"phase": state.phase, "step": state.step, "n_factors": state.n_factors}

    def unpack(self, tensors: Mapping[str, np.ndarray], scalars: Mapping[str, Any]) -> State:
        """Return the state that was packed."""
        shared = Shared(tensors["loadings"], tensors["scaling"], tensors["scale"], tensors.get("size"))
        rows = (np.array(tensors[name]) for name in ("factors", "depths", "shares"))
        factors, depths, shares = rows
        return State(
            str(scalars["phase"]),
            int(scalars["step"]),
            int(scalars["n_factors"]),
            tensors["lanes"],
            shared,
            factors,
            depths,
            shares,
            tensors["losses"],
            tensors["rest"],
        )


def _relative_change(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    known = np.isfinite(before)
    return np.where(known, (np.where(known, before, 0) - after) / np.maximum(np.abs(after), 1.0), np.inf)


def _sizes(size: np.ndarray, figures: np.ndarray, step: int) -> np.ndarray:
    """Return the sizes whose variance is the counts' about their means; they rest after the first passes."""
    if step >= _SIZE_PASSES or step % _SIZE_EVERY:
        return size
    n_genes = size.shape[1]
    squares, excess = figures[:, 1 : 1 + n_genes], figures[:, 1 + n_genes :]
    return np.clip(squares / np.maximum(excess, squares / _SIZES[1] + 1e-300), *_SIZES)
