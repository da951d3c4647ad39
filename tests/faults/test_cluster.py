"""What clusters do to programs: every fit ends with the bits of an undisturbed one, or resumes to them.

Scheduler, workers and the fit are real processes, started as a user starts them.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pytest
import zarr

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
TIMEOUT_S = 240
INSPIRE = ["inspire", "--n-factors", "6", "--steps", "150", "--batch-spots", "128", "--encoder", "lgcn"]
INSPIRE += ["--checkpoint-every", "20", "--device", "cpu", "--worker-timeout", "15"]
STANMF = [
    "stanmf",
    "--ranks",
    "3-6",
    "--replicates",
    "4",
    "--max-iterations",
    "80",
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

    def start_scheduler(self) -> None:
        self._start("scheduler", ["scheduler", "--host", "127.0.0.1", "--port", str(self.port)])

    def start_worker(self, name: str, *options: str, limit: str = "") -> None:
        where = ["--host", "127.0.0.1", "--nthreads", "1", "--memory-limit", "0", "--name", name]
        local = ["--local-directory", str(self.folder / name)]
        self._start(name, ["worker", self.address, *where, *local, *options], limit)

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


def until(done: Callable[[], bool], timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    started = Cluster(tmp_path)
    started.start_scheduler()
    for name in ("one", "two"):
        started.start_worker(name)
    yield started
    started.stop()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BIN / "atlasnmf"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
        timeout=TIMEOUT_S,
    )


def begin(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(BIN / "atlasnmf"), *arguments],
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


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("clean") / "clean.zarr"
    made = run("simulate", "embryo", str(store), "--n-spots", "3000", "--n-slices", "2", "--n-genes", "300")
    assert made.returncode == 0, made.stderr
    return store


@pytest.fixture(scope="module")
def whole(clean: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, np.ndarray]]:
    """Results of undisturbed fits on two workers."""
    found = {}
    for fit in (INSPIRE, STANMF):
        store = tmp_path_factory.mktemp(fit[0]) / "store.zarr"
        shutil.copytree(clean, store)
        fitted = run("fit", fit[0], str(store), *fit[1:], "--workers", "2")
        assert fitted.returncode == 0, fitted.stderr
        found[fit[0]] = results(store, fit[0])
    return found


@pytest.fixture
def store(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean, tmp_path / "store.zarr"))


def fit_on(cluster: Cluster, store: Path, fit: list[str]) -> subprocess.Popen[str]:
    return begin("fit", fit[0], str(store), *fit[1:], "--scheduler", cluster.address)


@pytest.mark.parametrize("worker", ["one", "two"])
def test_kill_a_rank_in_a_step(cluster, store, whole, worker) -> None:  # type: ignore[no-untyped-def]
    fitting = fit_on(cluster, store, INSPIRE)
    until(lambda: steps_done(store) >= 30)
    cluster.rank_of(worker).kill()
    code, said = ended(fitting)
    assert code == 0, said
    assert "was lost; going on from the last checkpoint" in said
    same(store, "inspire", whole["inspire"])


def test_kill_a_worker_in_a_reduction(cluster, store, whole) -> None:  # type: ignore[no-untyped-def]
    fitting = fit_on(cluster, store, STANMF)
    until(lambda: steps_done(store) >= 25)
    cluster.rank_of("one").kill()
    code, said = ended(fitting)
    assert code == 0, said
    same(store, "stanmf", whole["stanmf"])


@pytest.mark.parametrize("fit", [INSPIRE, STANMF], ids=["inspire", "stanmf"])
def test_kill_the_scheduler(cluster, store, whole, fit) -> None:  # type: ignore[no-untyped-def]
    fitting = fit_on(cluster, store, fit)
    until(lambda: steps_done(store) >= 30)
    cluster.processes["scheduler"].kill()
    code, said = ended(fitting)
    assert code == 3, said
    assert f"continue with: atlasnmf resume {store}" in said
    cluster.stop()
    cluster.start_scheduler()
    for name in ("one", "two"):
        cluster.start_worker(name)
    until(lambda: run("info", str(store)).returncode == 0)
    time.sleep(5)
    resumed = run("resume", str(store))
    assert resumed.returncode == 0, resumed.stderr
    same(store, fit[0], whole[fit[0]])


def test_kill_the_client(cluster, store, whole) -> None:  # type: ignore[no-untyped-def]
    fitting = fit_on(cluster, store, INSPIRE)
    until(lambda: steps_done(store) >= 30)
    fitting.kill()
    fitting.communicate(timeout=30)
    resumed = run("resume", str(store))
    assert resumed.returncode == 0, resumed.stderr
    same(store, "inspire", whole["inspire"])


def test_a_worker_hangs(cluster, store, whole) -> None:  # type: ignore[no-untyped-def]
    fitting = begin(*("fit", INSPIRE[0], str(store), *INSPIRE[1:-1], "5", "--scheduler", cluster.address))
    until(lambda: steps_done(store) >= 30)
    cluster.rank_of("two").suspend()
    code, said = ended(fitting)
    assert code == 0, said
    assert "does not answer" in said
    same(store, "inspire", whole["inspire"])


@pytest.mark.parametrize("fit", [INSPIRE, STANMF], ids=["inspire", "stanmf"])
def test_ctrl_c_of_the_group(store, whole, fit) -> None:  # type: ignore[no-untyped-def]
    """A terminal's Ctrl-C reaches workers of this machine too; they leave it to the client."""
    fitting = subprocess.Popen(
        [str(BIN / "atlasnmf"), "fit", fit[0], str(store), *fit[1:], "--workers", "2"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        start_new_session=True,
    )
    until(lambda: steps_done(store) >= 25)
    os.killpg(fitting.pid, signal.SIGINT)
    code, said = ended(fitting)
    assert code == 3, said
    assert "interrupted after step" in said
    resumed = run("resume", str(store))
    assert resumed.returncode == 0, resumed.stderr
    same(store, fit[0], whole[fit[0]])


PRELOADS = {
    "version": ("import atlasnmf\natlasnmf.__version__ = '0.0.9'\n", r"runs atlasnmf 0.0.9 (here "),
    "import": ("import sys\nsys.modules['atlasnmf'] = None\n", "cannot import atlasnmf"),
}


@pytest.mark.parametrize("kind", list(PRELOADS))
def test_a_worker_of_another_make_is_refused(cluster, store, tmp_path, kind) -> None:  # type: ignore[no-untyped-def]
    text, message = PRELOADS[kind]
    preload = tmp_path / "preload.py"
    preload.write_text(text)
    cluster.start_worker("three", "--preload", str(preload))
    until(lambda: n_workers(cluster) == 3)
    fitted = run("fit", INSPIRE[0], str(store), *INSPIRE[1:], "--scheduler", cluster.address)
    assert fitted.returncode == 2, fitted.stderr
    assert fitted.stderr.count("error: ") == 1
    assert "error: worker tcp://127.0.0.1:" in fitted.stderr
    assert message in fitted.stderr
    assert not Path(f"{store}.atlasnmf").exists()


def n_workers(cluster: Cluster) -> int:
    from distributed import Client

    with Client(cluster.address, set_as_default=False) as client:
        return len(client.scheduler_info(n_workers=-1)["workers"])


@pytest.mark.parametrize("fit", [INSPIRE, STANMF], ids=["inspire", "stanmf"])
def test_disk_full_on_one_worker(cluster, store, whole, fit) -> None:  # type: ignore[no-untyped-def]
    """A worker that may write no file above 40 kB: the fit stops with its name, and resumes elsewhere."""
    cluster.stop()
    cluster.processes.clear()
    cluster.start_scheduler()
    for name in ("one", "two"):
        cluster.start_worker(name, limit="ulimit -f 40")
    until(lambda: n_workers(cluster) == 2)
    fitted = run("fit", fit[0], str(store), *fit[1:], "--scheduler", cluster.address)
    assert fitted.returncode == 3, (fitted.returncode, fitted.stderr)
    assert "File too large" in fitted.stderr
    cluster.stop()
    cluster.start_scheduler()
    for name in ("one", "two"):
        cluster.start_worker(name)
    until(lambda: n_workers(cluster) == 2)
    resumed = run("resume", str(store))
    assert resumed.returncode == 0, resumed.stderr
    same(store, fit[0], whole[fit[0]])


def test_record_of_a_fit_on_workers(store) -> None:  # type: ignore[no-untyped-def]
    fitted = run("fit", *INSPIRE[:1], str(store), *INSPIRE[1:], "--workers", "2", "--json")
    assert fitted.returncode == 0, fitted.stderr
    assert json.loads(fitted.stdout)["model"] == "inspire"
    assert "2 workers of this machine, dashboard" in fitted.stderr
