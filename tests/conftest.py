"""What every test may ask for."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

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
    module = _beside("host_cuda_of_all", "kernels/host_cuda.py")
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
    monkeypatch.setattr(dispatch, "no_gpu", lambda: None)
    _compile._compiled.cache_clear()
    yield "cuda"
    _compile._compiled.cache_clear()


def _beside(name: str, place: str) -> ModuleType:
    """Load a file of the tests."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pretend_cuda(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A function after which torch has a device that is not there; it returns the class of its tensors."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a device")
    return partial(_beside("pretend_cuda", "pretend_cuda.py").put, monkeypatch)


@pytest.fixture(params=["pretended", pytest.param("cuda", marks=pytest.mark.gpu)])
def torch_device(request: pytest.FixtureRequest) -> str:
    """The name of torch's device, or of one that is not there."""
    import torch

    if request.param == "pretended":
        request.getfixturevalue("pretend_cuda")()
    elif not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return "cuda"


def _has_cuda() -> bool:
    """Say whether torch or CuPy can use a CUDA device from here; tests look for the one they need."""
    import torch

    from atlasnmf.kernels import dispatch

    return torch.cuda.is_available() or dispatch.gpu_available()


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
