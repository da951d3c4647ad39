"""Stores with results for the whole room."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from small_results import bytes_of, make_store


@pytest.fixture(scope="session")
def clean_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two slices with results; never written into."""
    return make_store(tmp_path_factory.mktemp("results") / "small.zarr")


@pytest.fixture
def small(clean_results: Path, tmp_path: Path) -> Path:
    """A copy to write into."""
    return Path(shutil.copytree(clean_results, tmp_path / "small.zarr"))


@pytest.fixture
def untouched(clean_results: Path) -> Iterator[Path]:
    """The store itself, which must be the same bytes when the test ends."""
    before = bytes_of(clean_results)
    yield clean_results
    assert bytes_of(clean_results) == before
