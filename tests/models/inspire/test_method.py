"""A tiny atlas through the method: it learns, it is reproducible, its state is all there is to save."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from atlasnmf.models.inspire.method import build
from atlasnmf.models.inspire.networks import Start
from atlasnmf.models.inspire.params import Params
from atlasnmf.schema import AtlasFacts, Csr, SliceBatch
from atlasnmf.seeds import rng_for

FORMS = [
    {"encoder": "lgcn", "features": "scores"},
    {"encoder": "gat", "features": "scores"},
    {"encoder": "lgcn", "features": "genes"},
    {"encoder": "gat", "features": "genes"},
]
N, G, P, K = 60, 40, 6, 4


def tiny_atlas(n_slices=3, masked=False):
    mask = np.ones((n_slices, G), bool)
    if masked:
        mask[1, ::5] = False
    facts = AtlasFacts(
        slices=tuple("abcd"[:n_slices]),
        n_spots=np.full(n_slices, N),
        genes=tuple(f"g{g}" for g in range(G)),
        gene_mask=mask,
        gene_sums=np.ones((n_slices, G)),
        nnz_per_spot=10.0,
        components=np.linalg.qr(rng_for(0, "c").standard_normal((G, P)))[0].astype(np.float32),
        centres=np.zeros((n_slices, G), np.float32),
        component_scale=np.ones(P, np.float32),
    )
    batches = []
    for s in range(n_slices):
        rng = rng_for(1, "tiny", s)
        factor = np.repeat(np.arange(K), N // K)
        rate = 0.3 + 3.0 * (np.arange(G)[None] % K == factor[:, None])
        y = sp.csr_matrix(rng.poisson(rate) * mask[s]).astype(np.float32)
        near = np.abs(np.arange(N)[:, None] - np.arange(N)[None]) <= 1
        graph = sp.csr_matrix(near / near.sum(1, keepdims=True))
        x = y.copy()
        x.data = np.log1p(x.data)
        levels = [x @ facts.components]
        levels += [graph @ levels[-1]]
        batches.append((y, graph, np.stack(levels, 1) - levels[1].mean(0), x))
    return facts, batches


def batch_of(batches, s, rows=None, halo=2):
    y, graph, scores, x = batches[s]
    rows = np.arange(N) if rows is None else rows
    rings, here = [len(rows)], rows
    for _ in range(halo):
        reached = np.setdiff1d(graph[here].indices, here)
        here = np.concatenate([here, reached])
        rings.append(len(here))
    place = np.full(N, -1)
    place[here] = np.arange(len(here))
    part = graph[here[: rings[-2]]] if halo else None
    return SliceBatch(
        slice_index=s,
        rows=here,
        rings=tuple(rings),
        counts=Csr.from_scipy(y[here]),
        totals=np.asarray(y[here].sum(1), np.float32).ravel(),
        scores=scores[here].astype(np.float32),
        smoothed=(Csr.from_scipy((graph @ x)[here]),),
        graph=None
        if part is None
        else Csr(part.indptr.astype(np.int64), place[part.indices], part.data, len(here)),
    )


def unit(batches, step=0):
    rng = rng_for(2, "unit", step)
    return [
        batch_of(batches, s, np.sort(rng.choice(N, 30, replace=False)), halo=2) for s in range(len(batches))
    ]


def model_of(form, facts, **more):
    values = {"n_factors": K, "steps": 40, "hidden": 16, "learning_rate": 5e-3} | form | more
    return build(Params(**values), facts, "cpu", 0)


def train(model, state, batches, start, stop):
    figures = []
    for step in range(start, stop):
        state, record = model.method.step(state, unit(batches, step))
        figures.append(record)
    return state, figures


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_loss_falls_and_results_keep_their_promises(form):
    facts, batches = tiny_atlas()
    model = model_of(form, facts)
    state = model.method.init(unit(batches))
    state, figures = train(model, state, batches, 0, 40)
    assert np.mean([f["nmf"] for f in figures[-5:]]) < np.mean([f["nmf"] for f in figures[:5]])
    assert all(np.isfinite(list(record.values())).all() for record in figures)
    assert model.method.done(state)
    out = model.infer(state, batch_of(batches, 1))
    assert out["X_inspire"].shape == (N, 32)
    assert out["inspire_factors"].shape == (N, K)
    np.testing.assert_allclose(out["inspire_factors"].sum(1), 1, rtol=1e-5)
    assert out["inspire_discriminator"].shape == (N, 2)
    result = model.result(state)
    np.testing.assert_allclose(result.varm["inspire_loadings"].sum(0), 1, rtol=1e-4)
    assert (result.varm["inspire_loadings"] >= 0).all()


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_packed_state_goes_on_to_the_same_bits(form):
    facts, batches = tiny_atlas()
    model = model_of(form, facts)
    whole, _ = train(model, model.method.init(unit(batches)), batches, 0, 8)
    half, _ = train(model, model.method.init(unit(batches)), batches, 0, 4)
    again = model_of(form, facts)
    half, _ = train(again, again.method.unpack(*model.method.pack(half)), batches, 4, 8)
    tensors, scalars = model.method.pack(whole)
    others, other_scalars = again.method.pack(half)
    assert scalars == other_scalars
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        assert tensor.tobytes() == others[name].tobytes(), name


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_embedding_of_a_tile_with_its_halo_equals_that_of_the_slice(form):
    facts, batches = tiny_atlas()
    model = model_of(form, facts)
    state, _ = train(model, model.method.init(unit(batches)), batches, 0, 3)
    rows = np.arange(20, 35)
    whole = model.infer(state, batch_of(batches, 0))["X_inspire"][rows]
    tile = model.infer(state, batch_of(batches, 0, rows))["X_inspire"]
    np.testing.assert_allclose(tile, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("n_slices", "expected"), [(2, [[0], [0]]), (4, [[0, 0], [0, 1], [1, 2], [2, 2]])])
def test_a_slice_is_judged_by_the_adversaries_it_was_trained_against(n_slices, expected):
    facts, batches = tiny_atlas(n_slices=n_slices)
    model = model_of(FORMS[0], facts)
    state, _ = train(model, model.method.init(unit(batches)), batches, 0, 3)
    for index, adversaries in enumerate(expected):
        out = model.infer(state, batch_of(batches, index))
        latent = torch.from_numpy(out["X_inspire"])
        logits = [state.adversary[number](latent).detach().numpy() for number in adversaries]
        np.testing.assert_array_equal(out["inspire_discriminator"], np.stack(logits, 1))
    assert len({tuple(logit[:3]) for logit in (d(latent).tolist() for d in state.adversary)}) == n_slices - 1


def test_one_slice_needs_no_adversary():
    facts, batches = tiny_atlas(n_slices=1)
    model = model_of(FORMS[0], facts)
    state, figures = train(model, model.method.init(unit(batches)), batches, 0, 3)
    assert "gan" not in figures[-1]
    assert "inspire_discriminator" not in model.infer(state, batch_of(batches, 0))
    model.method.unpack(*model.method.pack(state))


@pytest.mark.parametrize("features", ["scores", "genes"])
def test_genes_a_slice_did_not_measure_carry_no_gradient(features):
    facts, batches = tiny_atlas(masked=True)
    model = model_of({"encoder": "lgcn", "features": features, "weight_decay": 0.0}, facts)
    state = model.method.init(unit(batches))
    start = model.result(state).uns["gamma"][1, ::5].copy()
    state, _ = train(model, state, batches, 0, 5)
    np.testing.assert_array_equal(model.result(state).uns["gamma"][1, ::5], start)


def test_a_new_slice_can_be_embedded():
    facts, batches = tiny_atlas()
    model = model_of(FORMS[0], facts)
    state, _ = train(model, model.method.init(unit(batches)), batches, 0, 3)
    other = batch_of(batches, 0)
    moved = SliceBatch(**{**other.__dict__, "slice_index": 7})
    np.testing.assert_array_equal(
        model.infer(state, moved)["X_inspire"], model.infer(state, other)["X_inspire"]
    )


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_batches_of_tensors_give_what_arrays_give(form):
    from atlasnmf.batches.device import Sender

    facts, batches = tiny_atlas()
    model = model_of(form, facts)
    state, there = (model.method.init(unit(batches, 99)) for _ in range(2))
    for step in range(3):
        state, figures = model.method.step(state, unit(batches, step))
        there, sent = model.method.step(there, Sender("cpu").send(unit(batches, step)))
        for name, value in figures.items():
            assert sent[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name


def test_bf16_products_cost_little_and_are_another_fit():
    facts, batches = tiny_atlas()
    losses = {}
    for precision in ("float32", "tf32", "bf16"):
        model = model_of(FORMS[0], facts, precision=precision)
        _, figures = train(model, model.method.init(unit(batches, 99)), batches, 0, 40)
        losses[precision] = np.mean([record["loss"] for record in figures[-10:]])
    assert losses["tf32"] == losses["float32"]  # on the CPU products of float32 are what they are
    assert losses["bf16"] != losses["float32"]
    # 7 bits of mantissa: products are off by 0.4 %, which mostly averages out
    assert losses["bf16"] == pytest.approx(losses["float32"], rel=0.02)


def test_components_that_are_rounding_are_not_blown_up():
    ordinary = torch.linspace(5.0, 0.5, 10)
    torch.testing.assert_close(Start(ordinary).spread, ordinary / ordinary.mean(), rtol=0, atol=0)
    few_spots = torch.cat([ordinary, torch.full((6,), 1e-7)])
    start = Start(few_spots)
    scores = few_spots * torch.randn(40, 16, generator=torch.Generator().manual_seed(0))
    assert (1 / start.spread).max() < 1e3
    assert start(scores).abs().max() < 20
    assert start.scale[10:].count_nonzero() == 0
    assert start.scale[:10].count_nonzero() == 10
