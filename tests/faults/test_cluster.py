"""What clusters do to programs: every fit ends with the bits of an undisturbed one, or resumes to them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from clusters import (
    BIN,
    ENVIRONMENT,
    INSPIRE,
    SPATIALFUSER,
    STANMF,
    Cluster,
    begin,
    ended,
    results,
    run,
    same,
    steps_done,
    until,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    started = Cluster(tmp_path)
    started.start_scheduler()
    for name in ("one", "two"):
        started.start_worker(name)
    started.wait_for_workers(2)
    yield started
    started.stop()


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("clean") / "clean.zarr"
    made = run("simulate", "embryo", str(store), "--n-spots", "3000", "--n-slices", "2", "--n-genes", "300")
    assert made.returncode == 0, made.stderr
    return store


class Whole(dict[str, dict[str, np.ndarray]]):
    """Results of undisturbed fits on two workers, made when first asked for."""

    def __init__(self, clean: Path, factory: pytest.TempPathFactory) -> None:
        self.clean, self.factory = clean, factory

    def __missing__(self, model: str) -> dict[str, np.ndarray]:
        store = self.factory.mktemp(model) / "store.zarr"
        shutil.copytree(self.clean, store)
        fit = {"inspire": INSPIRE, "spatialfuser": SPATIALFUSER, "stanmf": STANMF}[model]
        fitted = run("fit", model, str(store), *fit[1:], "--workers", "2")
        assert fitted.returncode == 0, fitted.stderr
        self[model] = results(store, model)
        return self[model]


@pytest.fixture(scope="module")
def whole(clean: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return Whole(clean, tmp_path_factory)


@pytest.fixture
def store(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean, tmp_path / "store.zarr"))


def fit_on(cluster: Cluster, store: Path, fit: list[str]) -> subprocess.Popen[str]:
    threads = ["--workers", "1"] if fit is STANMF else []
    return begin("fit", fit[0], str(store), *fit[1:], *threads, "--scheduler", cluster.address)


@pytest.mark.parametrize("worker", ["one", "two"])
@pytest.mark.parametrize(
    ("fit", "after"), [(INSPIRE, 30), (SPATIALFUSER, 70)], ids=["inspire", "spatialfuser"]
)
def test_kill_a_rank_in_a_step(cluster, store, whole, fit, after, worker) -> None:  # type: ignore[no-untyped-def]
    fitting = fit_on(cluster, store, fit)
    until(lambda: steps_done(store) >= after)
    cluster.rank_of(worker).kill()
    code, said = ended(fitting)
    assert code == 0, said
    assert "was lost; going on from the last checkpoint" in said
    same(store, fit[0], whole[fit[0]])


def test_kill_a_worker_in_a_reduction(cluster, store, whole) -> None:  # type: ignore[no-untyped-def]
    fitting = fit_on(cluster, store, STANMF)
    until(lambda: steps_done(store) >= 25)
    cluster.rank_of("one").kill()
    code, said = ended(fitting)
    assert code == 0, said
    same(store, "stanmf", whole["stanmf"])


@pytest.mark.parametrize("fit", [INSPIRE, SPATIALFUSER, STANMF], ids=["inspire", "spatialfuser", "stanmf"])
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
    cluster.wait_for_workers(2)
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
    cluster.wait_for_workers(3)
    fitted = run("fit", INSPIRE[0], str(store), *INSPIRE[1:], "--scheduler", cluster.address)
    assert fitted.returncode == 2, fitted.stderr
    assert fitted.stderr.count("error: ") == 1
    assert "error: worker tcp://127.0.0.1:" in fitted.stderr
    assert message in fitted.stderr
    assert not Path(f"{store}.atlasnmf").exists()


def test_disk_full_on_one_worker(cluster, store, whole) -> None:  # type: ignore[no-untyped-def]
    """A worker that may write no file above 40 kB: the fit stops with its name, and resumes elsewhere.

    Of the models, those that train on workers have them write: features, and rank 0 the checkpoint. Workers
    of passes write nothing.
    """
    cluster.stop()
    cluster.processes.clear()
    cluster.start_scheduler()
    for name in ("one", "two"):
        cluster.start_worker(name, limit="ulimit -f 40")
    cluster.wait_for_workers(2)
    fitted = run("fit", INSPIRE[0], str(store), *INSPIRE[1:], "--scheduler", cluster.address)
    assert fitted.returncode == 3, (fitted.returncode, fitted.stderr)
    assert "File too large" in fitted.stderr
    cluster.stop()
    cluster.start_scheduler()
    for name in ("one", "two"):
        cluster.start_worker(name)
    cluster.wait_for_workers(2)
    resumed = run("resume", str(store))
    assert resumed.returncode == 0, resumed.stderr
    same(store, "inspire", whole["inspire"])


def test_record_of_a_fit_on_workers(store) -> None:  # type: ignore[no-untyped-def]
    fitted = run("fit", *INSPIRE[:1], str(store), *INSPIRE[1:], "--workers", "2", "--json")
    assert fitted.returncode == 0, fitted.stderr
    assert json.loads(fitted.stdout)["model"] == "inspire"
    assert "2 workers of this machine, dashboard" in fitted.stderr
