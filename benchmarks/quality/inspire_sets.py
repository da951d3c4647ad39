"""INSPIRE and the smoothed PCA on several labelled sets, in memory: does what helps one help the others?

usage: python benchmarks/quality/inspire_sets.py RESULTS.jsonl [SET ...] [--seeds 1]

Appends one line a (set, form, seed). Forms: ``rival``, 20 components of the smoothed log counts; ``default``;
``plain``, genes not standardised and components at their own spread; ``plain half``, the same at the square
root of it. The mixture takes the best of two starts, figures are means over two of its seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from inspire_dlpfc import train
from memory_atlas import MemoryAtlas, build_atlas, load_slices
from scoring import score

from atlasnmf.models.inspire import networks
from atlasnmf.models.inspire.params import Params

#: set -> files, obs column of the labels, obs column of the slices
SETS: dict[str, tuple[tuple[str, ...], str, str | None]] = {
    "cortex pair": (("dlpfc_151673", "dlpfc_151674"), "layer", None),
    "151510": (("dlpfc_151510_500genes",), "layer", None),
    "osmFISH": (("osmfish_sscortex",), "region", None),
    "STARmap": (("starmap_visual_cortex_BY3_1k",), "domain", None),
    "olfactory bulb": (("st_mob",), "layer", None),
}
#: form -> how genes are scaled, power of the spread that components are divided by
FORMS = {"default": ("smooth", 0.5), "plain": ("none", 0.0), "plain half": ("none", 0.5)}
PANEL_GENES = 1000


def atlas_of(name: str, scale_genes: str) -> MemoryAtlas:
    files, label, slice_key = SETS[name]
    tables = load_slices(files, label, slice_key)
    n_shared = len(set.intersection(*(set(table.var_names) for table in tables)))
    panel = n_shared <= PANEL_GENES
    return build_atlas(
        tables,
        n_hvgs=0 if panel else 6000,
        target_sum=1e3 if panel else 1e4,
        n_components=min(32, n_shared - 1),
        scale_genes=scale_genes,
    )


def figures(embeddings: list[np.ndarray], atlas: MemoryAtlas) -> dict[str, float]:
    found = [score(embeddings, atlas.labels, seed=seed, n_init=2) for seed in range(2)]
    return {name: round(float(np.mean([one[name] for one in found])), 3) for name in ("ari", "nmi", "asw")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("sets", nargs="*", default=list(SETS))
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")

    def put(**row: object) -> None:
        with args.results.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        print(row, flush=True)

    for name in args.sets:
        atlases = {scale: atlas_of(name, scale) for scale in ("none", "smooth")}
        plain = atlases["none"]
        put(set=name, form="rival", seed=0, **figures([x[:, -1, :20] for x in plain.scores], plain))
        for form, (scale, power) in FORMS.items():
            atlas = atlases[scale]
            networks.Start.POWER = power  # type: ignore[misc]
            params = Params(
                encoder="lgcn",
                n_factors=min(20, atlas.facts.n_genes - 1),
                gan_weight=float(atlas.facts.n_slices > 1),
            )
            for seed in range(args.seeds):
                embeddings, _, _ = train(atlas, params, seed)
                put(set=name, form=form, seed=seed, **figures(embeddings, atlas))


if __name__ == "__main__":
    main()
