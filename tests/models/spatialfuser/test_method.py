"""Tiles give what whole slices give, statistics are exact, and the state is all there is to save."""

import itertools

import numpy as np
import pytest
import torch
from small_slices import N, P, slices, units

from atlasnmf.models.spatialfuser.attention import Edges
from atlasnmf.models.spatialfuser.far import far_neighbours
from atlasnmf.models.spatialfuser.fusing import _rows
from atlasnmf.models.spatialfuser.graph import Graph
from atlasnmf.models.spatialfuser.inputs import Inputs
from atlasnmf.models.spatialfuser.method import build
from atlasnmf.models.spatialfuser.params import Params
from atlasnmf.seeds import rng_for

FORMS = [
    {"features": "scores"},
    {"features": "scores", "start": False, "hidden": (8, 4), "heads": 2},
    {"features": "genes", "start": False, "hidden": (16, 8), "heads": 4},
]


def model_of(n_slices=2, **params):
    facts, source = slices(n_slices)
    given = {"components": P, "pretrain_steps": 3, "fuse_steps": 3, "match_every": 2, "batch_spots": N}
    model = build(Params(**given | params), facts, "cpu", 0)
    return model, source


def trained(model, given):
    state = model.method.init(given[0])
    for unit in itertools.cycle(given):
        if model.method.done(state):
            return state
        state, _ = model.method.step(state, unit)


@pytest.mark.parametrize("form", FORMS)
def test_tiles_see_what_whole_slices_see(form):
    """The same weights and statistics: every value of a tile's core, however the slice is cut."""
    model, source = model_of(**form)
    whole = units(source)
    state = trained(model, whole)
    method = model.method
    state.net.eval()
    with torch.no_grad():
        for n_rows in (N // 3, 37):
            for unit in units(source, n_rows):
                for batch, all_of_it in zip(unit, whole[0], strict=True):
                    assert batch.rings[-1] > batch.rings[-2] >= batch.n_core or batch.n_core == N
                    got, full = (method.reader.read(given) for given in (batch, all_of_it))
                    net = state.net.of(batch.slice_index)
                    found = net(got.rows, method.reader.graph(got, state))
                    expected = net(full.rows, method.reader.graph(full, state))
                    for ours, plain in zip(found, expected, strict=True):
                        torch.testing.assert_close(ours, plain[got.core], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("form", FORMS)
def test_statistics_are_those_of_all_spots(form):
    model, source = model_of(**form)
    whole = units(source)
    state = trained(model, whole)
    method = model.method
    state.net.eval()
    with torch.no_grad():
        for batch in whole[0]:
            inputs = method.reader.read(batch)
            graph = method.reader.graph(inputs, state)
            net = state.net.of(batch.slice_index)
            for number, norm in enumerate(net.norms()):
                rows = net.before_norm(number, inputs.rows, graph).double()
                place = state.net.place(batch.slice_index)
                torch.testing.assert_close(norm.mean[place].double(), rows.mean(0), rtol=1e-5, atol=1e-6)
                torch.testing.assert_close(
                    norm.var[place].double(), rows.var(0, correction=0), rtol=1e-4, atol=1e-7
                )


def test_measured_by_tiles_or_at_once():
    """From the same trained weights, both ways of measuring end with the same embedding."""
    model, source = model_of()
    whole, tiles = units(source), units(source, 50)
    state = model.method.init(whole[0])
    for _ in range(model.method.learning_steps):
        state, _ = model.method.step(state, whole[0])
    packed = model.method.pack(state)
    ends = []
    for given in (whole, tiles):
        state = model.method.unpack(*packed)
        for unit in itertools.cycle(given):
            state, figures = model.method.step(state, unit)
            if model.method.done(state):
                break
        assert "loss" not in figures
        ends.append(torch.cat(state.embedding))
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stop", [1, 4, 7, 9, 11])
def test_a_packed_state_goes_on_with_the_same_bits(stop):
    model, source = model_of(alpha=0.2)
    given = units(source)
    state = model.method.init(given[0])
    for step in itertools.count():
        if step == stop:
            state = model.method.unpack(*model.method.pack(state))
        state, _ = model.method.step(state, given[0])
        if model.method.done(state):
            break
    expected = trained(model_of(alpha=0.2)[0], given)
    for ours, plain in zip(state.embedding, expected.embedding, strict=True):
        assert torch.equal(ours, plain)


def test_the_reconstruction_gets_better_and_slices_come_together():
    model, source = model_of(start=False, hidden=(8, 8), pretrain_steps=60, fuse_steps=60)
    given = units(source)
    state, losses = model.method.init(given[0]), []
    for _ in range(60):
        state, figures = model.method.step(state, given[0])
        losses.append(figures["reconstruction"])
    assert losses[-1] < 0.8 * losses[0]
    state, first = model.method.step(state, given[0])
    for _ in range(59):
        state, figures = model.method.step(state, given[0])
    assert figures["triplets"] < 0.8 * first["triplets"]


def test_matches_join_the_same_domains():
    model, source = model_of(pretrain_steps=20, fuse_steps=20)
    state = trained(model, units(source))
    pairs = model.result(state).pairs
    x = model.facts.frame.positions[:, 0]
    assert len(pairs.source) > N // 4
    assert (pairs.source < N).all()
    assert (pairs.target >= N).all()
    same = (x[pairs.source] * 4).astype(int) == (x[pairs.target] * 4).astype(int)
    assert same[pairs.passed].mean() > 0.8
    distance = np.linalg.norm(
        model.facts.frame.positions[pairs.source] - model.facts.frame.positions[pairs.target], axis=1
    )
    assert distance.max() <= 0.3 + 1e-6  # ten spacings


def test_two_threads_have_the_same_bits_again():
    n_rows = 20_000
    rng = rng_for(0, "threads", "spots")
    live = torch.from_numpy(rng.standard_normal((n_rows, 8), np.float32)).requires_grad_()
    whole = slice(0, n_rows)
    inputs = Inputs(
        0, whole, whole, live, Graph((n_rows,), Edges(torch.zeros(1), torch.zeros(0))), np.arange(0)
    )
    spots = rng.integers(n_rows, size=3 * n_rows)
    slope = torch.from_numpy(rng.standard_normal((3 * n_rows, 8), np.float32))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = [torch.autograd.grad(_rows(None, inputs, live, spots), live, slope)[0] for _ in range(6)]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(gradient, found[0]) for gradient in found)


def test_heads_share_the_components_evenly():
    model, source = model_of(heads=4, hidden=(8, 8))
    state = trained(model, units(source))
    assert state.embedding[0].shape == (N, P - P % 4)
    assert torch.isfinite(state.embedding[0]).all()


def test_one_slice_is_embedded_alone():
    model, source = model_of(n_slices=1)
    state = trained(model, units(source))
    result = model.result(state)
    assert len(result.pairs.source) == 0
    assert state.embedding[0].shape == (N, P)
    assert torch.isfinite(state.embedding[0]).all()


def test_spots_alike_far_away_are_mutual_and_no_neighbours():
    rows = rng_for(0, "far", "rows").standard_normal((60, 5)).astype(np.float32)
    rng = rng_for(0, "far", "graph")
    graph = [np.unique(np.r_[i, rng.integers(0, 60, 6)]) for i in range(60)]
    indptr, indices = np.cumsum([0, *map(len, graph)]), np.concatenate(graph)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosine = unit @ unit.T
    for i, own in enumerate(graph):
        cosine[i, own] = -2
    nearest = np.argsort(-cosine, axis=1)[:, :4]
    expected = {(i, j) for i in range(60) for j in nearest[i] if i in nearest[j]}
    found_indptr, found = far_neighbours(rows, indptr, indices, 4)
    row = np.repeat(np.arange(60), np.diff(found_indptr))
    assert set(zip(row.tolist(), found.tolist(), strict=True)) == expected
    assert expected
