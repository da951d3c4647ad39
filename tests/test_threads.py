"""Operations are held to some threads, and left as they were."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import scipy.linalg  # noqa: F401  so that its libraries are counted before and after
import torch
from threadpoolctl import threadpool_info

from atlasnmf.threads import operation_threads


def blas():
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


def fail_within():
    with operation_threads(1):
        assert torch.get_num_threads() == 1
        assert set(blas()) == {1}
        raise RuntimeError("stop")


def test_the_numbers_are_put_back():
    np.ones((2, 2)) @ np.ones((2, 2))
    torch.set_num_threads(2)
    before = blas()
    with pytest.raises(RuntimeError, match="stop"):
        fail_within()
    assert torch.get_num_threads() == 2
    assert blas() == before


def test_torch_is_not_imported_for_it():
    code = (
        "import sys\nfrom atlasnmf.threads import operation_threads\n"
        "with operation_threads(1):\n    assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
