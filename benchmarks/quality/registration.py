"""How well slices are brought back that were turned by a known angle, with and without shared features.

usage: python benchmarks/quality/registration.py [--data FOLDER] [--degrees 40]
           [--sets seqfish,merfish,dlpfc,omics]

Prints JSON lines: the machine first, then one a case. ``error`` is the median distance to where a spot was
before (``error_pitch`` in medians of the distance to the next spot). The two seqFISH planes share their
cells, so that is exact; the frames of the MERFISH sections and of the Visium slices are as published,
nominally alike, and ``agreement`` says more: the share of spots whose nearest neighbour in the other slice
has their label, and what it is in those frames. ``half`` cuts the slices into halves that do not overlap: the
score must be low there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from pathlib import Path

import anndata
import numpy as np
from scipy.spatial import cKDTree

sys.path.insert(0, str(Path(__file__).parents[1] / "scale"))
from processes import machine

from atlasnmf.features.registration import register
from atlasnmf.features.rigid import Rigid, turned
from atlasnmf.simulate import plan_omics

ROOT = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("ATLASNMF_DATA", ROOT.parent / "shared" / "data"))


def say(**fields: object) -> None:
    print(json.dumps(fields, default=float), flush=True)


def joint_components(counts: list, k: int = 20) -> list[np.ndarray]:
    """Return scores of log counts, centred a slice, on the components of both together."""
    from sklearn.utils.extmath import randomized_svd

    logged = []
    for matrix in counts:
        dense = np.asarray(matrix.todense(), dtype=float)
        dense = np.log1p(1e3 * dense / np.maximum(dense.sum(axis=1, keepdims=True), 1))
        logged.append(dense - dense.mean(axis=0))
    left, values, _ = randomized_svd(np.concatenate(logged), k, random_state=0)
    return np.split(left * values, [len(logged[0])])


def read(folder: Path, name: str) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """Return positions, components and labels of the two slices of a set."""
    if name == "dlpfc":
        parts = [anndata.read_h5ad(folder / f"dlpfc_{n}.h5ad") for n in (151673, 151674)]
        genes = parts[0].var_names.intersection(parts[1].var_names)
        most = np.argsort(-np.asarray(parts[0][:, genes].X.sum(axis=0)).ravel())[:1000]
        parts, label = [part[:, genes[most]] for part in parts], "layer"
    else:
        file, key, label = {
            "seqfish": ("seqfish_mouse_embryo2", "z", "cell_type"),
            "merfish": ("merfish_hypothalamus_2slices", "slice", "cell_class"),
        }[name]
        both = anndata.read_h5ad(folder / f"{file}.h5ad")
        parts = [both[(both.obs[key] == value).to_numpy()] for value in sorted(both.obs[key].unique())]
    positions = [np.asarray(part.obsm["spatial"], dtype=float) for part in parts]
    labels = [part.obs[label].astype(str).to_numpy() for part in parts]
    return positions, joint_components([part.X for part in parts]), labels


def pitch(points: np.ndarray) -> float:
    return float(np.median(cKDTree(points).query(points, k=2)[0][:, 1]))


def agreement(moved: np.ndarray, fixed: np.ndarray, labels: list[np.ndarray]) -> float:
    return float((labels[0] == labels[1][cKDTree(fixed).query(moved)[1]]).mean())


def case(
    name: str,
    start: np.ndarray,
    fixed: np.ndarray,
    truth: np.ndarray,
    features: tuple[np.ndarray, np.ndarray] | None,
    labels: list[np.ndarray] | None = None,
    **said: object,
) -> None:
    begun = time.perf_counter()
    reflected = bool(said.get("reflected", False))
    found = register(start, fixed, reflection=reflected, features=features, rng=np.random.default_rng(0))
    seconds = time.perf_counter() - begun
    moved = found.rigid.apply(start)
    error = float(np.median(np.linalg.norm(moved - truth, axis=1)))
    said |= {"by": "features" if features is not None else "outline", "method": found.method}
    said |= {"score": round(found.score, 3), "error": error, "error_pitch": round(error / pitch(fixed), 3)}
    if labels is not None:
        said |= {
            "agreement": round(agreement(moved, fixed, labels), 3),
            "agreement_published_frame": round(agreement(truth, fixed, labels), 3),
        }
    say(set=name, **said, n_spots=len(start), seconds=round(seconds, 1), notes=len(found.notes))


def real(folder: Path, name: str, degrees: float) -> None:
    positions, components, labels = read(folder, name)
    first, second = positions
    shift = np.array([3.0, -2.0]) * np.ptp(first, axis=0)
    for reflected in (False, True):
        move = Rigid(turned(degrees, reflected=reflected).rotation, shift)
        for features in (None, (components[0], components[1])):
            case(
                name, move.apply(first), second, first, features, labels, degrees=degrees, reflected=reflected
            )
    left = first[:, 0] <= np.median(first[:, 0])
    right = second[:, 0] > np.median(second[:, 0])
    move = Rigid(turned(degrees).rotation, shift)
    for features in (None, (components[0][left], components[1][right])):
        case(f"{name}, half", move.apply(first[left]), second[right], first[left], features)


def simulated(seeds: range) -> None:
    """Two modalities: no features are shared, so outlines and cavities must do."""
    for difficulty in ("easy", "medium", "hard"):
        for seed in seeds:
            omics = plan_omics(difficulty=difficulty, seed=seed)
            protein = omics.protein
            case(
                f"omics, {difficulty}",
                protein.stored_positions,
                omics.rna.stored_positions,
                protein.true_positions,
                None,
                seed=seed,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=FOLDER)
    parser.add_argument("--sets", default="seqfish,merfish,dlpfc,omics")
    parser.add_argument("--degrees", type=float, default=40.0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    say(machine=machine())
    for name in arguments.sets.split(","):
        if name == "omics":
            simulated(range(3))
        else:
            real(arguments.data, name, arguments.degrees)


if __name__ == "__main__":
    main()
