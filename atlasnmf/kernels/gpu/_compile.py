"""CUDA C kernels: compiled once a process, launched on CuPy arrays."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

__all__ = ["BLOCK", "REAL_NAMES", "launch", "options", "read_as"]

#: Threads of a block; a power of two, for the tree sums.
BLOCK = 128
#: What CUDA C calls the types that ``REAL`` and ``SUM`` may stand for.
REAL_NAMES = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}
#: Blocks of a launch at most: the kernels stride over what is left.
_MOST_BLOCKS = 65_535


def options(real: str = "float", accumulator: str = "float") -> tuple[str, ...]:
    """Return how a kernel is compiled.

    Parameters
    ----------
    real, accumulator
        ``"float"`` or ``"double"``: what ``REAL`` and ``SUM`` stand for in the source.

    Notes
    -----
    No contraction to fused multiply-adds: distances then have the bits of the CPU's, and so have graphs. CuPy
    adds ``-ftz=true``: float32 below 1.2e-38 counts as zero there; float64 is not touched.
    """
    return ("--std=c++14", "--fmad=false", f"-DREAL={real}", f"-DSUM={accumulator}", f"-DBLOCK={BLOCK}")


def read_as(kind: Any, values: Any) -> Any:
    """Return values as a kernel reads them: contiguous, of one type; the array itself where it is that."""
    import cupy as cp

    return cp.ascontiguousarray(cp.asarray(values), dtype=kind)


@cache
def _compiled(source: str, how: tuple[str, ...]) -> Any:
    import cupy

    return cupy.RawModule(code=source, options=how)


def launch(
    source: str,
    name: str,
    n_blocks: int,
    arguments: tuple[Any, ...],
    *,
    real: str = "float",
    accumulator: str = "float",
) -> None:
    """Run a kernel.

    Parameters
    ----------
    source, name
        CUDA C text and the kernel's name in it.
    n_blocks
        Blocks of :data:`BLOCK` threads that would have work; nothing is run when there are none.
    arguments
        Device arrays, contiguous and of the very types of the kernel; ints are passed as ``long long`` and
        floats as ``double``.
    real, accumulator
        See :func:`options`.
    """
    if n_blocks < 1:
        return
    function = _compiled(source, options(real, accumulator)).get_function(name)
    scalars = {int: np.int64, float: np.float64}
    passed = tuple(scalars[type(a)](a) if type(a) in scalars else a for a in arguments)
    function((min(n_blocks, _MOST_BLOCKS),), (BLOCK,), passed)
