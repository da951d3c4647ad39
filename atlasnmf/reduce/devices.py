"""A Dask cluster of one machine's CUDA devices, one worker each, with memory left for torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from atlasnmf.budget import format_bytes
from atlasnmf.errors import BadOption
from atlasnmf.events import SILENT, Events

if TYPE_CHECKING:
    from dask.distributed import Client

__all__ = ["cuda_processes", "pool_bytes"]

#: What a context, the libraries' workspaces and fragments take of a device before the first array.
_CONTEXT_BYTES = 1 << 30
#: Pools are sized in whole pages of this size.
_PAGE = 256 * 2**20
_LOOPBACK = "127.0.0.1"


def pool_bytes(device_bytes: int, torch_share: float = 0.7) -> int:
    """Return the size of RMM's pool on a device: what CuPy's kernels may take without touching torch's part.

    Parameters
    ----------
    device_bytes
        Memory of the device.
    torch_share
        Share of what is left beside the contexts that torch gets: rows, networks and activations of training
        live there. Passes of the factorisations do without torch, and may take nearly all (0.1).

    Returns
    -------
    int
        A multiple of 256 MiB, as RMM wants it; 0 when no pool fits.

    Raises
    ------
    BadOption
        The share is not between 0 and 1.

    Examples
    --------
    >>> pool_bytes(80 * 2**30) / 2**30
    23.25
    >>> pool_bytes(141 * 10**9, torch_share=0.1) / 2**30
    116.25
    """
    if not 0 <= torch_share < 1:
        raise BadOption(f"torch_share must be at least 0 and below 1, got {torch_share}")
    left = max(device_bytes - 2 * _CONTEXT_BYTES, 0)
    return int(left * (1 - torch_share)) // _PAGE * _PAGE


@contextmanager
def cuda_processes(
    *, devices: str | None = None, torch_share: float = 0.7, events: Events = SILENT, **options: Any
) -> Iterator[Client]:
    """Start a worker for each CUDA device of this machine; close them at the end.

    Parameters
    ----------
    devices
        Which, such as ``"0,1"``; all that are visible when not given.
    torch_share
        As in :func:`pool_bytes`.
    events
        Told where the dashboard is.
    **options
        Further options of ``dask_cuda.LocalCUDACluster``, for example ``protocol="ucx"``.

    Raises
    ------
    BadOption
        dask-cuda or RMM is not installed, or no CUDA device is visible.
    """
    for package in ("dask_cuda", "rmm"):
        if find_spec(package) is None:
            name = package.replace("_", "-")
            raise BadOption(f"{name} is not installed; install atlasnmf[gpu] on a machine with a CUDA device")
    import torch

    if not torch.cuda.is_available():
        raise BadOption("no CUDA device is visible; run where there is one, or use --workers for processes")
    from dask_cuda import LocalCUDACluster
    from distributed import Client

    # one size for all: that of the device with least room
    free = min(torch.cuda.mem_get_info(number)[0] for number in range(torch.cuda.device_count()))
    pool = pool_bytes(free, torch_share)
    given: dict[str, Any] = {
        "CUDA_VISIBLE_DEVICES": devices,
        "host": _LOOPBACK,
        "dashboard_address": f"{_LOOPBACK}:0",
        "memory_limit": 0,
        "rmm_pool_size": pool or None,
        # without it CuPy keeps a pool of its own beside this one
        "rmm_allocator_external_lib_list": ["cupy"] if pool else None,
    } | options
    with LocalCUDACluster(**given) as cluster, Client(cluster, set_as_default=False) as client:
        n_workers = len(client.scheduler_info(n_workers=-1)["workers"])
        events.note(
            f"{n_workers} CUDA workers, pools of {format_bytes(pool)}, dashboard {client.dashboard_link}"
        )
        yield client
