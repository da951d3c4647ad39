"""The helper of CUDA clusters says what it needs, and leaves torch its part."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pytest

from atlasnmf.errors import BadOption
from atlasnmf.reduce.devices import cuda_processes, pool_bytes


@pytest.mark.parametrize("gib", [16, 24, 80, 141])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.7, 0.9])
def test_pool_and_torch_fit_the_device(gib: int, share: float) -> None:
    total = gib * 2**30
    pool = pool_bytes(total, share)
    assert pool % (256 * 2**20) == 0
    assert pool + share * (total - 2**31) <= total - 2**31
    assert pool > (1 - share) * (total - 2**31) - 256 * 2**20


def test_a_small_device_has_no_pool() -> None:
    assert pool_bytes(2**31) == 0


def test_a_share_of_all_is_refused() -> None:
    with pytest.raises(BadOption, match="torch_share"):
        pool_bytes(2**34, 1.0)


def test_without_a_device_it_is_one_line() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a device")
    with pytest.raises(BadOption, match=r"atlasnmf\[gpu\]|no CUDA device"), cuda_processes():
        pass


def test_the_cluster_gets_its_pool_and_stays_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster of this process stands for one of devices; torch says what two devices have."""
    import torch
    from distributed import LocalCluster

    given: dict[str, Any] = {}

    def cluster(**options: Any) -> LocalCluster:
        given.update(options)
        dashboard = options["dashboard_address"]
        return LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=dashboard)

    stand_in: Any = ModuleType("dask_cuda")
    stand_in.__spec__, stand_in.LocalCUDACluster = ModuleSpec("dask_cuda", None), cluster
    monkeypatch.setitem(sys.modules, "dask_cuda", stand_in)
    memory: Any = ModuleType("rmm")
    memory.__spec__ = ModuleSpec("rmm", None)
    monkeypatch.setitem(sys.modules, "rmm", memory)
    free = [70 * 2**30, 24 * 2**30]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (free[number], 80 * 2**30))
    with cuda_processes(devices="0,1", torch_share=0.5, protocol="ucx") as client:
        assert len(client.scheduler_info(n_workers=-1)["workers"]) == 2
    assert given["rmm_pool_size"] == pool_bytes(24 * 2**30, 0.5) > 0
    assert given["rmm_allocator_external_lib_list"] == ["cupy"]
    assert (given["CUDA_VISIBLE_DEVICES"], given["protocol"]) == ("0,1", "ucx")
    assert (given["host"], given["memory_limit"]) == ("127.0.0.1", 0)
    free[1] = 2**31
    with cuda_processes():
        assert given["rmm_pool_size"] is None  # no pool fits beside the contexts
        assert given["rmm_allocator_external_lib_list"] is None
    monkeypatch.setitem(sys.modules, "rmm", None)
    with pytest.raises(BadOption, match=r"rmm is not installed; install atlasnmf\[gpu\]"), cuda_processes():
        pass


@pytest.mark.gpu
def test_a_worker_for_each_device() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    pytest.importorskip("dask_cuda")
    with cuda_processes() as client:
        assert len(client.scheduler_info(n_workers=-1)["workers"]) == torch.cuda.device_count()
