"""The helper of CUDA clusters says what it needs, and leaves torch its part."""

from __future__ import annotations

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


@pytest.mark.gpu
def test_a_worker_for_each_device() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    with cuda_processes() as client:
        assert len(client.scheduler_info(n_workers=-1)["workers"]) == torch.cuda.device_count()
