"""A Dask cluster that is already there, by its address."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from atlasnmf.errors import BadOption

if TYPE_CHECKING:
    from dask.distributed import Client

__all__ = ["connected"]

_TIMEOUT_S = 10


@contextmanager
def connected(address: str | None, client: Client | None = None) -> Iterator[Client | None]:
    """Yield the client given, or one of the scheduler at an address, or None for this process alone.

    Parameters
    ----------
    address
        Such as ``tcp://host:8786``; the workers must see the same files under the same paths.
    client
        A client that is connected already; it wins, and stays open.

    Raises
    ------
    BadOption
        No scheduler answers within ten seconds, or it has no workers.
    """
    if client is not None or address is None:
        yield client
        return
    from distributed import Client

    try:
        opened = Client(address, timeout=_TIMEOUT_S, set_as_default=False)
    except (OSError, ValueError) as error:  # TimeoutError is an OSError
        raise BadOption(
            f"--scheduler {address}: no Dask scheduler answers ({type(error).__name__}); "
            "start one with dask scheduler, or leave the option out"
        ) from None
    with opened:
        if not opened.scheduler_info(n_workers=-1)["workers"]:
            raise BadOption(f"--scheduler {address} has no workers; start one with: dask worker {address}")
        yield opened
