"""Starting is quick, and heavy packages wait until they are needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

#: What the project promises, in seconds, on an idle machine.
IMPORT_S, HELP_S = 1.5, 1.0
#: A loaded machine is not a slower program; three tries and this much slack.
SLACK = 2.0
HEAVY = {
    "torch",
    "spatialdata",
    "anndata",
    "dask",
    "distributed",
    "matplotlib",
    "sklearn",
    "pandas",
    "scanpy",
}


def best_of_three(*arguments: str) -> float:
    """Run an interpreter three times and return the quickest wall time, start of the process included."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True, timeout=60)
        times.append(time.perf_counter() - start)
    return min(times)


def test_import_is_quick() -> None:
    """``import atlasnmf`` keeps its promise."""
    assert best_of_three("-c", "import atlasnmf") < SLACK * IMPORT_S


def test_help_is_quick() -> None:
    """``atlasnmf --help`` keeps its promise."""
    assert best_of_three("-m", "atlasnmf.cli", "--help") < SLACK * HELP_S


@pytest.mark.parametrize("module", ["atlasnmf", "atlasnmf.cli"])
def test_heavy_packages_wait(module: str) -> None:
    """Importing the package or its command line loads none of the heavy packages."""
    code = f"import json, sys, {module}; sys.stdout.write(json.dumps(sorted(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=dict(os.environ)
    )
    loaded = HEAVY & set(json.loads(run.stdout))
    assert not loaded, f"import {module} loads {sorted(loaded)}"
