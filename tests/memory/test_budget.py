"""A fit stays within its budget, and a budget that cannot hold a step is refused with one that can."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from atlasnmf.budget import Budget, peak_bytes
from atlasnmf.errors import BadOption
from atlasnmf.models import params_with_preset
from atlasnmf.options import PrepareOptions, RunOptions
from atlasnmf.pipeline import FitRequest
from atlasnmf.pipeline.sizes import Sizes
from atlasnmf.simulate import simulate_embryo
from atlasnmf.store.atlas import open_atlas


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("memory") / "store.zarr"
    simulate_embryo(str(path), n_spots=600, n_slices=3, n_genes=60, n_factors=4)
    return path


def sizes_of(store: Path, **params: object) -> Sizes:
    settled = params_with_preset("inspire", "default", {"n_factors": 4, **params})
    request = FitRequest("inspire", str(store), settled, PrepareOptions(), run=RunOptions())
    return Sizes.of(open_atlas(store), request)


@pytest.mark.parametrize("encoder", ["lgcn", "gat"])
@pytest.mark.parametrize("features", ["scores", "genes"])
def test_the_mend_works(store: Path, encoder: str, features: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atlasnmf.batches.residency._READ_SCRATCH_BYTES", 0)  # more than these steps
    sizes = sizes_of(store, encoder=encoder, features=features)
    needed = sizes.needed_bytes(sizes.batch_spots)
    assert sizes.needed_bytes(64) < needed
    budget = Budget(600 * 10**6 + (needed + sizes.needed_bytes(64)) // 2)
    with pytest.raises(BadOption) as refusal:
        sizes.require(budget)
    batch = re.search(r"--batch-spots (\d+)", str(refusal.value))
    memory = re.search(r"--memory-budget (\S+)", str(refusal.value))
    assert batch is not None
    assert memory is not None
    sizes_of(store, encoder=encoder, features=features, batch_spots=int(batch[1])).require(budget)
    sizes.require(Budget.of(memory[1]))


@pytest.mark.parametrize("n_bytes", [1, 43_800_001, 399_999_999, 437_000_000, 1_450_000_001])
def test_the_budget_named_is_one_that_works(n_bytes: int) -> None:
    with pytest.raises(BadOption) as refusal:
        Budget.of("600MB").require(n_bytes, "a step", "try less")
    Budget.of(str(refusal.value).split("--memory-budget ")[1]).require(n_bytes, "a step", "try less")


def test_a_child_of_a_large_process_reports_its_own_peak() -> None:
    ballast = np.ones(60_000_000)
    run = subprocess.run(
        [sys.executable, "-c", "from atlasnmf.budget import peak_bytes; print(peak_bytes())"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert int(run.stdout) < ballast.nbytes // 2
    assert peak_bytes() > ballast.nbytes


def test_a_small_fit_stays_below_a_gigabyte(store: Path) -> None:
    options = ["--n-factors", "4", "--steps", "4", "--memory-budget", "1GB", "--workers", "1", "--json"]
    run = subprocess.run(
        [sys.executable, "-m", "atlasnmf.cli", "fit", "inspire", str(store), *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["peak_bytes"] < 1e9
