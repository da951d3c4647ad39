"""How often matched spots are of one cell class, on real slices, beside nearest neighbours in a PCA.

usage: python benchmarks/quality/spatialfuser_matching.py --data FOLDER [--sets seqfish,merfish]
           [--seeds 0,1,2] [--cells 3000] [--degrees 40] [any option of `atlasnmf fit spatialfuser`]

FOLDER has seqfish_mouse_embryo2.h5ad (two planes of one embryo, in one frame: the second is turned by
--degrees and shifted, and the fit is told neither) and merfish_hypothalamus_2slices.h5ad (two sections, not
registered). --cells takes so many random cells a slice; 0 takes all. Rivals, told the true frame where there
is one: the nearest cell in space; the nearest, and the mutually nearest, in 30 components of a PCA of the log
counts centred by slice.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import anndata
import numpy as np
import spatialdata
from scipy.spatial import cKDTree
from sklearn.decomposition import PCA

sys.path.insert(0, str(Path(__file__).parents[1] / "scale"))
from processes import atlasnmf, machine, measure

#: File, column that tells slices apart, column with the class of a cell, whether slices share a frame.
SETS = {
    "seqfish": ("seqfish_mouse_embryo2", "z", "cell_type", True),
    "merfish": ("merfish_hypothalamus_2slices", "slice", "cell_class", False),
}


def slices_of(path: Path, column: str, n_cells: int, degrees: float, seed: int) -> list[anndata.AnnData]:
    """Return the slices, thinned, the second turned and shifted; ``true`` keeps where cells were."""
    table = anndata.read_h5ad(path)
    rng, turn = np.random.default_rng(seed), np.deg2rad(degrees)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    parts = []
    for number, (_, rows) in enumerate(table.obs.groupby(column, observed=True)):
        part = table[rows.index].copy()
        if n_cells:
            part = part[np.sort(rng.permutation(part.n_obs)[:n_cells])].copy()
        xy = np.asarray(part.obsm["spatial"], float)[:, :2]
        part.obsm["true"] = xy
        part.obsm["spatial"] = xy @ rotation.T + 3 * np.ptp(xy) if number else xy
        parts.append(part)
    return parts


def rivals(parts: list[anndata.AnnData], column: str, in_frame: bool) -> dict[str, float]:
    """Return the accuracy of nearest neighbours, told the frame."""
    logs = []
    for part in parts:
        counts = np.asarray(part.X.todense() if hasattr(part.X, "todense") else part.X, float)
        log = np.log1p(counts / np.maximum(counts.sum(1, keepdims=True), 1) * 1e3)
        logs.append(log - log.mean(0))
    scores = PCA(30, random_state=0).fit(np.concatenate(logs))
    one, other = (scores.transform(log) for log in logs)
    classes, others = (part.obs[column].astype(str).to_numpy() for part in parts)
    near = cKDTree(other).query(one)[1]
    back = cKDTree(one).query(other)[1]
    mutual = back[near] == np.arange(len(one))
    found = {
        "pca_nearest": float((classes == others[near]).mean()),
        "pca_mutual": float((classes == others[near])[mutual].mean()),
        "n_pca_mutual": int(mutual.sum()),
    }
    if in_frame:
        place = cKDTree(parts[1].obsm["true"]).query(parts[0].obsm["true"])[1]
        found["space_nearest"] = float((classes == others[place]).mean())
    return {name: round(value, 3) for name, value in found.items()}


def agreement(store: Path, column: str) -> dict[str, float]:
    """Return how many pairs there are and how many join cells of one class."""
    tables = dict(spatialdata.read_zarr(store).tables)
    pairs = tables.pop("spatialfuser_matches").obs
    classes = {
        (name, cell): label
        for name, table in tables.items()
        for cell, label in table.obs[column].astype(str).items()
    }
    ends = [
        np.array([classes[key] for key in zip(pairs[f"{end}_table"], pairs[end], strict=True)])
        for end in ("source", "target")
    ]
    same, passed = ends[0] == ends[1], pairs["passed"].to_numpy(bool)
    found = {
        "n_pairs": len(pairs),
        "accuracy": round(float(same.mean()), 3),
        "n_passed": int(passed.sum()),
        "accuracy_passed": round(float(same[passed].mean()), 3),
    }
    for name, table in tables.items():
        missed = np.linalg.norm(table.obsm["spatialfuser_aligned"] - table.obsm["true"], axis=1)
        found[f"median_offset_{name}"] = round(float(np.nanmedian(missed)), 4)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", default="seqfish,merfish")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--cells", type=int, default=3000)
    parser.add_argument("--degrees", type=float, default=40.0)
    args, options = parser.parse_known_args()
    print(machine(), flush=True)
    for name in args.sets.split(","):
        file, key, label, in_frame = SETS[name]
        for seed in (int(text) for text in args.seeds.split(",")):
            degrees = args.degrees if in_frame else 0.0
            parts = slices_of(args.data / f"{file}.h5ad", key, args.cells, degrees, seed)
            with tempfile.TemporaryDirectory() as folder:
                files = [str(Path(folder) / f"slice_{number}.h5ad") for number in range(len(parts))]
                for part, path in zip(parts, files, strict=True):
                    part.write_h5ad(path)
                store = Path(folder) / "slices.zarr"
                measure(atlasnmf("ingest", *files, "--out", str(store)))
                flags = ["--seed", str(seed), "--json", *options]
                cost = measure(atlasnmf("fit", "spatialfuser", str(store), *flags))
                row = {"set": name, "seed": seed, "cells": [part.n_obs for part in parts]}
                row |= agreement(store, label) | rivals(parts, label, in_frame)
                frame = spatialdata.read_zarr(store).tables["slice_1"].uns["spatialfuser"]["frame"]["slice_1"]
                row |= {"registered_by": frame["method"], "registration_score": round(frame["score"], 3)}
                row |= {"cpu_s": round(cost.cpu_s, 1)}
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
