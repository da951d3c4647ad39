"""Batches sent to a device hold the numbers of the host's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from atlasnmf.batches.device import Sender
from atlasnmf.schema import Csr, SliceBatch


def batch(counts_type: type, index_type: type) -> SliceBatch:
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 6, 30)
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    largest = min(np.iinfo(counts_type).max, 2**31) if np.issubdtype(counts_type, np.integer) else 9
    data = rng.integers(0, largest, indptr[-1], endpoint=np.issubdtype(counts_type, np.integer))
    counts = Csr(indptr, rng.integers(0, 50, indptr[-1]).astype(index_type), data.astype(counts_type), 50)
    scores = rng.standard_normal((30, 2, 4)).astype(np.float32)
    return SliceBatch(0, np.arange(30), (30,), counts, rng.random(30, np.float32), scores, (counts,))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize(
    ("counts_type", "index_type"),
    [(np.uint16, np.uint16), (np.uint32, np.uint32), (np.int64, np.int64), (np.float32, np.int32)],
)
def test_the_numbers_arrive(device: str, counts_type: type, index_type: type) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    given = batch(counts_type, index_type)
    (sent,) = Sender(device).send([given])
    assert sent.rows is given.rows
    for mine, other in (
        (sent.counts, given.counts),
        (sent.smoothed[0], given.smoothed[0]),
    ):
        for name in ("indptr", "indices", "data"):
            tensor = getattr(mine, name)
            assert tensor.device.type == device
            np.testing.assert_array_equal(tensor.cpu().numpy(), getattr(other, name))
    np.testing.assert_array_equal(sent.scores.cpu().numpy(), given.scores)
    np.testing.assert_array_equal(sent.totals.cpu().numpy(), given.totals)
