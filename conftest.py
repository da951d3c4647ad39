"""Where tests of CUDA devices are looked for, and where examples of docstrings run."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "tests" / "docs"))

#: What a file has in it that has tests for devices: the mark, or a fixture with a side of that mark.
_FOR_DEVICES = re.compile(r"mark\.gpu\b|\b(?:side|cuda_kernels|torch_device)\b[,):]")
#: The room whose tests open stores: it cannot even be looked into without their packages.
_OPENS_STORES = "pipeline"
_MISSING = re.compile(r"No module named '(\w+)")


def _only_devices(config: pytest.Config) -> bool:
    return config.getoption("markexpr") == "gpu"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With ``-m gpu``, leave files alone that have no such tests: what they import may not be there."""
    if not _only_devices(config):
        return None
    rooms = collection_path.relative_to(config.rootpath).parts
    if _OPENS_STORES in rooms and find_spec("spatialdata") is None:
        return True
    files = collection_path.rglob("test_*.py") if collection_path.is_dir() else [collection_path]
    return None if any(_FOR_DEVICES.search(file.read_text()) for file in files) else True


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> pytest.CollectReport:
    """With ``-m gpu``, skip files that need a package that is not there, and name it."""
    report = yield
    if _only_devices(collector.config) and report.failed:
        missing = _MISSING.search(str(report.longrepr))
        if missing and find_spec(missing[1]) is None:
            report.outcome = "skipped"
            report.longrepr = (str(collector.path), 0, f"Skipped: {missing[1]} is not installed")
    return report


@pytest.fixture(scope="session")
def example_stores(tmp_path_factory: pytest.TempPathFactory) -> object:
    """Return what makes the stores that examples open."""
    from example_stores import ExampleStores

    return ExampleStores(tmp_path_factory.mktemp("example_stores"))


@pytest.fixture(autouse=True)
def _example_folder(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run the examples of a docstring in a folder of their own, with the stores they name."""
    examples = getattr(request.node, "dtest", None)
    if examples is None:
        yield
        return
    from example_stores import stores_of

    folder = request.getfixturevalue("tmp_path")
    for name in stores_of(examples):
        request.getfixturevalue("example_stores").copy(name, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MPLBACKEND", "Agg")
        yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
