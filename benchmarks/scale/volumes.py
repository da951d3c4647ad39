"""Ingest of gene volumes: seconds and peak memory against the number of genes, on one annotated grid.

usage: python benchmarks/scale/volumes.py GRID.h5ad [--genes 50,200] [--missing 0.1] [--dir DIR]

Gene images are made on the grid of the file and written as compressed NIfTI, one a gene, beforehand.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

import nibabel
import numpy as np

from atlasnmf.simulate.volume import annotated_grid, plan_volume

sys.path.insert(0, str(Path(__file__).parent))
from processes import atlasnmf, machine, measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("grid")
    parser.add_argument("--genes", default="50,200")
    parser.add_argument("--missing", type=float, default=0.1)
    parser.add_argument("--dir", type=Path, default=Path("/tmp/atlasnmf-volumes"))
    args = parser.parse_args()
    painted = annotated_grid(args.grid)
    for n_genes in (int(text) for text in args.genes.split(",")):
        shutil.rmtree(args.dir, ignore_errors=True)
        args.dir.mkdir(parents=True)
        volume = plan_volume(painted, n_genes=n_genes, n_patterns=8, missing=args.missing)
        files = []
        for gene, name in enumerate(volume.genes):
            files.append(str(args.dir / f"{name}.nii.gz"))
            nibabel.save(nibabel.Nifti1Image(volume.image(gene), painted.grid.affine), files[-1])
        annotation = str(args.dir / "annotation.nii.gz")
        nibabel.save(nibabel.Nifti1Image(painted.regions.astype(np.int32), painted.grid.affine), annotation)
        out = str(args.dir / "out.zarr")
        cost = measure(atlasnmf("ingest", *files, "--annotation", annotation, "--out", out, "--json"))
        outcome = json.loads(cost.stdout)
        record = {
            "n_genes": n_genes,
            "n_voxels": outcome["n_voxels"],
            "missing_share": outcome["missing_share"],
            "holdout_r2": round(outcome["quality"]["r2"], 3),
            "wall_s": round(cost.wall_s, 1),
            "genes_per_s": round(n_genes / cost.wall_s, 1),
            "peak_gb": round(cost.peak_bytes / 1e9, 3),
            "machine": machine(),
        }
        print(json.dumps(record), flush=True)
    shutil.rmtree(args.dir)


if __name__ == "__main__":
    main()
