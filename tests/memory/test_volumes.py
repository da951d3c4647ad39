"""A volume's ingest holds a gene at a time, however many there are."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import zarr

SHAPE = (40, 36, 40)
SCRIPT = (
    "import sys\n"
    "from atlasnmf.budget import peak_bytes\n"
    "from atlasnmf.pipeline import volumes\n"
    "from atlasnmf.pipeline.volumes import VolumeOptions, ingest_volumes\n"
    "volumes._BLOCK_BYTES = 4 * 10**6\n"
    "options = VolumeOptions(workers=2)\n"
    "ingest_volumes([sys.argv[1]], sys.argv[3], mask=sys.argv[2], options=options)\n"
    "print(peak_bytes())"
)


def peak_of(folder, n_genes):
    rng = np.random.default_rng(0)
    images = zarr.create_array(
        str(folder / f"{n_genes}.zarr"), shape=(n_genes, *SHAPE), chunks=(1, *SHAPE), dtype="f4"
    )
    images.attrs["genes"] = [f"G{gene}" for gene in range(n_genes)]
    for gene in range(n_genes):
        image = rng.gamma(1.0, size=SHAPE).astype(np.float32)
        image[rng.uniform(size=SHAPE) < 0.02] = np.nan
        images[gene] = image
    mask = zarr.create_array(str(folder / f"mask{n_genes}.zarr"), shape=SHAPE, dtype="u1")
    mask[...] = 1
    paths = [str(folder / name) for name in (f"{n_genes}.zarr", f"mask{n_genes}.zarr", f"out{n_genes}.zarr")]
    return int(subprocess.check_output([sys.executable, "-c", SCRIPT, *paths]))


@pytest.mark.slow
def test_memory_does_not_grow_with_genes(tmp_path):
    # enough genes that blocks of rows and the shards they are written to are full in both
    small, large = peak_of(tmp_path, 250), peak_of(tmp_path, 650)
    # 400 genes more are 92 MB of values; what may grow is a few numbers a gene
    assert large - small < 25 * 10**6
