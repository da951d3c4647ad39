"""Domains of SpatialFuser on labelled tissue beside the smoothed PCA, over seeds, and what each part buys.

usage: python benchmarks/quality/spatialfuser_domains.py --data FOLDER [--sets starmap,osmfish,dlpfc]
           [--variants default,...|all] [--seeds 0,1,2,3,4] [--out FILE.jsonl]
       python benchmarks/quality/spatialfuser_domains.py --table FILE.jsonl

FOLDER has starmap_visual_cortex_BY3_1k.h5ad, osmfish_sscortex.h5ad, dlpfc_151673.h5ad and
dlpfc_151674.h5ad. A line
a fit: ARI, AMI, NMI, homogeneity, completeness and V of as many groups as labels, by a Gaussian mixture
with one
covariance and by Leiden, means over slices, of the model and of the smoothed PCA (20 components, two rounds
of
averaging) of the same spots. The table has medians over seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from sklearn import metrics

sys.path.insert(0, str(Path(__file__).parents[1] / "scale"))
from processes import machine

SETS = {
    "starmap": (["starmap_visual_cortex_BY3_1k"], "domain"),
    "osmfish": (["osmfish_sscortex"], "region"),
    "dlpfc": (["dlpfc_151673", "dlpfc_151674"], "layer"),
}
VARIANTS = {
    "default": {},
    "start alone": {"pretrain_steps": 0, "fuse_steps": 0},
    "from chance": {"start": False, "hidden": (32, 32)},
    "no similarity": {"similarity": False},
    "long range": {"alpha": 0.2},
    "one layer": {"hidden": (32,)},
    "three layers": {"hidden": (32, 32, 32)},
    "not averaged": {"averaging": 0},
    "averaged once": {"averaging": 1},
    "4 rounds": {"averaging": 4},
    "10 components": {"components": 10},
    "24 components": {"components": 24},
    "trained harder": {
        "pretrain_steps": 200,
        "fuse_steps": 200,
        "reconstruction_weight": 1.0,
    },
    "500 steps": {"pretrain_steps": 500},
    "not fused": {"fuse_steps": 0},
    "4 heads": {"heads": 4},
    "4 neighbours": {"n_neighbors": 4},
    "12 neighbours": {"n_neighbors": 12},
    "published": {"preset": "published"},
}
FIGURES = ("ari", "ami", "nmi", "homogeneity", "completeness", "v")


def agreement(truth: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    """Return the figures of one slice."""
    homogeneity, completeness, v = metrics.homogeneity_completeness_v_measure(truth, groups)
    return {
        "ari": metrics.adjusted_rand_score(truth, groups),
        "ami": metrics.adjusted_mutual_info_score(truth, groups),
        "nmi": metrics.normalized_mutual_info_score(truth, groups),
        "homogeneity": homogeneity,
        "completeness": completeness,
        "v": v,
    }


def figures(embedding: np.ndarray, labels: np.ndarray, slices: np.ndarray, seed: int) -> dict[str, dict]:
    """Group the spots of all slices both ways; return the means over slices of what they agree on."""
    from atlasnmf.analysis.domains import assign_domains

    known = np.array([isinstance(name, str) for name in labels])
    n_domains, found = len(set(labels[known])), {}
    for method in ("mixture", "leiden"):
        groups = assign_domains(embedding, n_domains=n_domains, method=method, random_state=seed)
        rows = [
            agreement(labels[here].astype(str), groups[here])
            for here in (known & (slices == s) for s in np.unique(slices))
        ]
        found[method] = {name: round(float(np.mean([row[name] for row in rows])), 4) for name in FIGURES}
    return found


def fit(store: Path, key: str, variant: dict, seed: int) -> tuple[dict, dict, float]:
    """Fit one variant; return the figures of the model and of the baseline, and the seconds of training."""
    from atlasnmf import models, pipeline
    from atlasnmf.options import PrepareOptions, RunOptions
    from atlasnmf.pipeline.prepared import smoothed_scores
    from atlasnmf.pipeline.request import FitRequest
    from atlasnmf.pipeline.results import label_column

    given = dict(variant)
    prepare = PrepareOptions(n_neighbors=given.pop("n_neighbors", None))
    params = models.params_with_preset("spatialfuser", given.pop("preset", "default"), given)
    run = RunOptions(seed=seed, device="cpu", workers=1, labels=key, overwrite=True)
    outcome = pipeline.fit(FitRequest("spatialfuser", str(store), params, prepare, run=run).settled())
    fitted = outcome.fit
    working = fitted.prepared.working
    order = working.vector("order")
    labels = label_column(fitted.atlas, key)[order]
    slices = fitted.atlas.slice_codes()[order]
    embedding = np.concatenate([rows.numpy() for rows in fitted.state.embedding])
    own = figures(embedding, labels, slices, seed)
    return own, figures(smoothed_scores(working), labels, slices, seed), fitted.seconds


def table(path: Path) -> None:
    """Print medians over seeds as a markdown table."""
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]
    names = list(dict.fromkeys(row["variant"] for row in rows))
    sets = list(dict.fromkeys(row["set"] for row in rows))

    def median(of: list[dict], who: str, how: str) -> str:
        found = (statistics.median(row[who][how][name] for row in of) for name in ("ari", "nmi"))
        return " / ".join(f"{value:.3f}" for value in found)

    print("| embedding | seeds |" + "".join(f" {name}, mixture | {name}, Leiden |" for name in sets))
    print("|---|---|" + "---|" * 2 * len(sets))
    for who in ("smoothed PCA", *names):
        variant = names[0] if who == "smoothed PCA" else who
        part = "baseline" if who == "smoothed PCA" else "model"
        cells, n_seeds = [], 0
        for name in sets:
            own = [row for row in rows if row["variant"] == variant and row["set"] == name]
            n_seeds = max(n_seeds, len(own))
            cells += [median(own, part, how) if own else "" for how in ("mixture", "leiden")]
        print(f"| {who} | {n_seeds} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--variants", default="default")
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path)
    args = parser.parse_args()
    if args.table:
        table(args.table)
        return
    from atlasnmf.store.ingest import ingest

    print(machine(), flush=True)
    variants = list(VARIANTS) if args.variants == "all" else args.variants.split(",")
    out = args.out.open("a") if args.out else None
    with tempfile.TemporaryDirectory() as folder:
        for name in args.sets.split(","):
            files, key = SETS[name]
            store = Path(folder) / f"{name}.zarr"
            ingest([str(args.data / f"{file}.h5ad") for file in files], str(store))
            for variant in variants:
                for seed in (int(text) for text in args.seeds.split(",")):
                    start = time.process_time()
                    own, baseline, seconds = fit(store, key, VARIANTS[variant], seed)
                    row = {
                        "set": name,
                        "variant": variant,
                        "seed": seed,
                        "model": own,
                        "baseline": baseline,
                        "fit_s": round(seconds, 1),
                        "cpu_s": round(time.process_time() - start, 1),
                    }
                    print(json.dumps(row), flush=True)
                    if out is not None:
                        out.write(json.dumps(row) + "\n")
                        out.flush()


if __name__ == "__main__":
    main()
