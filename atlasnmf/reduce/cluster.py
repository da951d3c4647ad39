"""Dask clusters: one that is already there, by its address, or one of this machine's processes."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from atlasnmf.errors import BadOption
from atlasnmf.events import SILENT, Events
from atlasnmf.reduce.workers import addresses, greet

if TYPE_CHECKING:
    from dask.distributed import Client

__all__ = ["connected", "processes"]

_TIMEOUT_S = 10
_LOOPBACK = "127.0.0.1"
#: Dask has workers give memory back at every chance, which costs a training step, whose tensors come and go,
#: a fault on every page of each; these are the thresholds that the C library arrives at by itself.
_MALLOC = {"MALLOC_TRIM_THRESHOLD_": 64 << 20, "MALLOC_MMAP_THRESHOLD_": 32 << 20}
#: Idle workers wake a hundred times a second to be profiled and fifty times to see whether they hang: with
#: the scheduler 6 % of a core for two of them, and 1 % so (measured).
_QUIET = {"distributed.worker.profile.enabled": False, "distributed.admin.tick.interval": "500ms"}


@contextmanager
def connected(
    address: str | None,
    client: Client | None = None,
    *,
    workers: int | None = None,
    events: Events = SILENT,
) -> Iterator[Client | None]:
    """Yield the client given, or one of the scheduler at an address, or of own processes, or None.

    Parameters
    ----------
    address
        Such as ``tcp://host:8786``, or ``tls://`` with certificates in Dask's configuration, or the JSON file
        that ``dask scheduler --scheduler-file`` wrote; the workers must see the same files under the same
        paths.
    client
        A client that is connected already; it wins, and stays open.
    workers
        Without either: this many processes of this machine, from two on.
    events
        Told where the dashboard is.

    Raises
    ------
    BadOption
        No scheduler answers within ten seconds, no worker joins it within another ten, or one of them lacks
        atlasnmf or has it in another version.
    """
    if client is not None or (address is None and (workers or 1) < 2):
        yield client
        return
    if address is None:
        with processes(workers or 2, events=events) as own:
            yield own
        return
    from distributed import Client

    if address.startswith("tls:"):
        _require_certificates(address)
    try:
        where = {"scheduler_file": address} if address.endswith(".json") else {"address": address}
        opened = Client(**where, timeout=_TIMEOUT_S, set_as_default=False)
    except (OSError, ValueError) as error:  # TimeoutError is an OSError
        raise BadOption(
            f"--scheduler {address}: no Dask scheduler answers ({type(error).__name__}); "
            "start one with dask scheduler, or leave the option out"
        ) from None
    with opened:
        if not _some_workers(opened):
            raise BadOption(f"--scheduler {address} has no workers; start one with: dask worker {address}")
        try:
            greet(opened)
        except OSError as problem:
            raise BadOption(f"--scheduler {address}: a worker went away ({problem}); try again") from None
        events.note(f"{len(addresses(opened))} workers of {address}, dashboard {opened.dashboard_link}")
        yield opened


def _require_certificates(address: str) -> None:
    """Refuse before Dask tries, and leaves a half-open client behind."""
    from distributed.security import Security

    try:
        found = Security().get_connection_args("client").get("ssl_context")
    except OSError as problem:  # no such file, or not a certificate
        raise BadOption(
            f"--scheduler {address}: Dask's TLS certificates cannot be read ({problem})"
        ) from None
    if found is None:
        raise BadOption(
            f"--scheduler {address}: Dask's configuration names no TLS certificates; set "
            "distributed.comm.tls as deploy/tls/dask.yaml does, in a folder that DASK_CONFIG names"
        )


def _some_workers(client: Client) -> bool:
    """Wait for a first worker: those of a job that has just begun are still importing."""
    from distributed import TimeoutError as NoneCame

    try:
        client.wait_for_workers(1, timeout=_TIMEOUT_S)
    except NoneCame:
        return False
    return True


@contextmanager
def processes(n_workers: int, *, events: Events = SILENT) -> Iterator[Client]:
    """Start a Dask cluster of processes of this machine, one thread each; close it at the end.

    Parameters
    ----------
    n_workers
        Processes beside this one.
    events
        Told where the dashboard is.

    Notes
    -----
    Scheduler, workers and dashboard listen on the loopback address alone. A worker that dies is started anew
    by its nanny. Dask's own memory limits are off: what a worker may hold is in the options of the job.
    About three seconds, and 150 MB per worker before it works.
    """
    import dask
    from distributed import Client, LocalCluster

    settings = {f"distributed.nanny.pre-spawn-environ.{name}": value for name, value in _MALLOC.items()}
    with (
        dask.config.set(settings | _QUIET),
        _closed_in_the_end(
            LocalCluster(
                n_workers=n_workers,
                threads_per_worker=1,
                host=_LOOPBACK,
                dashboard_address=f"{_LOOPBACK}:0",
                worker_dashboard_address=f"{_LOOPBACK}:0",
                memory_limit=0,
                silence_logs=logging.ERROR,
            )
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.register_plugin(_deaf_to_ctrl_c())
        where = client.dashboard_link if find_spec("bokeh") else "needs bokeh: pip install bokeh"
        events.note(f"{n_workers} workers of this machine, dashboard {where}")
        yield client


@contextmanager
def _closed_in_the_end(cluster: Any) -> Iterator[Any]:
    """Close a cluster whose work is done; that its processes are slow to end is no failure of the work.

    Dask terminates workers, then kills them, and gives up waiting after seconds: on a busy machine too soon.
    """
    try:
        yield cluster
    finally:
        with suppress(TimeoutError):
            cluster.close()


def _deaf_to_ctrl_c() -> Any:
    """Return what keeps a terminal's Ctrl-C from workers: the client hears it, and stops them in order."""
    from distributed import WorkerPlugin

    class Deaf(WorkerPlugin):
        name = "atlasnmf-deaf-to-ctrl-c"

        def setup(self, worker: Any) -> None:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, signal.SIG_IGN)

    return Deaf()
