"""Quality of INSPIRE on labelled slices beside the smoothed PCA, over seeds, through the command line.

usage: python benchmarks/quality/inspire_slices.py A.h5ad B.h5ad --labels layer [--seeds 0,1,2,3,4]
           [--encoders lgcn,gat] [--n-factors 20] [any option of `atlasnmf fit inspire`]

Prints one JSON object a fit: ARI, NMI and ASW (means over slices; as many tied mixture components as labels,
fitted to the joint embedding), and at the end the median over seeds of each encoder.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "scale"))
from processes import atlasnmf, machine, measure

FIGURES = ("ari", "nmi", "asw")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--labels", required=True)
    parser.add_argument("--slice-key")
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--encoders", default="lgcn,gat")
    parser.add_argument("--n-factors", default="20")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args, options = parser.parse_known_args()
    if args.slice_key:
        options += ["--slice-key", args.slice_key]
    fits: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "slices.zarr")
        measure(atlasnmf("ingest", *args.files, "--out", store))
        for encoder in args.encoders.split(","):
            for seed in args.seeds.split(","):
                flags = ["--encoder", encoder, "--seed", seed, "--n-factors", args.n_factors, "--overwrite"]
                flags += ["--labels", args.labels, "--json", *options]
                outcome = json.loads(measure(atlasnmf("fit", "inspire", store, *flags)).stdout)
                quality = outcome["quality"]
                row = {"encoder": encoder, "seed": int(seed), "fit_s": round(outcome["stages"]["fit"], 1)}
                row |= {name: round(quality[name], 3) for name in FIGURES}
                row |= {f"baseline_{name}": round(quality["baseline"][name], 3) for name in FIGURES}
                fits.append(row)
                print(json.dumps(row), flush=True)
    medians = []
    for encoder in args.encoders.split(","):
        own = [row for row in fits if row["encoder"] == encoder]
        names = [*FIGURES, *(f"baseline_{name}" for name in FIGURES)]
        median = {name: statistics.median(float(str(row[name])) for row in own) for name in names}
        medians.append({"encoder": encoder, "n_seeds": len(own), **median})
        print(json.dumps(medians[-1]), flush=True)
    record = {"machine": machine(), "files": [Path(file).name for file in args.files], "options": options}
    if args.out:
        args.out.write_text(json.dumps(record | {"fits": fits, "medians": medians}, indent=1) + "\n")


if __name__ == "__main__":
    main()
