"""The batch scripts, run from end to end with Slurm's programs played by others."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr
from stand_ins import BIN, Job, until

pytestmark = pytest.mark.slow

OPTIONS = "--n-factors 6 --steps 150 --batch-spots 128 --encoder lgcn --checkpoint-every 20"


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("clean") / "store.zarr"
    shape = ["--n-spots", "1500", "--n-slices", "2", "--n-genes", "200"]
    subprocess.run([BIN / "atlasnmf", "simulate", "embryo", store, *shape], check=True, capture_output=True)
    return store


@pytest.fixture
def job_of(clean: Path, tmp_path: Path) -> Iterator[Callable[[str], Job]]:
    jobs = []

    def make(script: str) -> Job:
        store = shutil.copytree(clean, tmp_path / "store.zarr")
        jobs.append(Job(tmp_path, script, environment={"STORE": str(store), "OPTIONS": OPTIONS}))
        return jobs[-1]

    yield make
    for job in jobs:
        job.clear()


def results(store: Path) -> dict[str, np.ndarray]:
    root = zarr.open_group(str(store), mode="r")
    names = ("obsm/X_inspire", "obsm/inspire_factors", "varm/inspire_loadings")
    return {
        f"{table}/{name}": root[f"tables/{table}/{name}"][:] for table in root["tables"] for name in names
    }


def steps_done(store: Path) -> int:
    files = list(Path(f"{store}.atlasnmf").glob("fits/*/metrics.jsonl"))
    return len(files[0].read_text().splitlines()) if files else 0


def torn_down(job: Job) -> bool:
    until(lambda: not job.processes(), 100)
    return not job.scheduler_file.exists()


def test_a_fit_on_cpus_that_time_cuts_short(
    job_of: Callable[[str], Job], clean: Path, tmp_path: Path
) -> None:
    job = job_of("fit_cpu.sbatch")
    store = Path(job.environment["STORE"])
    # a run that was killed left the address of a scheduler that is no more
    job.scheduler_file.write_text('{"address": "tcp://127.0.0.1:9"}')
    running = job.start()
    until(lambda: steps_done(store) >= 30 or running.poll() is not None)
    running.terminate()
    assert running.wait(120) == 3, job.log
    assert "continue with: atlasnmf resume" in job.log
    assert job.asked_of_slurm == ["requeue 4711"]
    assert torn_down(job)

    done = steps_done(store)
    assert job.run(SLURM_RESTART_COUNT="1") == 0, job.log
    assert job.asked_of_slurm == ["requeue 4711"]
    assert torn_down(job)
    assert 30 <= done < steps_done(store) == 150

    whole = Path(shutil.copytree(clean, tmp_path / "whole.zarr"))
    fit = ["fit", "inspire", str(whole), *OPTIONS.split(), "--workers", "2"]
    subprocess.run([BIN / "atlasnmf", *fit], check=True, capture_output=True)
    expected = results(whole)
    for name, value in results(store).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_time_that_is_over_before_the_fit_begins(job_of: Callable[[str], Job]) -> None:
    """Workers are still waited for: nothing is lost, and the job is to come again; but not for ever."""
    job = job_of("fit_cpu.sbatch")
    for restarts in ("0", "20"):
        running = job.start(SLURM_RESTART_COUNT=restarts)
        until(job.scheduler_file.exists)
        running.terminate()
        assert running.wait(120) == 3, job.log
        assert job.asked_of_slurm == ["requeue 4711"]
        assert torn_down(job)


def test_time_that_is_over_in_preparation(job_of: Callable[[str], Job]) -> None:
    job = job_of("fit_cpu.sbatch")
    copy = Path(f"{job.environment['STORE']}.atlasnmf")
    running = job.start()
    until(lambda: copy.exists() or running.poll() is not None)
    running.terminate()
    assert running.wait(120) == 3, job.log
    assert job.asked_of_slurm == ["requeue 4711"]
    assert torn_down(job)


def test_what_is_refused_does_not_come_again(job_of: Callable[[str], Job]) -> None:
    """The script for devices, on workers that have none: its refusal is the job's end."""
    job = job_of("fit_cuda.sbatch")
    assert job.run() == 2, job.log
    assert "sees no CUDA device; use --device auto or cpu" in job.log
    assert job.asked_of_slurm == []
    assert torn_down(job)


def test_a_scheduler_that_does_not_start_ends_the_job(job_of: Callable[[str], Job]) -> None:
    job = job_of("fit_cpu.sbatch")
    (job.folder / "bin" / "hostname").write_text("#!/bin/bash\necho 203.0.113.1\n")
    assert job.run() == 1
    assert "error: the scheduler ended" in job.log
    assert torn_down(job)
