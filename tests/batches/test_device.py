"""Batches sent to a device hold the numbers of the host's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from atlasnmf.batches import BlockSampler, HeldCsr, HeldDense, Loader, SpotSource
from atlasnmf.batches.device import Sender, on_device
from atlasnmf.schema import Csr, SliceBatch
from atlasnmf.train.sparse_rows import sparse_rows


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


class Traffic:
    """Stands for a CUDA device: copies stay here, and what is asked of torch is written down."""

    STREAM, COMPUTES = "stream of its own", "stream that computes"

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.copies: list[tuple[torch.dtype, int, bool, bool, str]] = []
        self.recorded: dict[int, str] = {}
        self.said: list[str] = []
        self.now = self.COMPUTES
        self._locked: set[int] = set()
        empty, stay = torch.empty, torch.Tensor.to
        stream = SimpleNamespace(synchronize=lambda: self.said.append("waited"))

        def allocate(*shape: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
            made = empty(*shape, **options)
            if pin_memory:
                self._locked.add(made.data_ptr())
            return made

        def move(tensor: torch.Tensor, where: Any, *args: Any, **options: Any) -> torch.Tensor:
            if not isinstance(where, torch.device) or where.type != "cuda":
                return stay(tensor, where, *args, **options)
            n_bytes, locked = tensor.numel() * tensor.element_size(), tensor.data_ptr() in self._locked
            self.copies.append((tensor.dtype, n_bytes, locked, options.get("non_blocking", False), self.now))
            self.said.append("copied")
            return tensor.clone()

        @contextmanager
        def on(used: Any) -> Iterator[None]:
            assert used is stream
            self.now = self.STREAM
            yield
            self.now = self.COMPUTES

        def record(tensor: torch.Tensor, used: str) -> None:
            self.recorded[tensor.data_ptr()] = used

        monkeypatch.setattr(torch, "empty", allocate)
        monkeypatch.setattr(torch.Tensor, "to", move)
        monkeypatch.setattr(torch.Tensor, "record_stream", record)
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream)
        monkeypatch.setattr(torch.cuda, "stream", on)
        monkeypatch.setattr(torch.cuda, "default_stream", lambda device: self.COMPUTES)


def test_units_travel_narrow_and_beside_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    given = batch(np.uint16, np.uint16)
    traffic = Traffic(monkeypatch)
    (sent,) = Sender("cuda").send([given])
    # from page-locked memory, without waiting, on a stream of its own: under the step that computes
    assert traffic.copies
    for _, _, locked, without_waiting, stream in traffic.copies:
        assert locked
        assert without_waiting
        assert stream == Traffic.STREAM
    # handed over when all has arrived
    assert traffic.said == ["copied"] * len(traffic.copies) + ["waited"]
    # 16-bit numbers leave as 16 bits
    arrays = [given.counts.indptr, given.counts.indices, given.counts.data] * 2
    arrays += [given.totals, given.scores]
    assert sum(n_bytes for _, n_bytes, *_ in traffic.copies) == sum(array.nbytes for array in arrays)
    assert [kind for kind, *_ in traffic.copies].count(torch.int16) == 4
    # and are not freed while the step that uses them is under way
    for rows in (sent.counts, sent.smoothed[0]):
        for tensor in (rows.indptr, rows.indices, rows.data):
            assert traffic.recorded[tensor.data_ptr()] == Traffic.COMPUTES
        np.testing.assert_array_equal(rows.data.numpy(), given.counts.data)
    for tensor in (sent.totals, sent.scores):
        assert traffic.recorded[tensor.data_ptr()] == Traffic.COMPUTES


def test_a_batch_that_comes_again_is_not_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, other = batch(np.uint16, np.uint16), batch(np.uint16, np.uint16)
    traffic = Traffic(monkeypatch)
    sender = Sender("cuda")
    (first,) = sender.send([whole])
    n_copies = len(traffic.copies)
    (again,) = sender.send([whole])
    assert again is first
    assert len(traffic.copies) == n_copies
    (next_one,) = sender.send([other])
    assert next_one is not first
    assert len(traffic.copies) == 2 * n_copies


def test_a_loader_sends_only_to_models_that_take_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that do not fit the device are sent ahead; rows that fit live there."""
    traffic = Traffic(monkeypatch)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 1000))
    source = SpotSource(
        np.array([0, 30]), HeldCsr(batch(np.uint16, np.uint16).counts), np.ones(30, np.float32)
    )
    sampler = BlockSampler(source.offsets, 4, seed=0)
    (plain,) = Loader(source, sampler, device="cuda").first_unit()
    assert isinstance(plain.counts.data, np.ndarray)
    assert not traffic.copies
    loader = Loader(source, sampler, device="cuda", takes_tensors=True)
    assert loader.choice.residency == "host"
    (sent,) = loader.first_unit()
    assert isinstance(sent.counts.data, torch.Tensor)
    assert traffic.copies
    np.testing.assert_array_equal(sent.counts.data.numpy(), plain.counts.data)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**9, 10**9))
    assert Loader(source, sampler, device="cuda", takes_tensors=True).choice.residency == "device"


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("kind", [np.uint16, np.uint32, np.float32])
def test_rows_held_on_the_device(device: str, kind: type) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    given = batch(kind, np.uint16)
    source = SpotSource(
        np.array([0, 30]),
        HeldCsr(given.counts),
        given.totals,
        HeldDense(given.scores),
        (HeldCsr(given.counts),),
    )
    there = on_device(source, device)
    rows = np.array([7, 3, 3, 29, 0])
    for mine, other in (
        (there.read_rows(rows), source.read_rows(rows)),
        (there.read(5, 21), source.read(5, 21)),
    ):
        for name in ("indptr", "indices", "data"):
            tensor = getattr(mine.counts, name)
            assert tensor.device.type == device
            np.testing.assert_array_equal(tensor.cpu().numpy(), getattr(other.counts, name))
        np.testing.assert_array_equal(mine.scores.cpu().numpy(), other.scores)


def test_reading_rows_held_on_a_device_waits_for_nothing() -> None:
    """Tensors of the device ``meta`` have no values: asking for one, as waiting would, is an error."""
    given = batch(np.uint16, np.uint16)
    source = SpotSource(np.array([0, 30]), HeldCsr(given.counts), given.totals, HeldDense(given.scores))
    there = on_device(source, "meta")
    rows = np.array([7, 3, 3, 29, 0])
    for spots in (there.read_rows(rows), there.read(5, 21)):
        expected = source.read_rows(spots.rows).counts
        assert spots.counts.data.shape == expected.data.shape
        assert spots.counts.data.dtype == torch.int32
        assert spots.counts.data.is_meta
    # and as narrow there as it is stored
    assert there.counts._values._numbers.dtype == there.counts._columns._numbers.dtype == torch.int16


def test_rows_for_products_travel_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    given = batch(np.uint16, np.uint16).counts
    traffic = Traffic(monkeypatch)
    rows = sparse_rows(given, torch.device("cuda"))
    assert [kind for kind, *_ in traffic.copies] == [torch.int64, torch.int16, torch.int16]
    np.testing.assert_array_equal(rows.column.numpy(), given.indices)
    np.testing.assert_array_equal(rows.value.numpy(), given.data)
