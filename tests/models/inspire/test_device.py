"""Training on a device from rows that live there, or are sent ahead, follows training on the host."""

from __future__ import annotations

from contextlib import closing
from itertools import islice

import numpy as np
import pytest
import scipy.sparse as sp

from atlasnmf.batches import BlockSampler, HeldCsr, HeldDense, Loader, SpotSource
from atlasnmf.models.inspire.method import build
from atlasnmf.models.inspire.params import Params
from atlasnmf.schema import AtlasFacts, Csr
from atlasnmf.seeds import rng_for

N, G, P, STEPS = 90, 40, 6, 6


def rows_and_facts():
    rng = rng_for(0, "device")
    counts = sp.csr_matrix(rng.poisson(0.3 + 2.0 * (np.arange(G) % 4 == np.arange(2 * N)[:, None] % 4)))
    logs = counts.astype(np.float32)
    logs.data = np.log1p(logs.data)
    basis = np.linalg.qr(rng.standard_normal((G, P)))[0].astype(np.float32)
    narrow = Csr.from_scipy(counts.astype(np.uint16))
    source = SpotSource(
        np.array([0, N, 2 * N]),
        HeldCsr(Csr(narrow.indptr, narrow.indices.astype(np.uint16), narrow.data, G)),
        np.asarray(counts.sum(1), np.float32).ravel(),
        HeldDense(np.stack([logs @ basis, logs @ basis / 2], 1).astype(np.float32)),
        (HeldCsr(Csr.from_scipy(logs)),),
    )
    facts = AtlasFacts(
        slices=("a", "b"),
        n_spots=np.full(2, N),
        genes=tuple(f"g{g}" for g in range(G)),
        gene_mask=np.ones((2, G), bool),
        gene_sums=np.ones((2, G)),
        nnz_per_spot=10.0,
        components=basis,
        centres=np.zeros((2, G), np.float32),
        component_scale=np.ones(P, np.float32),
    )
    return source, facts


def units_of(source, sampler, device, residency):
    """Return the units of all steps, and where their rows were."""
    loader = Loader(source, sampler, residency=residency, device=device, takes_tensors=True)
    assert loader.choice.residency == residency
    return loader.starting_at(0)


def model_of(facts, device, features="scores", precision="float32"):
    given = {"n_factors": 4, "batch_spots": 32, "encoder": "lgcn", "hidden": 16}
    return build(Params(**given, features=features, precision=precision), facts, device, 0)


def losses(device, *, residency="host", features="scores", precision="float32", moves_to=None):
    """Return the loss of each step, and the factors of the spots afterwards.

    With ``moves_to``, the state goes to another device after half of the steps, as a checkpoint does.
    """
    source, facts = rows_and_facts()
    sampler = BlockSampler(source.offsets, 32, seed=0)
    model = model_of(facts, device, features, precision)
    sample = Loader(source, sampler, residency="host").sample(60, 0)
    state, found = model.method.init(sample), []
    with closing(units_of(source, sampler, device, residency)) as units:
        for unit in islice(units, STEPS if moves_to is None else STEPS // 2):
            state, figures = model.method.step(state, unit)
            found.append(figures["loss"])
    if moves_to is not None:
        packed = model.method.pack(state)
        assert all(type(array) is np.ndarray for array in packed[0].values())
        model = model_of(facts, moves_to, features, precision)
        state = model.method.unpack(*packed)
        with closing(units_of(source, sampler, moves_to, "host")) as units:
            for unit in islice(units, STEPS // 2, STEPS):
                state, figures = model.method.step(state, unit)
                found.append(figures["loss"])
    factors = np.concatenate([model.infer(state, batch)["inspire_factors"] for batch in sample])
    return np.array(found), factors


@pytest.mark.parametrize("features", ["scores", "genes"])
@pytest.mark.parametrize("residency", ["host", "device"])
def test_steps_are_those_of_the_host(torch_device, residency, features):
    expected, factors = losses("cpu", features=features)
    found, others = losses(torch_device, residency=residency, features=features)
    # the same products added in another order, carried on for six steps
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_allclose(others, factors, atol=2e-3)


@pytest.mark.parametrize("there_first", [True, False])
def test_a_checkpoint_goes_from_one_to_the_other(torch_device, there_first):
    expected, factors = losses("cpu", features="genes")
    first, then = (torch_device, "cpu") if there_first else ("cpu", torch_device)
    found, others = losses(first, features="genes", moves_to=then)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_allclose(others, factors, atol=2e-3)


@pytest.mark.parametrize(("precision", "tolerance"), [("tf32", 2e-3), ("bf16", 1e-2)])
def test_what_fewer_bits_cost(torch_device, precision, tolerance):
    """10 bits round factors of products to a thousandth, 7 bits to some; most of it averages out."""
    expected, _ = losses(torch_device)
    found, _ = losses(torch_device, precision=precision)
    np.testing.assert_allclose(found, expected, rtol=tolerance)
    assert precision == "tf32" or (found != expected).any()


@pytest.mark.parametrize("features", ["scores", "genes"])
def test_a_step_waits_for_the_device_once(pretend_cuda, features):
    """When its figures come back; until then nothing that is sent or counted holds it up."""
    there = pretend_cuda()
    source, facts = rows_and_facts()
    sampler = BlockSampler(source.offsets, 32, seed=0)
    model = model_of(facts, "cuda", features)
    state = model.method.init(Loader(source, sampler, residency="host").sample(60, 0))
    with closing(units_of(source, sampler, "cuda", "device")) as units:
        given = list(islice(units, 3))
    for unit in given:
        there.waits.clear()
        state, _ = model.method.step(state, unit)
        assert there.waits == ["tolist"]
