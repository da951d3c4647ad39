"""INSPIRE on the simulated embryo: are factors, loadings and slice-unique organs found?

usage: python benchmarks/quality/inspire_embryo.py [--seeds 3] [--steps 500] [--encoder lgcn]
"""

from __future__ import annotations

import argparse
import warnings

import anndata
import numpy as np
import scipy.sparse as sp
import torch
from memory_atlas import MemoryAtlas, build_atlas
from scoring import score

from atlasnmf.metrics.factors import matched_correlation
from atlasnmf.models.inspire.method import build
from atlasnmf.models.inspire.params import Params
from atlasnmf.simulate.embryo import Embryo, plan_embryo, slice_blocks


def embryo_atlas(embryo: Embryo) -> tuple[MemoryAtlas, np.ndarray]:
    tables, truth = [], []
    for s in range(len(embryo.slices)):
        blocks = list(slice_blocks(embryo, s))
        table = anndata.AnnData(sp.vstack([block.counts.to_scipy() for block in blocks]).tocsr())
        table.var_names = list(embryo.genes)
        table.obsm["spatial"] = np.concatenate([block.spatial for block in blocks])
        table.obs["_label"] = [f"d{d}" for block in blocks for d in block.domain]
        tables.append(table)
        truth.append(np.concatenate([block.factors for block in blocks]))
    return build_atlas(tables, scale_genes="smooth"), np.concatenate(truth)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--encoder", default="lgcn")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print("| seed | encoder | factors | worst | loadings | worst | unique organs | ARI | smoothed PCA |")
    print("|---|---|---|---|---|---|---|---|---|")
    for seed in range(args.seeds):
        embryo = plan_embryo(n_spots=20_000, n_slices=4, n_genes=1000, n_factors=12, seed=seed)
        atlas, truth = embryo_atlas(embryo)
        model = build(Params(n_factors=12, encoder=args.encoder, steps=args.steps), atlas.facts, "cpu", seed)
        halo = int(model.method.attends)
        state = model.method.init(atlas.sample(4096, seed, halo=halo))
        for unit in atlas.units(512, seed, halo=halo):
            if model.method.done(state):
                break
            state, _ = model.method.step(state, unit)
        found = [model.infer(state, atlas.whole(s, halo)) for s in range(4)]
        factors = matched_correlation(np.concatenate([part["inspire_factors"] for part in found]), truth)
        kept = [list(embryo.genes).index(gene) for gene in atlas.facts.genes]
        loadings = matched_correlation(model.result(state).varm["inspire_loadings"], embryo.loadings[kept])
        unique = np.flatnonzero(embryo.anatomy.only_slice >= 0)
        own = factors.correlations[np.isin(factors.truth, unique)]
        ours = score([part["X_inspire"] for part in found], atlas.labels, n_init=1)
        rival = score([scores[:, -1, :20] for scores in atlas.scores], atlas.labels, n_init=1)
        print(
            f"| {seed} | {args.encoder} | {factors.mean:.3f} | {factors.correlations.min():.2f} "
            f"| {loadings.mean:.3f} | {loadings.correlations.min():.2f} | {np.round(own, 2).tolist()} "
            f"| {ours['ari']:.3f} | {rival['ari']:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
