from __future__ import annotations

import importlib
import importlib.util
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from atlasnmf.kernels import dispatch


def _random_csr(n_rows, n_cols, density, seed, *, dtype=np.uint16, index_dtype=np.uint16):
    rng = np.random.default_rng(seed)
    dense = rng.poisson(3.0, (n_rows, n_cols)) * (rng.random((n_rows, n_cols)) < density)
    if n_rows > 2:
        dense[1] = 0
    csr = scipy.sparse.csr_matrix(dense.astype(dtype))
    return csr.indptr.astype(np.int64), csr.indices.astype(index_dtype), csr.data, dense.astype(np.float64)


@pytest.fixture
def random_csr():
    """Makes small Poisson counts: indptr, indices, data, and the same as a dense float64 array."""
    return _random_csr


def _beside(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def host_cuda():
    """The module that runs CUDA C on the host."""
    return _beside("host_cuda")


@pytest.fixture(scope="session")
def nvrtc():
    """The module that calls CUDA's compiler."""
    module = _beside("nvrtc")
    if module.library() is None:
        pytest.skip("no libnvrtc; install nvidia-cuda-nvrtc-cu12")
    return module


@pytest.fixture(scope="session")
def host_cupy(host_cuda, tmp_path_factory):
    """A stand-in for CuPy that needs g++ and no device."""
    if shutil.which("g++") is None:
        pytest.skip("no g++ to run the CUDA kernels on the host")
    return host_cuda.HostCupy(tmp_path_factory.mktemp("cuda"))


@pytest.fixture(params=["cpu", "gpu on the host", pytest.param("gpu", marks=pytest.mark.gpu)])
def side(request, monkeypatch):
    """The kernels of one side, called with numpy arrays and answering with them."""
    if request.param == "gpu" and not dispatch.gpu_available():
        pytest.skip("no CUDA device")
    if request.param == "gpu on the host":
        from atlasnmf.kernels.gpu import _compile

        monkeypatch.setitem(sys.modules, "cupy", request.getfixturevalue("host_cupy"))
        _compile._compiled.cache_clear()
    yield Side(request.param)
    if request.param == "gpu on the host":
        _compile._compiled.cache_clear()


class Side:
    def __init__(self, name):
        self.name = name

    def __getattr__(self, module):
        if module not in dispatch.TWINS:
            raise AttributeError(module)
        folder = "cpu" if self.name == "cpu" else "gpu"
        return Module(importlib.import_module(f"atlasnmf.kernels.{folder}.{module}"), folder)


class Module:
    """Carries numpy arguments to the device and its answers back."""

    def __init__(self, module, folder):
        self.module, self.folder = module, folder

    def __getattr__(self, name):
        function = getattr(self.module, name)
        if self.folder == "cpu":
            return function

        def call(*args, **kwargs):
            there = [_there(value) for value in args]
            answer = function(*there, **{key: _there(value) for key, value in kwargs.items()})
            if answer is None:  # works in place
                for value, changed in zip(args, there, strict=True):
                    _write_back(value, changed)
            return _back(answer)

        return call


def _there(value):
    import cupy

    if type(value) is tuple:
        return tuple(_there(part) for part in value)
    return cupy.asarray(value) if isinstance(value, np.ndarray) else value


def _write_back(value, changed):
    import cupy

    if isinstance(value, tuple):
        for part, other in zip(value, changed, strict=True):
            _write_back(part, other)
    elif isinstance(value, np.ndarray):
        value[...] = cupy.asnumpy(changed)


def _back(value):
    import cupy

    if isinstance(value, tuple):
        parts = [_back(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return cupy.asnumpy(value) if hasattr(value, "shape") and hasattr(value, "dtype") else value
