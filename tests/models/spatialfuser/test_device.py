"""Rows that are on a device already train what rows of the host train, and matching goes where CuPy is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_slices import N, P, slices, units

from atlasnmf.batches.device import Sender
from atlasnmf.models.spatialfuser.method import build
from atlasnmf.models.spatialfuser.pairs import Links
from atlasnmf.models.spatialfuser.params import Params

FORMS = [
    {"features": "scores"},
    {"features": "genes", "start": False, "hidden": (16, 8), "heads": 4},
]


def model_of(device, *, own_genes=False, **params):
    facts, source = slices(2)
    if own_genes:
        facts.gene_mask[1, ::3] = False
        params["encoders"] = "own"
    given = {"components": P, "pretrain_steps": 3, "fuse_steps": 3, "match_every": 2, "batch_spots": N}
    return build(Params(**given | params), facts, device, 0).method, units(source)[0]


@pytest.mark.parametrize("form", [*FORMS, FORMS[1] | {"own_genes": True}])
def test_rows_that_were_sent_are_read_the_same(torch_device, form):
    (here, unit), (there, _) = model_of("cpu", **form), model_of(torch_device, **form)
    sent = Sender(torch_device).send(unit)
    for plain, batch in zip(unit, sent, strict=True):
        for given in (plain, batch):
            rows = there.reader.read(given).rows
            assert rows.device.type == torch_device
            torch.testing.assert_close(rows.cpu(), here.reader.read(plain).rows, rtol=1e-6, atol=1e-6)
    states = here.init(unit), there.init(sent)
    for _ in range(here.learning_steps):
        figures = [
            method.step(state, given)[1]["reconstruction"]
            for method, state, given in zip((here, there), states, (unit, sent), strict=True)
        ]
        assert figures[1] == pytest.approx(figures[0], rel=1e-3)


def test_slices_are_matched_where_cupy_is(cuda_kernels, monkeypatch):
    emptied = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    facts, _ = slices(2)
    rng = np.random.default_rng(0)
    embeddings = [rng.normal(size=(N, 4)).astype(np.float32) for _ in range(2)]
    found = []
    params = Params(components=P, batch_spots=N, own_weight=0)
    for device in ("cpu", cuda_kernels):
        links = Links.of(params, facts, 0, device)
        found.append(links.match(0, embeddings, [], 0))
    assert emptied == [True]  # torch keeps nothing that CuPy could use
    for name in ("source", "target"):
        np.testing.assert_array_equal(getattr(found[0], name), getattr(found[1], name))
