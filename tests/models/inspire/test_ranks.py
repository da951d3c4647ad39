"""A batch divided among ranks: the state and the figures of the whole batch, up to the order of sums."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from atlasnmf.schema import SliceBatch
from atlasnmf.train.sums import summed
from tests.models.threaded_ranks import run_ranks

_place = Path(__file__).with_name("test_method.py")
_spec = importlib.util.spec_from_file_location("inspire_tiny", _place)
assert _spec is not None
assert _spec.loader is not None
tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tiny)


def rows_of(step: int, sizes: list[int]) -> list[np.ndarray]:
    rng = tiny.rng_for(2, "shared", step)
    return [np.sort(rng.choice(tiny.N, size, replace=False)) for size in sizes]


def unit(batches, step, sizes, halo, rank=0, n_ranks=1) -> list[SliceBatch]:
    return [
        replace(tiny.batch_of(batches, s, rows[rank::n_ranks], halo=halo), n_shared=len(rows))
        for s, rows in enumerate(rows_of(step, sizes))
    ]


def train(model, method, batches, steps, sizes, rank=0, n_ranks=1):
    halo = 2 if method.attends else 0
    state, figures = model.method.init(unit(batches, 99, [30] * len(batches), 2)), []
    for step in range(steps):
        state, record = method.step(state, unit(batches, step, sizes, halo, rank, n_ranks))
        figures.append(record)
    return model.method.pack(state)[0], figures


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("form", tiny.FORMS, ids=str)
@pytest.mark.parametrize("n_ranks", [2, 3])
def test_ranks_take_the_steps_of_one_worker(form, n_ranks, masked):
    facts, batches = tiny.tiny_atlas(masked=masked)
    model = tiny.model_of(form, facts, prior_memory=0.5, geometry_weight=0.5)
    sizes = [30, 25, 2]  # of the smallest slice a third rank has no spot
    alone, figures = train(model, model.method, batches, 4, sizes)
    shared = run_ranks(
        n_ranks,
        lambda one: train(model, model.method.with_ranks(one), batches, 4, sizes, one.rank, n_ranks),
    )
    for state, seen in shared:
        assert state.keys() == alone.keys()
        for name, array in alone.items():
            # Adam divides by the size of a gradient: near zero the order of sums shows
            np.testing.assert_allclose(state[name], array, rtol=2e-3, atol=2e-4, err_msg=name)
        for before, now in zip(figures, seen, strict=True):
            assert before.keys() == now.keys()
            for name, value in before.items():
                assert now[name] == pytest.approx(value, rel=1e-4, abs=1e-4), name
    for name, array in shared[0][0].items():
        np.testing.assert_array_equal(shared[1][0][name], array, err_msg=name)


def test_the_gradients_of_ranks_add_up_to_that_of_the_whole():
    x = torch.linspace(-1, 2, 12, dtype=torch.float64).reshape(6, 2)

    def loss(weight, rows, ranks):
        (gram,) = summed([(rows * weight).T @ (rows * weight)], ranks)
        return gram.square().sum() + gram.trace().log()

    weight = torch.tensor([0.5, 1.5], dtype=torch.float64, requires_grad=True)
    (whole,) = torch.autograd.grad(loss(weight, x, None), weight)

    def gradient(one):
        own = weight.detach().clone().requires_grad_()
        return torch.autograd.grad(loss(own, x[one.rank :: 2], one), own)[0]

    torch.testing.assert_close(sum(run_ranks(2, gradient)), whole, rtol=1e-12, atol=1e-12)
