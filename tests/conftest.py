"""What every test may ask for."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

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


@pytest.fixture(scope="session")
def kernels_on_the_host(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """A stand-in for CuPy that runs the CUDA kernels on the host."""
    if shutil.which("g++") is None:
        pytest.skip("no g++ to run the CUDA kernels on the host")
    place = Path(__file__).with_name("kernels") / "host_cuda.py"
    spec = importlib.util.spec_from_file_location("host_cuda_of_all", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.HostCupy(tmp_path_factory.mktemp("cuda"))


@pytest.fixture(params=["on the host", pytest.param("cuda", marks=pytest.mark.gpu)])
def cuda_kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a device whose kernels run: CuPy's, or a stand-in."""
    from atlasnmf.kernels import dispatch
    from atlasnmf.kernels.gpu import _compile

    if request.param == "cuda":
        if not dispatch.gpu_available():
            pytest.skip("no CUDA device")
        yield "cuda"
        return
    monkeypatch.setitem(sys.modules, "cupy", request.getfixturevalue("kernels_on_the_host"))
    monkeypatch.setattr(dispatch, "gpu_available", lambda: True)
    _compile._compiled.cache_clear()
    yield "cuda"
    _compile._compiled.cache_clear()


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
