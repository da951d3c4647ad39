"""Steps divided among ranks: objective, gradient and state of one worker, up to the order of sums."""

from __future__ import annotations

import itertools
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_slices import HALO, N, P, slices

from atlasnmf.batches.loader import Loader
from atlasnmf.batches.samplers import TileSampler
from atlasnmf.models.spatialfuser.inputs import Reader
from atlasnmf.models.spatialfuser.method import build
from atlasnmf.models.spatialfuser.params import Params
from atlasnmf.tiles.plan import plan_tiles
from tests.models.threaded_ranks import run_ranks

FORMS = {
    "whole": {},
    "tiles": {"batch_spots": 50},
    "genes": {"features": "genes", "start": False, "hidden": (8, 4), "heads": 2, "batch_spots": 80},
    "far": {"alpha": 0.3},
    "own": {"encoders": "own", "similarity": False, "partners": "first", "batch_spots": 70},
}
every_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())


class Doubles(Reader):
    """Reads in float64, so that nothing but the order of sums can differ."""

    def read(self, batch):
        found = super().read(batch)
        return replace(found, rows=found.rows.double())


def model_of(n_slices=2, **params):
    facts, source = slices(n_slices)
    given = {"components": P, "pretrain_steps": 3, "fuse_steps": 6, "match_every": 3, "batch_spots": N}
    return build(Params(**given | params), facts, "cpu", 0), source


def units_of(model, source, rank=0, n_ranks=1):
    tiles = plan_tiles(source.offsets, model.params.batch_spots)
    return Loader(source, TileSampler(tiles, seed=0, rank=rank, n_ranks=n_ranks), hops=HALO)


def in_double(method):
    """Have a method and its states compute in float64."""
    method.reader.__class__ = Doubles
    fresh = method._fresh

    def double():
        state = fresh()
        state.net.double()
        state.latents = [rows.double() for rows in state.latents]
        return state

    method._fresh = double


def train(model, source, one=None, *, double=False, steps=None):
    """Return the packed state and the figures of every step of one rank, or of a worker alone."""
    method = model.method if one is None else model.method.with_ranks(one)
    if double:
        in_double(method)
    loader = units_of(model, source, *(() if one is None else (one.rank, one.n_ranks)))
    figures = []
    with closing(loader.starting_at(0)) as units:
        state = method.init(loader.sample(60, 0))
        for unit in itertools.islice(units, steps):
            state, record = method.step(state, unit)
            figures.append(record)
            if method.done(state):
                break
    return method.pack(state)[0], figures


@every_form
@pytest.mark.parametrize("n_ranks", [2, 3])
def test_ranks_take_the_steps_of_one_worker(form, n_ranks):
    """In float64, through all phases: figures, matches, weights, moments and embeddings to nine digits."""
    model, source = model_of(n_slices=3, **form)
    alone, figures = train(model, source, double=True)
    shared = run_ranks(n_ranks, lambda one: train(model, source, one, double=True))
    for state, seen in shared:
        assert len(figures) == len(seen)
        for step, (before, now) in enumerate(zip(figures, seen, strict=True)):
            assert before.keys() == now.keys()
            for name, value in before.items():
                assert now[name] == pytest.approx(value, rel=1e-9, abs=1e-12), (step, name)
        assert state.keys() == alone.keys()
        for name, array in alone.items():
            if array.dtype.kind == "f":
                np.testing.assert_allclose(state[name], array, rtol=1e-6, atol=1e-8, err_msg=name)
            else:
                np.testing.assert_array_equal(state[name], array, err_msg=name)
    assert any("triplets" in record for record in figures)
    assert any(name.startswith("pairs/") and array.size for name, array in alone.items())


@every_form
def test_every_rank_has_the_same_bits_and_has_them_again(form):
    model, source = model_of(**form)
    first, again = (run_ranks(2, lambda one: train(model, source, one)) for _ in range(2))
    for other in (first[1], *again):
        assert other[1] == first[0][1]
        for name, array in first[0][0].items():
            np.testing.assert_array_equal(other[0][name], array, err_msg=name)
    alone, _ = train(model, source)
    ours, plain = (
        np.concatenate([state[f"embedding/{s}"] for s in range(2)]) for state in (first[0][0], alone)
    )
    # nine steps of Adam in float32, whose first go by the sign of a gradient
    np.testing.assert_allclose(ours, plain, rtol=0, atol=0.01 * np.abs(plain).max())


def gradients(model, source, one=None):
    """Return the gradient of a fusing step in every weight, and what it is taken of."""
    method = model.method if one is None else model.method.with_ranks(one)
    in_double(method)
    kept = {}
    descend = method._descend

    def keep(loss, state, beside):
        taken = torch.optim.SGD(state.net.parameters(), lr=0.0)
        taken.step = lambda: kept.update(
            {name: weight.grad for name, weight in state.net.named_parameters() if weight.grad is not None}
        )
        state.optimizer, before = taken, state.optimizer
        descend(loss, state, beside)
        state.optimizer = before

    loader = units_of(model, source, *(() if one is None else (one.rank, one.n_ranks)))
    with closing(loader.starting_at(0)) as units:
        state = method.init(loader.sample(60, 0))
        for _ in range(method.pretrain_steps):
            state, _ = method.step(state, next(units))
        method._descend = keep
        method.step(state, next(units))
    return kept


@every_form
@pytest.mark.parametrize("n_ranks", [2, 3, 5])
def test_gradients_are_those_of_the_whole_step(form, n_ranks):
    """To ten digits in float64, of all terms together, through normalisations that all ranks share."""
    model, source = model_of(**form, reconstruction_weight=1.0, direction_weight=1.0)
    expected = gradients(model, source)
    assert any(name.startswith("second.") for name in expected)
    for found in run_ranks(n_ranks, lambda one: gradients(model, source, one)):
        assert found.keys() == expected.keys()
        scale = max(float(gradient.abs().max()) for gradient in expected.values())
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-11 * scale, msg=name)


def test_more_ranks_than_spots_in_a_tile():
    """Some ranks have no spot of a step, and still take part in every sum."""
    model, source = model_of(batch_spots=8, pretrain_steps=1, fuse_steps=2)
    _, figures = train(model, source, double=True, steps=34)
    shared = run_ranks(9, lambda one: train(model, source, one, double=True, steps=34))
    for _, seen in shared:
        for before, now in zip(figures, seen, strict=True):
            assert now == pytest.approx(before, rel=1e-8, abs=1e-12)


def test_a_rank_alone_has_the_bits_of_a_worker_alone():
    model, source = model_of()
    alone = train(model, source)
    (one,) = run_ranks(1, lambda one: train(model, source, one))
    assert one[1] == alone[1]
    for name, array in alone[0].items():
        np.testing.assert_array_equal(one[0][name], array, err_msg=name)


def test_whole_slices_are_shared_and_move_to_the_device_once():
    model, source = model_of()

    def same_inputs(one):
        method = model.method.with_ranks(one)
        with closing(units_of(model, source, one.rank, one.n_ranks).starting_at(0)) as units:
            first, second = ([method.reader.read(batch) for batch in next(units)] for _ in range(2))
        assert all(a is b for a, b in zip(first, second, strict=True))
        return [(inputs.core, inputs.step) for inputs in first]

    for rank, found in enumerate(run_ranks(2, same_inputs)):
        assert found == [(slice(rank * N // 2, (rank + 1) * N // 2), slice(0, N))] * 2
