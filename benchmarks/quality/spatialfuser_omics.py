"""How well spots of two modalities are matched, on made tissue whose correspondence is known.

usage: python benchmarks/quality/spatialfuser_omics.py [--seeds 0,1,2] [--overlaps 1.0,0.7,0.4,0.1]

A line a fit: the three difficulties of `atlasnmf simulate omics`, and the medium one with less and less of
the programmes seen by both modalities. `same_domain` is the share of pairs within one domain, `median_um` the
distance in the tissue of the spots of a pair, `pitch_um` that of neighbouring spots of the coarser slice,
`frame_um` the median distance by which the slices miss each other after registration (the warp of the tissue
included).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import spatialdata
from scipy.spatial import cKDTree

sys.path.insert(0, str(Path(__file__).parents[1] / "scale"))
from processes import atlasnmf, machine, measure

from atlasnmf.features.rigid import fit_rigid


def agreement(store: Path) -> dict[str, float]:
    """Return how the matches of a store compare with the truth in it."""
    tables = dict(spatialdata.read_zarr(store).tables)
    pairs = tables.pop("spatialfuser_matches").obs
    place, domain = {}, {}
    for name, table in tables.items():
        for spot, where, which in zip(
            table.obs_names, table.obsm["true_position"], table.obs["domain"].astype(str), strict=True
        ):
            place[name, spot], domain[name, spot] = where, which
    ends = [list(zip(pairs[f"{end}_table"], pairs[end], strict=True)) for end in ("source", "target")]
    same = np.array([domain[a] == domain[b] for a, b in zip(*ends, strict=True)])
    apart = np.array([np.linalg.norm(place[a] - place[b]) for a, b in zip(*ends, strict=True)])
    fixed, moved = tables.values()
    truth = fit_rigid(np.asarray(fixed.obsm["true_position"]), np.asarray(fixed.obsm["spatial"]))
    missed = np.asarray(moved.obsm["spatialfuser_aligned"]) - truth.apply(moved.obsm["true_position"])
    pitch = max(
        np.median(cKDTree(table.obsm["spatial"]).query(table.obsm["spatial"], k=2)[0][:, 1])
        for table in tables.values()
    )
    uns = fixed.uns["spatialfuser"]
    frame = next(move for move in uns["frame"].values() if move["method"] != "none")
    return {
        "n_pairs": len(pairs),
        "same_domain": round(float(same.mean()), 3),
        "same_domain_passed": round(float(same[pairs["passed"].to_numpy(bool)].mean()), 3),
        "median_um": round(float(np.median(apart)), 1),
        "pitch_um": round(float(pitch), 1),
        "frame_um": round(float(np.nanmedian(np.linalg.norm(missed, axis=1))), 1),
        "registered_by": str(frame["method"]),
        "registration_score": round(float(frame["score"]), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--overlaps", default="1.0,0.7,0.4,0.1")
    args = parser.parse_args()
    print(machine(), flush=True)
    cases = [["--difficulty", name] for name in ("easy", "medium", "hard")]
    cases += [["--feature-overlap", share] for share in args.overlaps.split(",")]
    for case in cases:
        for seed in args.seeds.split(","):
            with tempfile.TemporaryDirectory() as folder:
                store = Path(folder) / "omics.zarr"
                measure(atlasnmf("simulate", "omics", str(store), *case, "--seed", seed))
                measure(atlasnmf("fit", "spatialfuser", str(store), "--seed", seed, "--json"))
                row = {"case": " ".join(case), "seed": int(seed)} | agreement(store)
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
