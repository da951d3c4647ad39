"""Which side a kernel runs on: the CPU's numba modules or their CuPy twins, loaded when first asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from atlasnmf.errors import BadOption

__all__ = [
    "HOST_ONLY",
    "TWINS",
    "carrier",
    "free_bytes",
    "gpu_available",
    "kernel",
    "namespace",
    "no_gpu",
    "release",
    "side_of",
    "to_host",
]

#: Kernel files that exist on both sides under the same names.
TWINS = (
    "neighbours",
    "rows",
    "moments",
    "smooth",
    "products",
    "lognorm",
    "poisson",
    "hals",
    "em",
    "sinkhorn",
    "pairs",
    "dense",
    "curve",
    "fill",
    "running_sums",
)

#: Kernel files without a twin, and why: what they work on is never on a device, or torch does it there.
HOST_ONLY = {
    "attention": "differentiated by torch, whose form for devices is models/spatialfuser/attention.py",
    "gaussians": "a few thousand points a step of scipy's optimiser, which wants a number back every time",
    "histograms": "values come from disk tile by tile, and reading them takes longer than counting them",
    "tops": "clusters of spots that are matched are a thousand rows each, and pairs are sorted on the host",
    "unions": "lists triples of regions, a few hundred of them, for linking that runs on the host",
}


@cache
def no_gpu() -> str | None:
    """Say why CuPy has no CUDA device to run kernels on; None where it has one.

    Notes
    -----
    A small product is taken on the device and added up: CuPy is also installed where there is no driver, and
    finds a device where the compiler, headers or libraries of its own version of CUDA are missing.
    """
    try:
        import cupy
    except ImportError:
        return "CuPy is not installed"
    except Exception as problem:  # a library of another version, say
        return f"CuPy cannot be imported: {_first_line(problem)}"
    try:
        if not cupy.cuda.runtime.getDeviceCount():
            return "there is none"
        ones = cupy.ones((2, 2))
        return None if int((ones @ ones).sum()) == 8 else "CuPy computes wrongly on it"
    except Exception as problem:  # a missing driver, compiler or library surfaces as many different errors
        return f"CuPy says: {_first_line(problem)}"


def _first_line(problem: Exception) -> str:
    return (str(problem).strip() or type(problem).__name__).splitlines()[0]


def gpu_available() -> bool:
    """Tell whether CuPy is installed and runs kernels on a CUDA device."""
    return no_gpu() is None


def side_of(where: Any) -> str:
    """Name the side, "cpu" or "gpu", that owns a device name or an array.

    Parameters
    ----------
    where
        ``"cpu"``, ``"cuda"``, ``"cuda:0"``, ``"gpu"``, ``"auto"`` (the GPU where there is one), a torch
        device, or an array.

    Raises
    ------
    BadOption
        No such device; or one by its number, while kernels run on the first that is visible.

    Examples
    --------
    >>> import numpy as np
    >>> side_of("cpu"), side_of(np.zeros(3))
    ('cpu', 'cpu')
    """
    if hasattr(where, "__cuda_array_interface__"):
        return "gpu"
    if hasattr(where, "__array__"):
        return "cpu"
    name = str(where)
    if name == "auto":
        return "gpu" if gpu_available() else "cpu"
    if name == "cpu":
        return "cpu"
    if name in ("gpu", "cuda", "cuda:0"):
        return "gpu"
    if name.startswith("cuda:"):
        number = name.removeprefix("cuda:")
        raise BadOption(
            f"device {name!r}: kernels run on the first visible device; set CUDA_VISIBLE_DEVICES={number} "
            "and use cuda"
        )
    raise BadOption(f"no such device {name!r}; use auto, cpu or cuda")


def kernel(module: str, where: Any = "cpu") -> ModuleType:
    """Return a kernel module of the side that owns ``where``.

    Parameters
    ----------
    module
        ``"neighbours"``, ``"rows"``, ``"moments"``, ``"smooth"``, ``"products"``, ``"lognorm"``, …
    where
        See :func:`side_of`.

    Raises
    ------
    BadOption
        The GPU is asked for and cannot be used.

    Examples
    --------
    >>> kernel("rows", "cpu").row_sums.__name__
    'row_sums'
    """
    side = side_of(where)
    if side == "gpu" and not gpu_available():
        why = f" ({no_gpu()})" if no_gpu() else ""
        raise BadOption(f"no CUDA device that CuPy can use{why}; install atlasnmf[gpu] or use --device cpu")
    return importlib.import_module(f"atlasnmf.kernels.{side}.{module}")


def carrier(where: Any) -> Callable[[Any], Any]:
    """Return what brings an array to a side, without a copy where it is there already.

    Examples
    --------
    >>> carrier("cpu")([1.0, 2.0])
    array([1., 2.])
    """
    if side_of(where) == "cpu":
        return np.asarray
    import cupy

    return cupy.asarray  # type: ignore[no-any-return]


def namespace(where: Any) -> ModuleType:
    """Return numpy, or CuPy for the side of a device: for lines that are the same on both.

    Examples
    --------
    >>> namespace("cpu").__name__
    'numpy'
    """
    return np if side_of(where) == "cpu" else importlib.import_module("cupy")


def free_bytes(where: Any) -> int:
    """Return how much of a device's memory is free; 0 for the host, of which budgets know more.

    Examples
    --------
    >>> free_bytes("cpu")
    0
    """
    return int(namespace(where).cuda.runtime.memGetInfo()[0]) if side_of(where) == "gpu" else 0


def release(where: Any) -> None:
    """Give back what CuPy keeps of a device's memory for later, where torch may want it.

    Examples
    --------
    >>> release("cpu")
    """
    if side_of(where) == "gpu":
        namespace(where).get_default_memory_pool().free_all_blocks()


def to_host(array: Any) -> np.ndarray:
    """Return an array of either side as a numpy array, without a copy where it is one already."""
    return array.get() if side_of(array) == "gpu" else np.asarray(array)
