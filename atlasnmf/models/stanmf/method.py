"""staNMF as a method: a study goes through its phases one pass at a time, and its state is all there is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from atlasnmf.batches.passes import Pass
from atlasnmf.errors import BadInput
from atlasnmf.kernels.dispatch import side_of
from atlasnmf.models.stanmf import sketch as sketching
from atlasnmf.models.stanmf.anchored import Anchors, Sketch, anchor, iterate_on_sketch
from atlasnmf.models.stanmf.baseline import pca_instability
from atlasnmf.models.stanmf.instability import choose_rank, instability
from atlasnmf.models.stanmf.memory import holds_gene_gram
from atlasnmf.models.stanmf.params import Params, sketch_width, stack_width
from atlasnmf.models.stanmf.perturb import perturbed, random_start, whole, widened
from atlasnmf.models.stanmf.solver import Fits, Iteration, compare, iterate
from atlasnmf.models.stanmf.start import (
    Genes,
    Spots,
    first_right,
    gene_gram,
    is_tall,
    n_sharpenings,
    nndsvda,
    sharpen,
    triplets,
)
from atlasnmf.models.stanmf.values import KeptValues, Transform
from atlasnmf.schema import AtlasFacts, Result, SliceBatch

__all__ = ["Model", "StaNmfMethod", "Study", "build"]

#: A sketch whose products are off by more than this share is not used until it is near again.
_TRUSTED = 0.008
#: The share aimed at, and the most iterations from an anchor to the next.
_AIM, _LARGEST_GAP = 0.003, 16
#: Iterations over all spots go on while one still lowers the loss of a fit by more than this share of it.
_SETTLED = 5e-4
#: Most of them, for each one asked for.
_MOST_LAST = 5


def _nothing() -> np.ndarray:
    return np.empty((0, 0))


@dataclass
class Study:
    """All there is to save.

    Parameters
    ----------
    phase
        ``range``, ``project``, then for every stack of ranks ``start``, ``sharpen``, ``iterate``, for a
        large atlas ``spread``, and ``compare``; last the fit of the chosen rank to all data through the
        same phases; ``done``.
    passes
        Passes of this phase so far.
    turn
        Position of the ranks at work among the stacks; the number of stacks for the last fit.
    logged
        Whether values are log-normalised.
    basis, sketch, sketch_gram, learned_gram
        V (G, m), S = X V (n, m), S'S (m, m), and S'S over the spots that are learned from.
    gene_sums, gene_squares
        Moments of the values, shape (G,).
    gene_gram
        X'X of the spots that are learned from, shape (G, G), where starts are found from it.
    right
        Right singular vectors on their way, shape (G, C').
    patterns, coefficients
        D (n, C) and A (G, C) of the stack.
    anchor_products .. anchor_grams
        What the last exact iterations noted (:class:`anchored.Anchors`); empty on the exact path.
    gap, next_anchor
        Iterations from an anchor to the next, and the next one's number.
    first_violation, last_loss, off, n_iterations, at_work
        By fit of the stack, shape (F,); ``off`` is the largest error of the sketch that an anchor found.
    curve
        One entry a finished rank.
    rank
        The chosen rank; 0 before there is one.
    """

    phase: str = "range"
    passes: int = 0
    turn: int = 0
    logged: bool = True
    rank: int = 0
    gap: int = 1
    next_anchor: int = 1
    curve: list[dict[str, Any]] = field(default_factory=list)
    basis: np.ndarray = field(default_factory=_nothing)
    sketch: np.ndarray = field(default_factory=_nothing)
    sketch_gram: np.ndarray = field(default_factory=_nothing)
    learned_gram: np.ndarray = field(default_factory=_nothing)
    gene_sums: np.ndarray = field(default_factory=_nothing)
    gene_squares: np.ndarray = field(default_factory=_nothing)
    gene_gram: np.ndarray = field(default_factory=_nothing)
    right: np.ndarray = field(default_factory=_nothing)
    patterns: np.ndarray = field(default_factory=_nothing)
    coefficients: np.ndarray = field(default_factory=_nothing)
    anchor_products: np.ndarray = field(default_factory=_nothing)
    anchor_patterns: np.ndarray = field(default_factory=_nothing)
    anchor_genes: np.ndarray = field(default_factory=_nothing)
    anchor_cross: np.ndarray = field(default_factory=_nothing)
    anchor_seen: np.ndarray = field(default_factory=_nothing)
    anchor_small: np.ndarray = field(default_factory=_nothing)
    anchor_gene_grams: np.ndarray = field(default_factory=_nothing)
    anchor_grams: np.ndarray = field(default_factory=_nothing)
    first_violation: np.ndarray = field(default_factory=_nothing)
    last_loss: np.ndarray = field(default_factory=_nothing)
    off: np.ndarray = field(default_factory=_nothing)
    n_iterations: np.ndarray = field(default_factory=_nothing)
    at_work: np.ndarray = field(default_factory=_nothing)

    def enter(self, phase: str) -> None:
        """Go on to another phase."""
        self.phase, self.passes = phase, 0


class StaNmfMethod:
    """One pass a step.

    Parameters
    ----------
    params, facts, seed, device
        As for :func:`build`.
    """

    name = "stanmf"

    def __init__(self, params: Params, facts: AtlasFacts, seed: int, device: str = "cpu") -> None:
        self.params, self.facts, self.seed, self.device = params, facts, seed, device
        self.dtype = np.dtype(np.float32 if params.precision == "single" else np.float64)
        self._fits: tuple[int, Fits] | None = None
        self._kept = None if params.keep_values == "reread" else KeptValues()
        # a device is that of the workers, and need not be there in this process
        self._here = self._kept is not None and side_of(device) == "cpu"

    # -- the protocol of the loop ---------------------------------------------------------------------------

    def init(self, sample: list[SliceBatch]) -> Study:
        """Return the first state: random directions, and whether the values are counts."""
        counts = all(np.issubdtype(batch.counts.data.dtype, np.integer) for batch in sample)
        logged = counts if self.params.transform == "auto" else self.params.transform == "log"
        return Study(
            logged=logged,
            basis=sketching.first_directions(self.facts.n_genes, sketch_width(self.params), self.seed),
        )

    def step(self, state: Study, unit: Pass) -> tuple[Study, dict[str, float]]:
        """Spend one pass on the phase at hand."""
        state.passes += 1
        ranks = self._ranks(state)
        if self._learns_all(unit):
            unit = self._learned(unit)
        figures = getattr(self, f"_{state.phase}")(state, unit)
        return state, {"rank": float(ranks[-1]), **figures}

    def done(self, state: Study) -> bool:
        """Say whether the fit of the chosen rank is done."""
        return state.phase == "done"

    def pack(self, state: Study) -> tuple[Mapping[str, np.ndarray], Mapping[str, Any]]:
        """Return arrays and scalars by name."""
        values = {each.name: getattr(state, each.name) for each in fields(state)}
        arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
        return arrays, {name: value for name, value in values.items() if name not in arrays}

    def unpack(self, tensors: Mapping[str, np.ndarray], scalars: Mapping[str, Any]) -> Study:
        """Return the state that was packed."""
        values: dict[str, Any] = {**tensors, **scalars}
        return Study(**values)

    # -- phases ---------------------------------------------------------------------------------------------

    def _range(self, state: Study, unit: Pass) -> dict[str, float]:
        moments, product = sketching.moments_and_range(unit, self._transform(state, unit), state.basis)
        if not moments.squares.any():
            raise BadInput("all values are zero: there is nothing to factorise")
        state.basis = sketching.widen(product)
        state.gene_sums, state.gene_squares = moments.sums, moments.squares
        if state.passes > self.params.power_iterations:
            state.enter("project")
        return {}

    def _project(self, state: Study, unit: Pass) -> dict[str, float]:
        state.sketch = np.empty((unit.n_rows, state.basis.shape[1]), dtype=self.dtype)
        gram = sketching.project(unit, self._transform(state, unit), state.basis, state.sketch)
        state.basis, state.sketch_gram = sketching.turn(unit, state.basis, gram, state.sketch)
        learned = self._learned(unit)
        state.learned_gram = sketching.gram_of(learned, state.sketch)
        n_genes, nnz = self.facts.n_genes, self.facts.nnz_per_spot
        if holds_gene_gram(self.params, n_spots=unit.n_rows, n_genes=n_genes, nnz=nnz):
            state.gene_gram = gene_gram(learned, self._transform(state, learned))
        state.enter("start")
        return {"explained": float(np.trace(state.sketch_gram) / state.gene_squares.sum())}

    def _start(self, state: Study, unit: Pass) -> dict[str, float]:
        fits, before = self._fits_of(state, unit.n_rows), (state.patterns, state.coefficients)
        means, last = state.gene_sums / unit.n_rows, self._is_last(state)
        learned = self._learned(unit)
        width = 0 if self.params.keep_patterns == "recompute" and not last else fits.n_columns
        state.patterns = np.empty((unit.n_rows, width), dtype=self.dtype)
        if self.params.warm_ranks and state.turn and not last:
            state.coefficients = widened(fits, *before, means, state.patterns)
        elif self.params.perturbation == "seeds" and not last:
            state.coefficients = random_start(fits, self.seed, means, state.patterns)
        else:
            state.right = first_right(learned, self._transform(state, learned), fits, self.seed)
        self._make_room(state, learned.n_read, fits)
        state.first_violation, state.last_loss = np.zeros(fits.n_fits), np.zeros(fits.n_fits)
        state.n_iterations, state.off = np.zeros(fits.n_fits, dtype=np.int64), np.zeros(fits.n_fits)
        state.at_work = np.ones(fits.n_fits, dtype=bool)
        state.enter("sharpen" if state.right.size else "iterate")
        return {}

    def _sharpen(self, state: Study, unit: Pass) -> dict[str, float]:
        fits, learned = self._fits_of(state, unit.n_rows), self._learned(unit)
        transform, n_genes = self._transform(state, learned), self.facts.n_genes
        n_iterations = n_sharpenings(fits, learned.n_read, n_genes)
        if state.gene_gram.size:  # nothing is read: all at once
            data: Spots | Genes = Genes(state.gene_gram)
            for _ in range(n_iterations):
                state.right = sharpen(data, fits, state.right)
        else:
            data = Spots(learned, transform)
            if state.passes <= n_iterations:
                state.right = sharpen(data, fits, state.right)
                return {}
        found = triplets(data, fits, state.right, tall=is_tall(learned.n_read, n_genes))
        means, state.right = state.gene_sums / unit.n_rows, _nothing()
        state.coefficients = nndsvda(learned, transform, fits, found, means, state.patterns)
        state.enter("iterate")
        return {}

    def _iterate(self, state: Study, unit: Pass) -> dict[str, float]:
        learned = self._learned(unit)
        last = state.passes >= self.params.max_iterations
        exact = self.params.path == "exact" or state.passes >= state.next_anchor or last
        working = np.flatnonzero(state.at_work)
        found = self._iteration(state, learned, working.tolist(), exact)
        state.coefficients = found.coefficients
        state.n_iterations[working] += 1
        if exact:
            state.last_loss[working] = found.losses[working]
        if found.off is not None and state.passes > self.params.exact_iterations:
            state.off[working] = np.maximum(state.off[working], found.off[working])
            state.gap = _next_gap(state.gap, float(found.off[working].max()))
        if exact and state.passes >= self.params.exact_iterations:
            state.next_anchor = state.passes + state.gap
        if state.passes == 1:
            state.first_violation = found.violation
        settled = found.violation <= self.params.tol * state.first_violation
        # a fit ends on an exact iteration, so that its loss is its own
        if exact:
            state.at_work &= ~settled
        elif settled[working].any():
            state.next_anchor = state.passes + 1
        if last or not state.at_work.any():
            state.enter("compare" if learned is unit else "spread")
        return {"loss": float(state.last_loss.mean())}

    def _spread(self, state: Study, unit: Pass) -> dict[str, float]:
        fits, before = self._fits_of(state, unit.n_rows), state.last_loss
        found = iterate(
            unit,
            self._transform(state, unit),
            fits,
            state.coefficients,
            state.patterns,
            state.gene_squares,
            range(fits.n_fits),
            anew=state.passes == 1,
        )
        state.coefficients, state.last_loss = found.coefficients, found.losses
        state.n_iterations += 1
        # the loss before the second pass is that of patterns found anew, or of other spots
        settled = state.passes > 2 and bool((before - found.losses < _SETTLED * before).all())
        if state.passes >= self.params.last_iterations * (1 if settled else _MOST_LAST):
            state.enter("compare")
        return {"loss": float(state.last_loss.mean()), "settled": float(settled)}

    def _compare(self, state: Study, unit: Pass) -> dict[str, float]:
        if self._is_last(state):
            state.enter("done")
            if self._kept is not None:
                self._kept.forget()
            return {"loss": float(state.last_loss[0])}
        fits = self._fits_of(state, unit.n_rows)
        products = self._products(state, unit, fits)
        ranks, n = self._ranks(state), self.params.replicates
        for at, rank in enumerate(ranks):
            own = slice(fits.spans[at * n][0], fits.spans[at * n + n - 1][1])
            entry = self._entry(state, slice(at * n, at * n + n), products[own, own], rank)
            if self.params.perturbation == "genes":
                weights = fits.gene_weights[:, at * n : at * n + n]
                entry |= self._pca(state, Fits((rank,) * n, weights), unit.n_rows)
            state.curve.append(entry)
        state.turn += 1
        if state.turn == len(self._groups):
            values = [each["hungarian_mean"] for each in state.curve]
            state.rank = choose_rank(list(self.params.ranks), values)
        state.enter("start")
        return {"loss": state.curve[-1]["loss"], "instability": state.curve[-1]["hungarian_mean"]}

    # -- parts of phases ------------------------------------------------------------------------------------

    def _iteration(self, state: Study, unit: Pass, working: list[int], exact: bool) -> Iteration:
        fits, transform = self._fits_of(state, unit.n_rows), self._transform(state, unit)
        given = (fits, state.coefficients, state.patterns)
        squares = state.gene_squares * (unit.n_read / unit.n_rows)
        if self.params.path == "exact":
            return iterate(unit, transform, *given, squares, working)
        if exact and state.passes + 1 < self.params.exact_iterations:
            return iterate(unit, transform, *given, squares, working)
        own = slice(stack_width(self.params, self._ranks(state)[-1]))
        sketch = Sketch.of(state.sketch[:, own], state.basis[:, own], state.learned_gram[own, own])
        anchors = Anchors(**{each.name: getattr(state, f"anchor_{each.name}") for each in fields(Anchors)})
        if exact:
            return anchor(unit, transform, sketch, anchors, *given, squares, working)
        return iterate_on_sketch(unit, sketch, anchors, *given, working, self.device)

    def _learned(self, unit: Pass) -> Pass:
        """Return the pass over the spots that coefficients are learned from: here, where values are kept."""
        learned = unit.sampled(self.params.learn_spots or unit.n_rows)
        return learned.here() if self._here else learned

    def _learns_all(self, unit: Pass) -> bool:
        return unit.n_rows <= (self.params.learn_spots or unit.n_rows)

    def _make_room(self, state: Study, n_spots: int, fits: Fits) -> None:
        """Make room for the anchors of a stack."""
        state.gap, state.next_anchor = self.params.anchor_every, 1
        if self.params.path == "exact":
            return
        width = min(stack_width(self.params, max(fits.widths)), state.basis.shape[1])
        anchors = Anchors.room_for(n_spots, self.facts.n_genes, width, fits, self.dtype)
        for each in fields(Anchors):
            setattr(state, f"anchor_{each.name}", getattr(anchors, each.name))

    def _products(self, state: Study, unit: Pass, fits: Fits) -> np.ndarray:
        if self.params.perturbation == "spots":  # the spots differ: the genes are what can be compared
            return state.coefficients.T @ state.coefficients
        return compare(unit, self._transform(state, unit), fits, state.coefficients, state.patterns)

    def _entry(self, state: Study, own: slice, products: np.ndarray, rank: int) -> dict[str, Any]:
        losses = state.last_loss[own]
        return {
            "rank": rank,
            **vars(instability(products, self.params.replicates)),
            "loss": float(losses.mean()),
            "losses": losses.tolist(),
            "iterations": state.n_iterations[own].tolist(),
            "sketch_error": float(state.off[own].max()),
        }

    def _pca(self, state: Study, fits: Fits, n_spots: int) -> dict[str, float]:
        found = pca_instability(state.basis, state.sketch_gram, state.gene_sums, n_spots, fits)
        return {"pca_mean": found.hungarian_mean, "pca_sd": found.hungarian_sd}

    @property
    def _groups(self) -> list[tuple[int, ...]]:
        """Ranks whose fits are stacked, stack after stack."""
        ranks, size = self.params.ranks, self.params.ranks_together or 1
        return [ranks[at : at + size] for at in range(0, len(ranks), size)]

    def _is_last(self, state: Study) -> bool:
        return state.turn == len(self._groups)

    def _ranks(self, state: Study) -> tuple[int, ...]:
        return (state.rank,) if self._is_last(state) else self._groups[state.turn]

    def _fits_of(self, state: Study, n_spots: int) -> Fits:
        if self._fits is None or self._fits[0] != state.turn:
            params, ranks, n_genes = self.params, self._ranks(state), self.facts.n_genes
            if self._is_last(state):
                fits = whole(ranks[0], n_genes)
            else:
                fits = perturbed(params.perturbation, self.seed, ranks, params.replicates, n_spots, n_genes)
            self._fits = (state.turn, fits)
        return self._fits[1]

    def _transform(self, state: Study, unit: Pass) -> Transform:
        """Return what is factorised in a pass; the values of the spots that are learned from are kept."""
        given = "log" if state.logged else "none", self.facts.target_sum, self.dtype, self.device
        learned = unit.n_read < unit.n_rows or self._learns_all(unit)
        return Transform(*given, self._kept if learned else None)


@dataclass(frozen=True)
class Model:
    """staNMF on one atlas.

    Parameters
    ----------
    method
        What the loop runs.
    """

    method: StaNmfMethod

    def line(self, metrics: Mapping[str, float]) -> str | None:
        """Return what to tell people of a step: the curve as it grows."""
        if "instability" not in metrics:
            return None
        rank, loss = metrics["rank"], metrics["loss"]
        return f"rank {rank:.0f}: instability {metrics['instability']:.3f}, loss {loss:.4f}"

    def infer(self, state: Study, batch: SliceBatch) -> dict[str, np.ndarray]:
        """Return the patterns of a tile's spots, shape (n, K)."""
        return {"stanmf_patterns": state.patterns[batch.rows[: batch.n_core]].astype(np.float32)}

    def result(self, state: Study) -> Result:
        """Return coefficients, the curve and the chosen rank."""
        curve: dict[str, Any] = {}
        for mine, theirs in _CURVE.items():
            if theirs in state.curve[0]:
                curve[mine] = np.array([entry[theirs] for entry in state.curve])
        uns = {
            **curve,
            "rank": state.rank,
            "loss": float(state.last_loss[0]),
            "gene_squares": state.gene_squares,
            "gene_sums": state.gene_sums,
            "transform": "log" if state.logged else "none",
            "target_sum": self.method.facts.target_sum,
        }
        quality = {
            "rank": state.rank,
            "instability": {
                str(entry["rank"]): round(float(entry["hungarian_mean"]), 6) for entry in state.curve
            },
        }
        return Result(
            varm={"stanmf_coefficients": state.coefficients.astype(np.float32)}, uns=uns, quality=quality
        )


#: Names of the curve's columns in the results, and in the state.
_CURVE = {
    "ranks": "rank",
    "instability_hungarian_mean": "hungarian_mean",
    "instability_hungarian_sd": "hungarian_sd",
    "instability_amari_mean": "amari_mean",
    "instability_amari_sd": "amari_sd",
    "instability_pca_mean": "pca_mean",
    "instability_pca_sd": "pca_sd",
    "losses": "losses",
    "iterations": "iterations",
    "sketch_error": "sketch_error",
}


def _next_gap(gap: int, off: float) -> int:
    """Return the iterations to the next anchor: as many as keep the sketch about as far off as is aimed at.

    The error of a step along a straight line grows with its square.
    """
    if off > _TRUSTED:
        return 1
    wanted = gap * np.sqrt(_AIM / max(off, np.finfo(np.float64).tiny))
    return int(min(max(wanted, gap / 2, min(gap, 2)), max(gap * 1.5, 2), _LARGEST_GAP))


def build(params: Params, facts: AtlasFacts, device: str, seed: int) -> Model:
    """Return staNMF for an atlas.

    Parameters
    ----------
    params
        Checked parameters.
    facts
        What is known of the atlas.
    device
        ``cpu``, or a CUDA device for products and sweeps of tiles; the coefficients are swept on the CPU.
    seed
        The user's seed.
    """
    return Model(StaNmfMethod(params, facts, seed, str(device)))
