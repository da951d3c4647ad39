"""Kill -9 at random instants of prepare and fit: resume ends with the bits of an undisturbed run."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zarr

PROGRAM = str(Path(sys.executable).with_name("atlasnmf"))
#: A run takes some ten seconds; one that hangs fails.
TIMEOUT_S = 300
FIT = ["--n-factors", "6", "--steps", "60", "--seed", "3", "--checkpoint-every", "10"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [PROGRAM, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=TIMEOUT_S,
    )


def results(store: Path) -> dict[str, np.ndarray]:
    root = zarr.open_group(str(store), mode="r")
    found = {}
    for name in root["tables"].group_keys():
        table = root[f"tables/{name}"]
        for folder, keys in {
            "obsm": ("X_inspire", "inspire_factors", "inspire_discriminator"),
            "varm": ("inspire_loadings",),
        }.items():
            for key in keys:
                found[f"{name}/{folder}/{key}"] = table[f"{folder}/{key}"][:]
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray], float]:
    folder = tmp_path_factory.mktemp("kill")
    shape = ["--n-spots", "3000", "--n-slices", "2", "--n-genes", "300", "--n-factors", "6"]
    made = run("simulate", "embryo", str(folder / "clean.zarr"), *shape)
    assert made.returncode == 0, made.stderr
    shutil.copytree(folder / "clean.zarr", folder / "whole.zarr")
    start = time.perf_counter()
    fitted = run("fit", "inspire", str(folder / "whole.zarr"), *FIT)
    assert fitted.returncode == 0, fitted.stderr
    return folder, results(folder / "whole.zarr"), time.perf_counter() - start


def kill_and_resume(
    undisturbed: tuple[Path, dict[str, np.ndarray], float], trial: int, n_trials: int
) -> None:
    folder, expected, whole_s = undisturbed
    store = folder / f"trial{trial}.zarr"
    shutil.copytree(folder / "clean.zarr", store)
    # One instant in each n-th of the run, so that every stage is hit; the first half second is only imports.
    delay_s = 0.5 + (whole_s - 0.5) * (trial + random.Random(trial).random()) / n_trials
    process = subprocess.Popen(
        [PROGRAM, "fit", "inspire", str(store), *FIT],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    time.sleep(delay_s)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    resumed = run("resume", str(store))
    if resumed.returncode == 2 and "nothing to resume" in resumed.stderr:
        # Killed before the request was recorded, or after the last write: the plain command must do.
        again = run("fit", "inspire", str(store), *FIT)
        assert again.returncode == 0 or "--overwrite" in again.stderr, again.stderr
    else:
        assert resumed.returncode == 0, resumed.stderr
    found = results(store)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=f"{name} after a kill at {delay_s:.2f} s")
    shutil.rmtree(store)
    shutil.rmtree(f"{store}.atlasnmf", ignore_errors=True)


@pytest.mark.parametrize("trial", range(2))
def test_two_kills(undisturbed: tuple[Path, dict[str, np.ndarray], float], trial: int) -> None:
    kill_and_resume(undisturbed, trial, 2)


@pytest.mark.slow
@pytest.mark.parametrize("trial", range(10))
def test_ten_kills(undisturbed: tuple[Path, dict[str, np.ndarray], float], trial: int) -> None:
    kill_and_resume(undisturbed, trial, 10)
