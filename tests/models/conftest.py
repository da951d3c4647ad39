"""A device that is there for models: CuPy's, or a stand-in that runs the CUDA kernels on the host."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from atlasnmf.kernels import dispatch


@pytest.fixture(scope="session")
def kernels_on_the_host(tmp_path_factory):
    if shutil.which("g++") is None:
        pytest.skip("no g++ to run the CUDA kernels on the host")
    place = Path(__file__).parents[1] / "kernels" / "host_cuda.py"
    spec = importlib.util.spec_from_file_location("host_cuda_of_models", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.HostCupy(tmp_path_factory.mktemp("cuda"))


@pytest.fixture(params=["on the host", pytest.param("cuda", marks=pytest.mark.gpu)])
def cuda_kernels(request, monkeypatch) -> Iterator[str]:
    """The name of a device whose kernels run."""
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
