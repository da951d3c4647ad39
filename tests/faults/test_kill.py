"""Kill -9 at random instants of prepare and fit: resume ends with the bits of an undisturbed run."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import zarr

from atlasnmf import models

PROGRAM = str(Path(sys.executable).with_name("atlasnmf"))
#: A run takes some ten seconds; one that hangs fails.
TIMEOUT_S = 300
#: Kills of a model; ``ATLASNMF_KILLS=10`` for a longer trial.
N_KILLS = int(os.environ.get("ATLASNMF_KILLS", "4"))
FITS = {
    "inspire": ["--n-factors", "6", "--steps", "60", "--seed", "3", "--checkpoint-every", "10"],
    "stanmf": ["--ranks", "3-6", "--replicates", "3", "--max-iterations", "60", "--checkpoint-every", "40"],
    "siid": ["--fine", "xenium", "--coarse", "visium", "--n-factors", "4", "--tol", "0", "--passes", "60"],
    "spatialfuser": [
        "--pretrain-steps",
        "40",
        "--fuse-steps",
        "40",
        "--batch-spots",
        "512",
        "--checkpoint-every",
        "10",
    ],
}
_EMBRYO = ["embryo", "--n-spots", "3000", "--n-slices", "2", "--n-genes", "300", "--n-factors", "6"]
SIMULATED = {
    "inspire": _EMBRYO,
    "stanmf": _EMBRYO,
    "siid": ["pair", "--n-cells", "4000"],
    "spatialfuser": ["omics", "--n-spots", "2000"],
}


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


def results(store: Path, model: str) -> dict[str, np.ndarray]:
    root = zarr.open_group(str(store), mode="r")
    found = {}
    for name in root["tables"].group_keys():
        for folder in ("obsm", "varm"):
            for key in models.results(model).get(folder, ()):
                place = f"tables/{name}/{folder}/{key}"
                if place in root:  # a pair's tables have results of their own
                    found[place] = root[place][:]
    return found


@dataclass(frozen=True)
class Undisturbed:
    """A store as it was, a model, and what an undisturbed fit gave."""

    clean: Path
    model: str
    results: dict[str, np.ndarray]
    seconds: float

    @property
    def fit(self) -> list[str]:
        return FITS[self.model]


@pytest.fixture(scope="module", params=list(FITS))
def undisturbed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder, model = tmp_path_factory.mktemp("kill"), request.param
    kind, *shape = SIMULATED[model]
    made = run("simulate", kind, str(folder / "clean.zarr"), *shape)
    assert made.returncode == 0, made.stderr
    shutil.copytree(folder / "clean.zarr", folder / "whole.zarr")
    start = time.perf_counter()
    fitted = run("fit", model, str(folder / "whole.zarr"), *FITS[model])
    assert fitted.returncode == 0, fitted.stderr
    seconds = time.perf_counter() - start
    return Undisturbed(folder / "clean.zarr", model, results(folder / "whole.zarr", model), seconds)


def kill_and_resume(undisturbed: Undisturbed, trial: int, n_trials: int) -> None:
    store, fit = undisturbed.clean.with_name(f"trial{trial}.zarr"), ["fit", undisturbed.model]
    shutil.copytree(undisturbed.clean, store)
    # One instant in each n-th of the run, so that every stage is hit; the first half second is only imports.
    delay_s = 0.5 + (undisturbed.seconds - 0.5) * (trial + random.Random(trial).random()) / n_trials
    process = subprocess.Popen(
        [PROGRAM, *fit, str(store), *undisturbed.fit],
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
        again = run(*fit, str(store), *undisturbed.fit)
        assert again.returncode == 0 or "--overwrite" in again.stderr, again.stderr
    else:
        assert resumed.returncode == 0, resumed.stderr
    found = results(store, undisturbed.model)
    assert found.keys() == undisturbed.results.keys()
    for name, value in undisturbed.results.items():
        np.testing.assert_array_equal(found[name], value, err_msg=f"{name} after a kill at {delay_s:.2f} s")
    shutil.rmtree(store)
    shutil.rmtree(f"{store}.atlasnmf", ignore_errors=True)


@pytest.mark.parametrize("trial", range(N_KILLS))
def test_kills(undisturbed: Undisturbed, trial: int) -> None:
    kill_and_resume(undisturbed, trial, N_KILLS)
