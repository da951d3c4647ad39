"""How exactly matrix products of float32 are taken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

__all__ = ["Precision", "products_in"]

#: ``float32``; ``tf32`` rounds factors to 10 bits on CUDA devices and adds in float32; ``bf16`` rounds
#: factors and products of dense layers to 7 bits, weights and optimisers stay in float32.
Precision = Literal["float32", "tf32", "bf16"]


@contextmanager
def products_in(precision: Precision) -> Iterator[None]:
    """Let torch's float32 products on CUDA devices use TF32 while the body runs; the CPU's do not change.

    Parameters
    ----------
    precision
        Anything but ``tf32`` leaves products as they are: dense layers see to ``bf16`` themselves.
    """
    if precision != "tf32":
        yield
        return
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
