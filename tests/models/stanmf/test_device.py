"""A study on the device takes the iterations of a study on the host."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
from small_studies import OFFSETS, counts_of, facts_of, passes_of

from atlasnmf.models.stanmf import values
from atlasnmf.models.stanmf.method import build
from atlasnmf.models.stanmf.params import Params
from atlasnmf.models.stanmf.values import DeviceValues, KeptValues, Transform
from atlasnmf.schema import Csr
from atlasnmf.train import loop


def study(device, **params):
    counts = counts_of()
    passes = passes_of(counts)
    model = build(Params(ranks="3-4", replicates=2, **params), facts_of(counts), device, 0)
    source = passes.source
    sample = [source.batch(s, source.read(OFFSETS[s], OFFSETS[s] + 9)) for s in range(2)]
    return loop.run(model.method, passes, sample=lambda: sample)


@pytest.mark.slow
@pytest.mark.parametrize("path", ["exact", "compressed"])
def test_a_study_on_the_device(cuda_kernels, path):
    options = {"path": path, "max_iterations": 4, "tol": 0.0, "precision": "double"}
    here, there = study("cpu", **options), study(cuda_kernels, **options)
    assert here.rank == there.rank
    # the same operations in another order, in float64; products of tiles differ by rounding alone
    np.testing.assert_allclose(there.coefficients, here.coefficients, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(there.patterns, here.patterns, rtol=1e-6, atol=1e-9)
    for mine, other in zip(here.curve, there.curve, strict=True):
        assert mine["loss"] == pytest.approx(other["loss"], rel=1e-9)


@pytest.mark.parametrize("kind", ["log", "none"])
def test_values_on_the_device_are_those_of_the_host(cuda_kernels, kind):
    source = passes_of(counts_of()).source
    batch = source.batch(0, source.read(0, 40))
    right = np.random.default_rng(0).random((50, 3))
    host = Transform(kind, 1e4, np.float64)(batch)
    device = Transform(kind, 1e4, np.float64, cuda_kernels)(batch)
    assert isinstance(device, DeviceValues)
    np.testing.assert_allclose(device.dot(right), host.dot(right), rtol=1e-12)
    left = np.random.default_rng(1).random((40, 3))
    np.testing.assert_allclose(device.t_dot(left), host.t_dot(left), rtol=1e-12)
    for mine, other in zip(device.moments(), host.moments(), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_full_rows_are_written_out_there(cuda_kernels, monkeypatch, dtype):
    """Volumes have few zeros: sparse rows travel, and blocks of a few rows are multiplied densely."""
    rng = np.random.default_rng(0)
    dense = rng.poisson(1.5, (40, 9)).astype(np.uint16)
    rows = Csr.from_scipy(scipy.sparse.csr_matrix(dense))
    monkeypatch.setattr(values, "_DEVICE_BLOCK_BYTES", 7 * 9 * np.dtype(dtype).itemsize)
    device = DeviceValues(rows, None, 1.0, dtype, cuda_kernels)
    assert not device._sparse
    assert [len(block) for _, block in device._blocks(dtype)] == [7, 7, 7, 7, 7, 5]
    right, left = rng.random((9, 3)).astype(dtype), rng.random((40, 3)).astype(dtype)
    found = device.dot(right), device.t_dot(left)
    tolerance = 1e-5 if dtype is np.float32 else 1e-12
    for ours, plain in zip(found, (dense @ right, dense.T @ left), strict=True):
        assert ours.dtype == dtype
        np.testing.assert_allclose(ours, plain, rtol=tolerance)


def test_values_that_fit_travel_once(cuda_kernels, monkeypatch):
    source = passes_of(counts_of()).source
    batches = [source.batch(0, source.read(start, start + 40)) for start in (0, 40)]
    monkeypatch.setattr(values, "_DENSE_FROM", 2.0)  # sparse, so sorted by gene
    one = DeviceValues(batches[0].counts, None, 1.0, np.float64, cuda_kernels)
    # room for the first tile and not for the second
    monkeypatch.setattr(values, "free_bytes", lambda device: 3 * one.nbytes)
    transform = Transform("none", 1e4, np.float64, cuda_kernels, KeptValues())
    first, second = (transform(batch) for batch in batches)
    assert transform(batches[0]) is first
    assert transform(batches[1]) is not second
    left = np.random.default_rng(1).random((40, 3))
    expected = Transform("none", 1e4, np.float64)(batches[0]).t_dot(left)
    np.testing.assert_allclose(first.t_dot(left), expected, rtol=1e-12)
    turned = first._turned
    np.testing.assert_allclose(first.t_dot(2 * left), 2 * expected, rtol=1e-12)
    assert first._turned is turned
    held = sum(int(part.nbytes) for part in (*first._parts, *turned))
    assert 0.9 * held <= first.nbytes <= 1.1 * held
