"""Training on a device from rows that live there, or are sent ahead, follows training on the host."""

from __future__ import annotations

from contextlib import closing
from itertools import islice

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from atlasnmf.batches import BlockSampler, HeldCsr, HeldDense, Loader, SpotSource
from atlasnmf.batches.device import on_device
from atlasnmf.models.inspire.method import build
from atlasnmf.models.inspire.params import Params
from atlasnmf.schema import AtlasFacts, Csr
from atlasnmf.seeds import rng_for

N, G, P, STEPS = 90, 40, 6, 6
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


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
    """Return the units of all steps; on the CPU, tensors in memory stand for rows that live on a device."""
    if device == "cpu" and residency == "device":
        there = on_device(source, device)
        drawn = (enumerate(sampler.draw(step)) for step in range(STEPS))
        return ([there.batch(s, there.read_rows(rows)) for s, rows in chosen] for chosen in drawn)
    loader = Loader(source, sampler, residency=residency, device=device, takes_tensors=True)
    assert loader.choice.residency == residency
    return loader.starting_at(0)


def losses(device, *, residency="host", features="scores", precision="float32"):
    """Return the loss of each step, and the factors of the spots afterwards."""
    source, facts = rows_and_facts()
    sampler = BlockSampler(source.offsets, 32, seed=0)
    given = {"n_factors": 4, "batch_spots": 32, "encoder": "lgcn", "hidden": 16}
    model = build(Params(**given, features=features, precision=precision), facts, device, 0)
    sample = Loader(source, sampler, residency="host").sample(60, 0)
    state, found = model.method.init(sample), []
    with closing(units_of(source, sampler, device, residency)) as units:
        for unit in islice(units, STEPS):
            state, figures = model.method.step(state, unit)
            found.append(figures["loss"])
    factors = np.concatenate([model.infer(state, batch)["inspire_factors"] for batch in sample])
    return np.array(found), factors


@pytest.mark.parametrize("features", ["scores", "genes"])
@pytest.mark.parametrize("residency", ["host", "device"])
@pytest.mark.parametrize("device", DEVICES)
def test_steps_are_those_of_the_host(device, residency, features):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    expected, factors = losses("cpu", features=features)
    found, others = losses(device, residency=residency, features=features)
    # the same products added in another order, carried on for six steps
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_allclose(others, factors, atol=2e-3)


@pytest.mark.parametrize(("precision", "tolerance"), [("tf32", 2e-3), ("bf16", 1e-2)])
@pytest.mark.parametrize("device", DEVICES)
def test_what_fewer_bits_cost(device, precision, tolerance):
    """10 bits round factors of products to a thousandth, 7 bits to some; most of it averages out."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    expected, _ = losses(device)
    found, _ = losses(device, precision=precision)
    np.testing.assert_allclose(found, expected, rtol=tolerance)
