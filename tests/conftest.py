"""What every test may ask for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def _data_folder() -> Path:
    """Return the folder of the real data sets, whether it exists or not."""
    return Path(os.environ.get("ATLASNMF_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of the real data sets; skip where it is absent (they are never committed)."""
    folder = _data_folder()
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}; set ATLASNMF_DATA to the folder of the .h5ad files")
    return folder


def _has_cuda() -> bool:
    """Say whether a CUDA device can be used from here."""
    try:
        import cupy

        return int(cupy.cuda.runtime.getDeviceCount()) > 0
    except Exception:  # no CuPy, no driver, no device: all mean the same to a test
        return False


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run, and say why."""
    no_data = not _data_folder().is_dir()
    gpu_asked = any(item.get_closest_marker("gpu") for item in items)
    no_gpu = gpu_asked and not _has_cuda()
    for item in items:
        if no_data and item.get_closest_marker("data"):
            item.add_marker(pytest.mark.skip(reason=f"no real data in {_data_folder()} (ATLASNMF_DATA)"))
        if no_gpu and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
