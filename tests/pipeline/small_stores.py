"""Stores of a few hundred spots, and the command line called in this process."""

from __future__ import annotations

import contextlib
import hashlib
import io
import signal
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import zarr

from atlasnmf import cli
from atlasnmf.events import Silent
from atlasnmf.store.ingest import ingest

N_SPOTS, N_GENES, N_REGIONS = 220, 64, 3


def make_table(
    seed: int = 0, n_spots: int = N_SPOTS, n_genes: int = N_GENES, gene_order: np.ndarray | None = None
) -> anndata.AnnData:
    """Counts with three regions in bands, positions on a grid."""
    rng = np.random.default_rng(seed)
    side = int(np.ceil(np.sqrt(n_spots)))
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2)[:n_spots]
    region = np.minimum(grid[:, 1] * N_REGIONS // side, N_REGIONS - 1)
    profile = np.random.default_rng(99).gamma(0.5, 2.0, (N_REGIONS, n_genes))
    counts = rng.poisson(profile[region]).astype(np.float32)
    genes = np.array([f"g{i:03d}" for i in range(n_genes)])
    table = anndata.AnnData(
        scipy.sparse.csr_matrix(counts),
        obs=pd.DataFrame(
            {"region": pd.Categorical([f"r{i}" for i in region])},
            index=[f"s{seed}_{i}" for i in range(n_spots)],
        ),
        var=pd.DataFrame(index=genes),
        obsm={"spatial": grid.astype(float)},
    )
    return table if gene_order is None else table[:, gene_order].copy()


def build(folder: Path, *tables: anndata.AnnData, name: str = "store.zarr") -> Path:
    """Write tables ``slice_0, slice_1, ..``; two plain ones when none are given."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, table in enumerate(tables or (make_table(0), make_table(1))):
        path = folder / f"slice_{number}.h5ad"
        table.write_h5ad(path)
        files.append(str(path))
    ingest(files, str(folder / name))
    return folder / name


def fit_options(steps: int = 6, factors: int = 4) -> list[str]:
    """Return the options of a fit of a second."""
    return [
        *("--n-factors", str(factors), "--steps", str(steps), "--batch-spots", "64"),
        *("--hidden", "16", "--encoder", "lgcn", "--device", "cpu", "--workers", "1"),
    ]


def call(*arguments: str) -> tuple[int, str, str]:
    """Run a command here; return its exit code, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as stop,
    ):
        cli.main(list(arguments))
    return int(stop.value.code or 0), out.getvalue(), err.getvalue()


def ok(*arguments: str) -> str:
    """Run a command that must succeed; return its stdout."""
    code, out, err = call(*arguments)
    assert code == 0, err
    return out


def refused(*arguments: str) -> str:
    """Run a command that must be refused; return its one line."""
    code, _, err = call(*arguments)
    assert code == 2, err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    return lines[0]


def results(store: Path, key: str = "inspire") -> dict[str, np.ndarray]:
    """Return the arrays a fit wrote, by table and key."""
    root = zarr.open_group(str(store), mode="r")
    found = {}
    for name in root["tables"].group_keys():
        table = root[f"tables/{name}"]
        for group, keys in {
            "obsm": (f"X_{key}", f"{key}_factors", f"{key}_discriminator"),
            "varm": (f"{key}_loadings",),
        }.items():
            found |= {f"{name}/{k}": table[f"{group}/{k}"][:] for k in keys if k in table[group]}
    return found


def assert_same_bits(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Compare results bit for bit."""
    assert expected
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def tree_hash(root: Path) -> str:
    """Hash every file's path and bytes below a folder."""
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.is_file():
            digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()


class Stops:
    """A listener that stops the work: at a step of training, or when a stage has come so far."""

    def __init__(self, *, step: int | None = None, stage: str | None = None) -> None:
        self.step, self.name = step, stage
        self.seen: list[str] = []

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "spots") -> Any:
        """Stop in the middle of the stage of that name."""
        self.seen.append(name)

        def advance(n: int) -> None:
            if self.name is not None and name.startswith(self.name):
                raise KeyboardInterrupt

        yield advance

    def metrics(self, record: dict[str, Any]) -> None:
        """Stop at the step."""
        if record.get("step") == self.step:
            raise KeyboardInterrupt

    def note(self, message: str) -> None:
        """Ignore the message."""

    def warn(self, message: str) -> None:
        """Ignore the warning."""


class StopAt(Silent):
    """A listener that has this process interrupted when a step of training is told of."""

    def __init__(self, step: int) -> None:
        self.step = step

    def metrics(self, record: dict[str, float | int | str]) -> None:
        """Stop at the step."""
        if record["step"] == self.step:
            signal.raise_signal(signal.SIGINT)
