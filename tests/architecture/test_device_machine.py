"""Tests of devices are found and run where torch, CuPy and numba are, and none of the packages of stores."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Packages that read, write, schedule or print, by the names they are imported by.
ABSENT = (
    *("anndata", "dask", "distributed", "faiss", "google_crc32c", "graspologic_native", "lazy_loader"),
    *("numcodecs", "ot", "rich", "safetensors", "scanpy", "skmisc", "spatialdata", "squidpy", "typer"),
    *("xarray", "zarr", "zarrs"),
)
RUNNER = """
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in {absent}:
            return self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = map(Without, sys.meta_path)
import pytest

sys.exit(pytest.main(sys.argv[1:]))
"""


def pytest_run(*arguments, absent=ABSENT):
    # plugins that come with packages of stores would import them
    env = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", RUNNER.format(absent=set(absent) or "()"), "-p", "no:cacheprovider"]
    return subprocess.run(
        [*command, *arguments], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )


def found_in(output):
    return {line for line in output.splitlines() if "::" in line and not line.startswith("SKIPPED")}


def files_of(tests):
    return {name.split("::")[0] for name in tests}


def test_they_are_all_found():
    listed = pytest_run("-m", "gpu", "--collect-only", "-q", "-rs")
    assert listed.returncode == 0, listed.stdout + listed.stderr
    assert "SKIPPED" not in listed.stdout, listed.stdout
    found = files_of(found_in(listed.stdout))
    marked = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("test_*.py")
        if re.search(r"mark\.gpu\b|\((?:cuda_kernels|torch_device)\b", path.read_text())
        and path != Path(__file__)
    }
    assert found >= marked != set()
    assert sum(name.startswith("tests/kernels/") for name in found) >= 10


@pytest.mark.slow
def test_what_is_missing_is_named():
    listed = pytest_run(
        "-m", "gpu", "--collect-only", "-q", "-rs", absent=(*ABSENT, "pydantic", "hypothesis")
    )
    assert listed.returncode == 0, listed.stdout + listed.stderr
    assert "hypothesis is not installed" in listed.stdout
    assert "tests/kernels/test_pairs.py" not in files_of(found_in(listed.stdout))
    assert "tests/kernels/test_rows.py" in files_of(found_in(listed.stdout))


@pytest.mark.slow
def test_their_host_side_runs():
    files = ["kernels/test_rows.py", "batches/test_device.py", "models/stanmf/test_device.py"]
    done = pytest_run("-q", *(f"tests/{name}" for name in files))
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 40


@pytest.mark.slow
def test_none_is_overlooked():
    """Looking only where such tests may be finds what looking everywhere finds."""
    some, every = (
        pytest_run("-m", chosen, "--collect-only", "-q", absent=()) for chosen in ("gpu", "gpu and gpu")
    )
    assert found_in(some.stdout) == found_in(every.stdout) != set()


def on_device(*arguments):
    command = [sys.executable, str(ROOT / "benchmarks" / "scale" / "on_device.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_one_command_runs_all_that_wants_a_device(tmp_path):
    """Here on the processor, and with time for one of them alone."""
    import torch

    if not torch.cuda.is_available():
        refused = on_device(tmp_path / "out")
        assert refused.returncode == 1
        assert refused.stderr.splitlines() == [
            "error: no CUDA device is visible; rehearse on the processor with --small"
        ]
    done = on_device(tmp_path / "out", "--small", "--only", "passes,steps", "--minutes", "0.5")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["jobs"]["passes"]["ended"] == "done", done.stdout + done.stderr
    lines = (tmp_path / "out" / "passes.jsonl").read_text().splitlines()
    assert [json.loads(line).get("model") for line in lines] == [None, "stanmf", "siid"]
    assert summary["jobs"]["steps"]["ended"] in ("done", "out of time")
