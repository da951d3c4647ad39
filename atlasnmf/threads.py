"""How many threads one operation of BLAS or of torch may use.

Work is divided by tiles and by batches, so one is the right number: the products of a step are small, two
threads gained nothing on free cores and were five times slower beside other work, because each waits for the
other. Sums are cut by thread, so the number is also part of what decides the bits.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any

__all__ = ["blas_threads", "operation_threads"]


@cache
def _blas() -> Any:
    import numpy.linalg  # noqa: F401  the libraries must be loaded to be found
    import scipy.linalg  # noqa: F401
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


def blas_threads(n_threads: int) -> AbstractContextManager[Any]:
    """Hold numpy's and scipy's products to some threads."""
    return _blas().limit(limits=n_threads)


@contextmanager
def operation_threads(n_threads: int) -> Iterator[None]:
    """Hold BLAS, and torch where it has been imported, to some threads; both are put back afterwards.

    Parameters
    ----------
    n_threads
        Threads of an operation.
    """
    torch = sys.modules.get("torch")
    before = None if torch is None else torch.get_num_threads()
    if torch is not None:
        torch.set_num_threads(n_threads)
    try:
        with blas_threads(n_threads):
            yield
    finally:
        if torch is not None:
            torch.set_num_threads(before)
