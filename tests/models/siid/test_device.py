"""A paired factorisation on the device takes the passes of one on the host."""

from __future__ import annotations

import numpy as np
import pytest
from small_pairs import small_pair

from atlasnmf.models.siid.method import build
from atlasnmf.models.siid.params import Params


def fitted(pair, device, **params):
    model = build(Params(n_factors=3, passes=6, restarts=1, tol=0.0, **params), pair.facts(), device, 0)
    state, losses = model.method.init(pair.sample()), []
    while not model.method.done(state):
        state, figures = model.method.step(state, pair.unit())
        losses.append(figures["loss"])
    return model.method.pack(state)[0], losses


@pytest.mark.slow
@pytest.mark.parametrize("coarse_counts", ["poisson", "negative-binomial"])
def test_a_fit_on_the_device(cuda_kernels, coarse_counts):
    pair = small_pair(1, n_fine=120)
    here, losses = fitted(pair, "cpu", coarse_counts=coarse_counts)
    there, others = fitted(pair, cuda_kernels, coarse_counts=coarse_counts)
    np.testing.assert_allclose(others, losses, rtol=1e-4)
    for name, value in here.items():
        if np.issubdtype(value.dtype, np.floating):
            # weights are kept in float32, and passes carry the rounding on
            np.testing.assert_allclose(there[name], value, rtol=2e-2, atol=1e-3, err_msg=name)
