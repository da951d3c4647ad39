"""The last phases: the statistics behind every normalisation, then every spot embedded under them."""

from __future__ import annotations

import numpy as np
import torch

from atlasnmf.models.spatialfuser.fusing import projected
from atlasnmf.models.spatialfuser.inputs import Inputs, Reader, among_all
from atlasnmf.models.spatialfuser.state import State

__all__ = ["embed", "measure"]


@torch.no_grad()
def measure(state: State, given: list[Inputs], reader: Reader) -> dict[str, float]:
    """Count a unit's spots into the statistics of one normalisation; finish it when all are in."""
    state.net.eval()
    _count_anew(state, reader)
    waiting = _waiting(state, given)
    sums = []
    for inputs in waiting:
        s = inputs.slice_index
        rows = state.net.of(s).before_norm(state.n_measured, inputs.rows, reader.graph(inputs, state))
        rows = rows.double()[torch.from_numpy(~state.counted[s][inputs.core]).to(rows.device)]
        parts = [rows.new_full((rows.shape[1],), len(rows)), rows.sum(0), rows.square().sum(0)]
        sums.append(torch.stack(parts))
    if reader.ranks is not None and sums:
        reader.ranks.sum(sums)
    for inputs, counted in zip(waiting, sums, strict=True):
        s = inputs.slice_index
        state.sums[s] = state.sums[s] + counted.cpu().numpy()
        state.counted[s][inputs.step] = True
    if all(counted.all() for counted in state.counted):
        for s, (count, total, squares) in enumerate(state.sums):
            mean = total / count
            var = np.maximum(squares / count - mean**2, 0)
            norm = state.net.of(s).norms()[state.n_measured]
            norm.measured(state.net.place(s), *(torch.from_numpy(part).float() for part in (mean, var)))
        state.n_measured += 1
        state.counted, state.sums = [], []
    return {"measured": state.n_measured}


@torch.no_grad()
def embed(state: State, given: list[Inputs], reader: Reader) -> dict[str, float]:
    """Embed a unit's spots for good; project them into the common space when all are embedded."""
    state.net.eval()
    _count_anew(state, reader)
    if not state.embedding:
        state.embedding = [torch.zeros_like(rows) for rows in state.latents]
    waiting = _waiting(state, given)
    found = [
        state.net.of(inputs.slice_index).encode(inputs.rows, reader.graph(inputs, state))[0]
        for inputs in waiting
    ]
    for inputs, rows in zip(waiting, among_all(waiting, found, reader.ranks), strict=True):
        state.embedding[inputs.slice_index][inputs.step] = rows
        state.counted[inputs.slice_index][inputs.step] = True
    if all(counted.all() for counted in state.counted):
        if len(state.embedding) > 1:
            common = projected(state.net, state.embedding)
            state.embedding = [torch.from_numpy(rows).to(reader.device) for rows in common]
        state.finished = True
    return {"embedded": float(np.mean([counted.mean() for counted in state.counted]))}


def _waiting(state: State, given: list[Inputs]) -> list[Inputs]:
    """Return the slices of which a step has spots that no step before it counted, on whichever rank."""
    return [inputs for inputs in given if not state.counted[inputs.slice_index][inputs.step].all()]


def _count_anew(state: State, reader: Reader) -> None:
    if not state.counted:
        state.counted = [np.zeros(int(n), bool) for n in reader.facts.n_spots]
        state.sums = [np.zeros((3, 1)) for _ in reader.facts.n_spots]
