"""INSPIRE on two Visium slices of one cortex, beside the smoothed PCA: defaults over seeds, and ablations.

usage: python benchmarks/quality/inspire_dlpfc.py RESULTS.jsonl [GROUP ...]
       python benchmarks/quality/inspire_dlpfc.py RESULTS.jsonl --table

A run appends one line a (variant, seed); ``--table`` prints them as markdown. GROUP is any of rivals,
defaults, terms, features, start, training, genes, more. The published preset is run through the command
line, by inspire_slices.py.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from functools import cache
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from memory_atlas import MemoryAtlas, build_atlas, load_slices
from scoring import score

from atlasnmf.models.inspire.method import build
from atlasnmf.models.inspire.params import Params

STEPS = 500
SLICES = ("dlpfc_151673", "dlpfc_151674")

#: group -> name -> (seeds, atlas options, parameters)
VARIANTS: dict[str, dict[str, tuple[int, dict, dict]]] = {
    "defaults": {
        "default, lgcn": (5, {}, {"encoder": "lgcn"}),
        "default, gat": (5, {}, {"encoder": "gat"}),
    },
    "terms": {
        "no adversary": (2, {}, {"gan_weight": 0.0}),
        "margin 50": (2, {}, {"margin": 50.0}),
        "no prior": (2, {}, {"prior_weight": 0.0}),
    },
    "start": {
        "the start alone": (2, {}, {"steps": 0}),
        "no warm start": (2, {}, {"warm_start": False}),
    },
    "features": {
        "genes not standardised": (2, {"scale_genes": "none"}, {}),
        "slices centred together": (2, {"centre": False}, {}),
        "2000 variable genes a slice": (2, {"n_hvgs": 2000}, {}),
        "3000 variable genes a slice": (2, {"n_hvgs": 3000}, {}),
    },
    "training": {
        "100 steps": (2, {}, {"steps": 100}),
        "1500 steps": (2, {}, {"steps": 1500}),
    },
    "genes": {
        "encoder reads genes, 500 steps": (
            1,
            {"n_hvgs": 3000, "gene_hops": 1},
            {"features": "genes", "warm_start": False},
        ),
    },
    "more": {
        "no factorisation": (2, {}, {"nmf_weight": 0.0, "prior_weight": 0.0}),
        "no geometry": (2, {}, {"geometry_weight": 0.0}),
        "no reconstruction": (2, {}, {"ae_weight": 0.0}),
        "ELU before the factor head": (2, {}, {"head": "elu"}),
        "prior with memory .9": (2, {}, {"prior_memory": 0.9}),
        "geometry x 50": (2, {}, {"geometry_weight": 1.0}),
        "reconstruction x 10": (2, {}, {"ae_weight": 10.0}),
        "learning rate / 5": (2, {}, {"learning_rate": 1e-4}),
        "40 factors": (2, {}, {"n_factors": 40}),
        "1 hop": (2, {"hops": 1}, {}),
        "3 hops": (2, {"hops": 3}, {}),
        "20 components": (2, {"n_components": 20}, {}),
        "50 components": (2, {"n_components": 50}, {}),
        "all 4057 shared genes": (2, {"n_hvgs": 0}, {}),
    },
}


@cache
def atlas_of(options: str) -> MemoryAtlas:
    kwargs = {"n_hvgs": 6000, "hops": 2, "n_components": 32, "scale_genes": "smooth"} | json.loads(options)
    return build_atlas(load_slices(SLICES, "layer"), **kwargs)


def rivals() -> list[dict]:
    rows = []
    for name, options, hop in [
        ("PCA, 20 components", {}, 0),
        ("smoothed PCA, 20 components", {}, 2),
        ("smoothed PCA, 3500 variable genes a slice", {"n_hvgs": 3500}, 2),
    ]:
        atlas = atlas_of(json.dumps({"scale_genes": "none", "smooth_hops": hop, **options}))
        for seed in range(3):
            embeddings = [scores[:, hop, :20] for scores in atlas.scores]
            rows.append(
                {"name": name, "group": "rivals", "seed": seed, **score(embeddings, atlas.labels, seed=seed)}
            )
    return rows


def train(atlas: MemoryAtlas, params: Params, seed: int) -> tuple[list[np.ndarray], dict, float]:
    model = build(params, atlas.facts, "cpu", seed)
    genes = params.features == "genes"
    halo = (2 if genes else 1) if model.method.attends else 0
    hops = 1 if genes and not halo else 0
    state = model.method.init(atlas.sample(4096, seed, halo=halo, hops=hops))
    spent, last = 0.0, {}
    for unit in atlas.units(params.batch_spots, seed, halo=halo, hops=hops):
        if model.method.done(state):
            break
        start = time.process_time()
        state, last = model.method.step(state, unit)
        spent += time.process_time() - start
    whole = [model.infer(state, atlas.whole(s, halo, hops))["X_inspire"] for s in range(atlas.facts.n_slices)]
    return whole, last, spent / max(params.steps, 1)


def main(out: Path, groups: list[str]) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    done = {(row["name"], row["seed"]) for row in read(out)}

    def put(row: dict) -> None:
        with out.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        print(row, flush=True)

    if "rivals" in groups:
        for row in rivals():
            if (row["name"], row["seed"]) not in done:
                put(row)
    for group in groups:
        for name, (seeds, options, given) in VARIANTS.get(group, {}).items():
            for seed in range(seeds):
                if (name, seed) in done:
                    continue
                atlas = atlas_of(json.dumps(options, sort_keys=True))
                params = Params(**({"encoder": "lgcn", "steps": STEPS} | given))
                embeddings, last, seconds = train(atlas, params, seed)
                row = {
                    "name": name,
                    "group": group,
                    "seed": seed,
                    **score(embeddings, atlas.labels, seed=seed),
                }
                put(row | {"ms_step": 1e3 * seconds, "nmf": last.get("nmf")})


def read(out: Path) -> list[dict]:
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def table(rows: list[dict]) -> str:
    lines = [
        "| variant | seeds | ARI | range | NMI | ASW |",
        "|---|---|---|---|---|---|",
    ]
    names = list(dict.fromkeys(row["name"] for row in rows))
    for name in names:
        part = [row for row in rows if row["name"] == name]
        ari, nmi, asw = (np.array([row[key] for row in part]) for key in ("ari", "nmi", "asw"))
        lines.append(
            f"| {name} | {len(part)} | {np.median(ari):.3f} | {ari.min():.3f}–{ari.max():.3f} "
            f"| {np.median(nmi):.3f} | {np.median(asw):.3f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    results = Path(sys.argv[1])
    if "--table" in sys.argv:
        print(table(read(results)))
    else:
        main(results, sys.argv[2:] or ["rivals", *VARIANTS])
