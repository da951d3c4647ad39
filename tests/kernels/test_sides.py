import importlib
import inspect
import itertools
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import atlasnmf.kernels.cpu
import atlasnmf.kernels.gpu
from atlasnmf.errors import BadOption
from atlasnmf.kernels import dispatch
from atlasnmf.kernels.gpu import _compile

NAMES = ("REAL", "SUM")
GPU_FILES = sorted(path.stem for path in Path(atlasnmf.kernels.gpu.__file__).parent.glob("[a-z]*.py"))


def side_module(folder, name):
    return importlib.import_module(f"atlasnmf.kernels.{folder}.{name}")


CPU_FILES = sorted(path.stem for path in Path(atlasnmf.kernels.cpu.__file__).parent.glob("[a-z]*.py"))


def test_every_twin_is_there():
    assert set(GPU_FILES) == set(dispatch.TWINS)


def test_every_kernel_has_a_twin_or_a_reason():
    assert not set(dispatch.TWINS) & set(dispatch.HOST_ONLY)
    assert set(CPU_FILES) == {*dispatch.TWINS, *dispatch.HOST_ONLY}
    assert all(len(reason.split()) > 5 for reason in dispatch.HOST_ONLY.values())


@pytest.mark.parametrize("name", dispatch.TWINS)
def test_twins_have_the_same_names_and_arguments(name):
    cpu, gpu = side_module("cpu", name), side_module("gpu", name)
    for public in cpu.__all__:
        ours, twin = getattr(cpu, public), getattr(gpu, public, None)
        if inspect.isfunction(ours):
            assert list(inspect.signature(twin).parameters) == list(inspect.signature(ours).parameters), (
                public
            )


def test_every_function_of_a_twin_is_tested_on_both_sides():
    tests = [path.read_text() for path in Path(__file__).parent.glob("test_*.py")]
    for name in dispatch.TWINS:
        module, twin = side_module("cpu", name), side_module("gpu", name)
        here = "".join(text for text in tests if f"side.{name}" in text)
        for public in module.__all__:
            ours = getattr(module, public)
            if inspect.isfunction(ours) and getattr(twin, public) is not ours:
                assert re.search(rf"\.{public}\b", here), f"{name}.{public}"


def sources():
    """Every kernel file under all types that its ``REAL`` and ``SUM`` may stand for."""
    for name in GPU_FILES:
        text = getattr(side_module("gpu", name), "SOURCE", None)
        if text is None:
            continue
        choices = [("float", "double") if re.search(rf"\b{word}\b", text) else ("float",) for word in NAMES]
        for real, accumulator in itertools.product(*choices):
            yield pytest.param(text, _compile.options(real, accumulator), id=f"{name}-{real}-{accumulator}")


@pytest.mark.parametrize("arch", ["75", "90"])
@pytest.mark.parametrize(("text", "options"), list(sources()))
def test_kernels_compile_as_cupy_compiles_them(text, options, arch, nvrtc, host_cuda):
    """To machine code, down to its registers, without a warning."""
    given = (*options, *nvrtc.CUPY_ADDS, f"-arch=sm_{arch}")
    said, ptx = nvrtc.compiled(nvrtc.library(), text, given)
    assert not said
    assert host_cuda.kernel_names(text)
    for name in host_cuda.kernel_names(text):
        assert f".entry {name}(" in ptx


def test_a_mistake_in_a_kernel_is_seen(nvrtc):
    text = 'extern "C" __global__ void k(REAL* out) { int unused; out[0] = wanted; }'
    for source, what in ((text, "undefined"), (text.replace("wanted", "0"), "never referenced")):
        assert what in nvrtc.compiled(nvrtc.library(), source, _compile.options())[0]


def test_everything_imports_without_cupy():
    names = [f"atlasnmf.kernels.gpu.{name}" for name in GPU_FILES]
    code = f"import sys; sys.modules['cupy'] = None\nimport {', '.join(names)}, atlasnmf.kernels.dispatch"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)


def test_sides():
    assert dispatch.side_of("cpu") == dispatch.side_of(np.zeros(2)) == "cpu"
    assert dispatch.side_of("cuda") == dispatch.side_of("cuda:0") == dispatch.side_of("gpu") == "gpu"
    assert dispatch.side_of("auto") in ("cpu", "gpu")
    assert dispatch.kernel("rows").__name__ == "atlasnmf.kernels.cpu.rows"
    with pytest.raises(BadOption, match="no such device 'tpu'"):
        dispatch.side_of("tpu")
    with pytest.raises(BadOption, match="CUDA_VISIBLE_DEVICES=1"):
        dispatch.side_of("cuda:1")
    assert dispatch.to_host(np.arange(3)).tolist() == [0, 1, 2]


def test_a_missing_device_is_said(monkeypatch):
    monkeypatch.setattr(dispatch, "gpu_available", lambda: False)
    assert dispatch.kernel("rows", "auto").__name__ == "atlasnmf.kernels.cpu.rows"
    with pytest.raises(BadOption, match="--device cpu"):
        dispatch.kernel("rows", "cuda")


def broken_compiler(shape):
    raise RuntimeError("Failed to find CUDA headers.\nPlease install them")


@pytest.mark.parametrize(
    ("n_devices", "ones", "why"),
    [
        (0, None, "there is none"),
        (1, broken_compiler, "CuPy says: Failed to find CUDA headers."),
        (1, np.ones, None),
    ],
)
def test_a_device_is_used_when_kernels_run_on_it(monkeypatch, n_devices, ones, why):
    runtime = types.SimpleNamespace(getDeviceCount=lambda: n_devices)
    cupy = types.SimpleNamespace(cuda=types.SimpleNamespace(runtime=runtime), ones=ones)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    dispatch.no_gpu.cache_clear()
    try:
        assert dispatch.no_gpu() == why
        assert dispatch.gpu_available() == (why is None)
        if why is not None:
            with pytest.raises(BadOption, match=re.escape(why)):
                dispatch.kernel("rows", "cuda")
    finally:
        dispatch.no_gpu.cache_clear()
