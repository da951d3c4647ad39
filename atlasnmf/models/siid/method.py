"""SIID for a pair: how it is trained, and what a state says of spots and genes."""

from __future__ import annotations

from typing import Any

import numpy as np

from atlasnmf.models.siid.params import Params
from atlasnmf.models.siid.state import FINE, State
from atlasnmf.models.siid.training import SiidMethod
from atlasnmf.schema import AtlasFacts, Result, SliceBatch

__all__ = ["Model", "build"]


class Model:
    """A method and what its states say of spots and genes.

    Parameters
    ----------
    method
        The method.
    """

    def __init__(self, method: SiidMethod) -> None:
        self.method = method

    def loadings(self, state: State, lane: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return the loadings of all fitted genes and what their columns were divided by.

        Returns
        -------
        loadings
            q, columns sum to 1 over these genes, float64, shape (G, h).
        scale
            Owed to the weights, shape (h,).
        """
        h = state.n_factors
        rest = state.rest if lane == 0 else state.rest[:0]
        whole = np.concatenate([state.shared.loadings[lane], rest])[:, :h]
        sums = np.where(whole.sum(axis=0) > 0, whole.sum(axis=0), 1.0)
        return whole / sums, state.shared.scale[lane, :h] * sums

    def weights(self, state: State, rows: np.ndarray, lane: int = 0) -> np.ndarray:
        """Return n p of fine working rows, in units of counts over all fitted genes, shape (n, h)."""
        _, scale = self.loadings(state, lane)
        own = state.factors[rows, lane, : state.n_factors].astype(np.float64)
        return own * state.depths[rows, lane, None] * scale

    def impute(self, state: State, rows: np.ndarray, genes: np.ndarray, lane: int = 0) -> np.ndarray:
        """Return the mean fine counts of genes, as if the panel had them, float64, shape (n, genes).

        Parameters
        ----------
        state
            A trained state.
        rows
            Fine working rows.
        genes
            Positions among the model's genes.
        lane
            Of several folds, which.
        """
        loadings, _ = self.loadings(state, lane)
        return self.weights(state, rows, lane) @ loadings[genes].T

    def infer(self, state: State, batch: SliceBatch) -> dict[str, np.ndarray]:
        """Return weights of fine rows or proportions of coarse rows, rows sum to 1; NaN where unknown."""
        if batch.slice_index == FINE:
            _, scale = self.loadings(state)
            own = state.factors[batch.rows, 0, : state.n_factors] * scale
            known = (state.depths[batch.rows, 0] > 0) | (state.shares[batch.rows, 0] > 0)
            return {"siid_factors": _simplex(own, known)}
        _, scale = self.loadings(state)
        mixed = self._mixed(state)[batch.rows - self.method.n_fine] / state.shared.scale[0, : state.n_factors]
        return {"siid_proportions": _simplex(mixed * scale, np.ones(len(mixed), bool))}

    def _mixed(self, state: State) -> np.ndarray:
        return self.method.mixtures(state)[:, 0, : state.n_factors].astype(np.float64)

    def folds(self, state: State) -> list[tuple[int, np.ndarray]]:
        """Return the lane and the hidden genes of every fold that was fitted."""
        lanes = self.method.lanes("fit", state.n_factors)
        fitted = [(at, lanes[number]) for at, number in enumerate(state.lanes)]
        return [(at, lane.hidden) for at, lane in fitted if len(lane.hidden)]

    def result(self, state: State) -> Result:
        """Return loadings, platform scaling and the loss."""
        loadings, _ = self.loadings(state)
        genes = len(loadings)
        scaling = np.ones(genes)
        scaling[: self.method.n_fitted] = state.shared.scaling[0]
        uns: dict[str, Any] = {
            "platform_scaling": scaling,
            "genes": np.array(self.method.facts.genes[:genes], dtype=object),
            "n_panel": self.method.n_panel,
            "n_factors": state.n_factors,
            "loss": float(state.losses[0]),
            "linked_cells": int((self.method.spots[:, 0] >= 0).sum()),
        }
        if state.shared.size is not None:
            uns["coarse_size"] = state.shared.size[0]
        padded = np.full((self.method.facts.n_genes, state.n_factors), np.nan)
        padded[:genes] = loadings
        return Result(
            varm={"siid_loadings": padded.astype(np.float32)},
            uns=uns,
            quality={"n_factors": state.n_factors},
        )


def _simplex(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    sums = values.sum(axis=1)
    known = known & (sums > 0)
    out = np.full(values.shape, np.nan, np.float32)
    out[known] = values[known] / sums[known, None]
    return out


def build(params: Params, facts: AtlasFacts, device: str, seed: int) -> Model:
    """Return SIID for a pair.

    Parameters
    ----------
    params
        Checked parameters.
    facts
        What is known of the pair: two slices, the fine one first, and their links.
    device
        ``cpu``, or a CUDA device for the kernels.
    seed
        The user's seed.
    """
    return Model(SiidMethod(params, facts, str(device), seed))
