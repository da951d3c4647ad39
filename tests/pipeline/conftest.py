"""One small store for the whole room, copied by those who write into it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from small_stores import build


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two slices with labels; never written into."""
    return build(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="module")
def client() -> Iterator[object]:
    """Two workers of this machine, for the tests of a file."""
    from atlasnmf.reduce.cluster import processes

    with processes(2) as started:
        yield started


@pytest.fixture
def copy(clean: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that copies the clean store."""
    return lambda name="store.zarr": Path(shutil.copytree(clean, tmp_path / name))


@pytest.fixture(scope="session")
def fitted(clean: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with results, read only."""
    from small_stores import fit_options, ok

    store = tmp_path_factory.mktemp("fitted") / "fitted.zarr"
    shutil.copytree(clean, store)
    ok("fit", "inspire", str(store), *fit_options())
    return store
