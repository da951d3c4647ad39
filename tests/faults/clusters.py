"""Scheduler, workers and fits as real processes, started as a user starts them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import zarr
from distributed import Client

BIN = Path(sys.executable).parent
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
#: A fit takes some twenty seconds; on a busy machine ten times as long.
TIMEOUT_S = 400
INSPIRE = ["inspire", "--n-factors", "6", "--steps", "150", "--batch-spots", "128", "--encoder", "lgcn"]
INSPIRE += ["--checkpoint-every", "20", "--device", "cpu", "--worker-timeout", "15"]
#: Half of a tile on either worker; matched anew at steps 40, 60, ...
SPATIALFUSER = ["spatialfuser", "--components", "8", "--pretrain-steps", "40", "--fuse-steps", "80"]
SPATIALFUSER += ["--match-every", "20", "--batch-spots", "128"]
SPATIALFUSER += ["--checkpoint-every", "20", "--device", "cpu", "--worker-timeout", "15"]
#: Nothing is kept here, and there is one thread here: all passes go to the workers.
STANMF = [
    "stanmf",
    "--ranks",
    "3-6",
    "--replicates",
    "4",
    "--max-iterations",
    "80",
    "--keep-values",
    "reread",
    "--checkpoint-every",
    "20",
]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass
class Cluster:
    """``dask scheduler`` and ``dask worker`` as a user starts them."""

    folder: Path
    port: int = field(default_factory=free_port)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def start_scheduler(self, *options: str) -> None:
        self._start("scheduler", ["scheduler", "--host", "127.0.0.1", "--port", str(self.port), *options])

    def start_worker(self, name: str, *options: str, limit: str = "") -> None:
        where = ["--host", "127.0.0.1", "--nthreads", "1", "--memory-limit", "0", "--name", name]
        local = ["--local-directory", str(self.folder / name)]
        self._start(name, ["worker", self.address, *where, *local, *options], limit)

    def wait_for_workers(self, n_workers: int) -> None:
        """Wait until as many have joined: a fit that begins earlier begins with fewer."""
        with Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(n_workers, timeout=120)

    def _start(self, name: str, arguments: list[str], limit: str = "") -> None:
        command = [str(BIN / "dask"), arguments[0], "--no-dashboard", *arguments[1:]]
        if limit:
            command = ["bash", "-c", f"{limit}; exec " + " ".join(command)]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command, stdout=log, stderr=log, env=ENVIRONMENT, cwd=self.folder
            )

    def rank_of(self, name: str) -> psutil.Process:
        """Return the process under the nanny of a worker: the one that computes."""
        found: list[psutil.Process] = []
        until(lambda: bool(found.extend(_computing(self.processes[name].pid))) or bool(found))
        return found[0]

    def stop(self) -> None:
        for process in self.processes.values():
            for child in (
                psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            ):
                child.kill()
            process.kill()
            process.wait(30)


def _computing(nanny: int) -> list[psutil.Process]:
    children = psutil.Process(nanny).children(recursive=True)
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def until(done: Callable[[], bool], timeout_s: float = 240) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BIN / "atlasnmf"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
        timeout=TIMEOUT_S,
    )


def begin(*arguments: str, inside: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*inside, str(BIN / "atlasnmf"), *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = process.communicate(timeout=TIMEOUT_S)
    return process.returncode, said


def results(store: Path, model: str) -> dict[str, np.ndarray]:
    found = {}
    root = zarr.open_group(str(store), mode="r")
    for name in root["tables"].group_keys():
        for folder in ("obsm", "varm"):
            group = root[f"tables/{name}/{folder}"]
            for key in group.array_keys():
                if model in key:
                    found[f"{name}/{key}"] = group[key][:]
    assert found
    return found


def steps_done(store: Path) -> int:
    files = list(Path(f"{store}.atlasnmf").glob("fits/*/metrics.jsonl"))
    return len(files[0].read_text().splitlines()) if files else 0


def same(store: Path, model: str, expected: dict[str, np.ndarray]) -> None:
    found = results(store, model)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
