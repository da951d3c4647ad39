"""What the analyses find on simulated and real slices, beside the smoothed PCA; one JSON line each.

usage: python benchmarks/quality/analysis.py [--parts embryo,cortex,planes,hypothalamus] [--data FOLDER]
[--steps 500]

embryo        simulated, a tenth of the genes taken from one slice before the fit: domains, own genes of
              factors, enrichment in the planted programmes, imputation of the genes taken
cortex        two Visium slices (dlpfc_151673, dlpfc_151674): pseudotime against depth of layers, layers of
              factors, label transfer both ways, hidden genes
planes        two seqFISH planes (seqfish_mouse_embryo2), one turned by 40 degrees and shifted: error, scores
hypothalamus  two MERFISH slices (merfish_hypothalamus_2slices), not registered: scores before and after
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import anndata
import numpy as np

import atlasnmf as an
from atlasnmf import tl
from atlasnmf.analysis.spots import stored_labels
from atlasnmf.features.rigid import turned
from atlasnmf.metrics import adjusted_rand, matched_correlation, pearson, specific_genes

sys.path.insert(0, str(Path(__file__).parents[1] / "scale"))
from processes import atlasnmf, machine, measure

EMBEDDINGS = ("X_inspire", "X_smoothed_pca")
LAYERS = ["Layer1", "Layer2", "Layer3", "Layer4", "Layer5", "Layer6", "WM"]


def say(part: str, **figures: object) -> None:
    rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in figures.items()}
    print(json.dumps({"part": part, **rounded}), flush=True)


def fitted(folder: Path, files: list[Path], options: list[str], slice_key: str | None) -> Path:
    store = folder / f"{files[0].stem}.zarr"
    key = ["--slice-key", slice_key] if slice_key else []
    measure(atlasnmf("ingest", *map(str, files), "--out", str(store)))
    measure(atlasnmf("fit", "inspire", str(store), *key, "--workers", "1", *options))
    tl.baseline(an.open_atlas(store, slice_key=slice_key))
    return store


def embryo(folder: Path, options: list[str], seed: int) -> None:
    whole = folder / "whole.zarr"
    shape = ["--n-spots", "12000", "--n-slices", "3", "--n-genes", "800", "--n-factors", "10"]
    measure(atlasnmf("simulate", "embryo", str(whole), *shape, "--seed", str(seed)))
    atlas = an.open_atlas(whole)
    taken = sorted(np.random.default_rng(seed).choice(atlas.genes, 80, replace=False).tolist())
    slices = {info.name: an.to_anndata(atlas, slices=info.name) for info in atlas.slices}
    last = list(slices)[-1]
    hidden = slices[last][:, taken].copy()
    slices[last] = slices[last][:, [g for g in atlas.genes if g not in set(taken)]].copy()
    files = []
    for name, table in slices.items():
        table.uns.clear()
        table.obs = table.obs[["domain"]]
        files.append(folder / f"{name}.h5ad")
        table.write_h5ad(files[-1])
    store = fitted(folder, files, ["--n-factors", "10", *options], None)
    atlas = an.open_atlas(store)
    truth = np.concatenate([np.asarray(t.obs_column("domain")).astype(str) for t in atlas.tables])
    names = sorted(set(truth))
    for key in EMBEDDINGS:
        for smooth in (0, 6):
            found = tl.domains(atlas, key, n_domains=len(names), smooth=smooth, overwrite=True)
            codes = np.concatenate([column.codes for column in found.values()])
            say("embryo domains", embedding=key, smooth=smooth, ari=adjusted_rand(truth, codes))
    recovered(atlas)
    true = slices[last]
    shares = true.obsm["true_factors"].astype(float) @ true_loadings(hidden).T
    rate = np.log1p(1e4 * shares)
    counts = np.asarray(hidden.X.astype(float).todense())
    totals = counts.sum(axis=1) + np.asarray(true.X.sum(axis=1)).ravel()
    measured = np.log1p(1e4 * counts / np.maximum(totals, 1)[:, None])
    for key in EMBEDDINGS:
        tl.impute(atlas, taken, key, target=last, hidden=0, key_added="imputed", overwrite=True)
        imputed = an.open_atlas(store).table(last).obsm("imputed")
        against = {"truth": rate, "counts": measured}
        scores = {f"r2_{n}": float(np.mean(pearson(v, imputed) ** 2)) for n, v in against.items()}
        medians = {f"median_r2_{n}": float(np.median(pearson(v, imputed) ** 2)) for n, v in against.items()}
        say("embryo imputation", embedding=key, genes=len(taken), **scores, **medians)
    say("embryo imputation", embedding="truth itself", r2_counts=float(np.mean(pearson(measured, rate) ** 2)))


def true_loadings(table: anndata.AnnData) -> np.ndarray:
    return np.asarray(table.varm["true_loadings"], float)


def recovered(atlas: an.store.atlas.Atlas) -> None:
    table = atlas.tables[0]
    found, true = np.asarray(table.varm("inspire_loadings")), np.asarray(table.varm("true_loadings"))
    known = np.isfinite(found).all(axis=1)
    genes = np.asarray(table.var_names()).astype(str)[known]
    match = matched_correlation(found[known], true[known])
    own = specific_genes(true[known], 50)
    sets = {f"programme_{k}": genes[own[:, k]].tolist() for k in range(own.shape[1])}
    rng = np.random.default_rng(0)
    sets |= {f"random_{i}": rng.choice(genes, 40, replace=False).tolist() for i in range(200)}
    ranked = tl.factor_genes(atlas, n_top=50, overwrite=True)
    partner = dict(zip(match.found.tolist(), match.truth.tolist(), strict=True))
    kept = ranked[ranked["specific"]]
    recall, precision = [], []
    for factor, true_factor in partner.items():
        mine = set(kept.loc[kept["factor"] == factor, "gene"])
        planted = set(sets[f"programme_{true_factor}"])
        recall.append(len(mine & planted) / max(len(planted), 1))
        precision.append(len(mine & planted) / max(len(mine), 1))
    enriched = tl.enrichment(atlas, sets, overwrite=True)
    first = {k: enriched[enriched["factor"] == k] for k in partner}
    over = np.mean([first[k].iloc[0]["gene_set"] == f"programme_{t}" for k, t in partner.items()])
    gsea = np.mean(
        [
            first[k].sort_values("normalised_score").iloc[-1]["gene_set"] == f"programme_{t}"
            for k, t in partner.items()
        ]
    )
    say(
        "embryo genes",
        loadings=match.mean,
        own_gene_recall=float(np.mean(recall)),
        own_gene_precision=float(np.mean(precision)),
        programme_first_by_count=float(over),
        programme_first_by_gsea=float(gsea),
    )


def cortex(folder: Path, options: list[str], data: Path) -> None:
    from scipy.stats import spearmanr

    files = [data / f"dlpfc_{name}.h5ad" for name in (151673, 151674)]
    atlas = an.open_atlas(fitted(folder, files, options, None))
    labels = stored_labels(atlas, "layer")
    depth = np.array([LAYERS.index(name) for name in labels.names], float)
    own = np.where(labels.codes >= 0, depth[labels.codes], np.nan)
    slices = atlas.slice_codes()
    for key in EMBEDDINGS:
        for root in ("WM", "Layer1", None):
            found = tl.trajectory(atlas, key, groups="layer", root=root, overwrite=True)
            known = np.isfinite(own) & np.isfinite(found.pseudotime)
            each = [
                abs(float(spearmanr(own[known & (slices == s)], found.pseudotime[known & (slices == s)])[0]))
                for s in range(atlas.n_slices)
            ]
            whole = abs(float(spearmanr(own[known], found.pseudotime[known])[0]))
            say(
                "cortex trajectory",
                embedding=key,
                root=root or "extreme",
                spearman=whole,
                each=np.round(each, 3).tolist(),
            )
        names = [info.name for info in atlas.slices]
        for source, target in (names, names[::-1]):
            moved = tl.label_transfer(atlas, "layer", key, source=source, target=target, overwrite=True)
            say(
                "cortex label transfer",
                embedding=key,
                source=source,
                target=target,
                accuracy=moved.accuracy,
                held_out=moved.held_out_accuracy,
            )
    layers = tl.layer_enrichment(atlas, "layer", overwrite=True)
    best = layers.drop_duplicates("factor")
    named = best[best["layer"] != ""].groupby("layer")["effect"].agg(["size", "max"])
    say(
        "cortex layers",
        **{str(name): [int(r["size"]), round(float(r["max"]), 3)] for name, r in named.iterrows()},
    )
    hidden = tl.impute(atlas, hidden=200, target=atlas.slices[1].name, overwrite=True).scores
    say("cortex hidden genes", **{name: float(hidden[name].mean()) for name in hidden.columns[1:]})


def planes(folder: Path, options: list[str], data: Path) -> None:
    from scipy.spatial import cKDTree

    store = fitted(folder, [data / "seqfish_mouse_embryo2.h5ad"], options, "z")
    part = an.to_anndata(an.open_atlas(store, slice_key="z"))
    place = part.obsm["spatial"].astype(float).copy()
    second = (part.obs["z"] == sorted(set(part.obs["z"]))[1]).to_numpy()
    extent = float(np.ptp(place, axis=0).max())
    part.obsm["spatial"] = place.copy()
    part.obsm["spatial"][second] = turned(40.0).apply(place[second]) + 0.3 * extent
    gap = float(np.median(cKDTree(place[~second]).query(place[~second], k=2)[0][:, 1]))
    for key in EMBEDDINGS:
        for refine in (False, True):
            found = tl.reconstruct_3d(
                an.open_atlas(part, slice_key="z"), key, refine=refine, label_key="cell_type", overwrite=True
            )
            error = np.linalg.norm(part.obsm["aligned_3d"][second, :2] - place[second], axis=1)
            say(
                "planes",
                embedding=key,
                refine=refine,
                mean_error_spacings=float(error.mean() / gap),
                mean_error_of_extent=float(error.mean() / extent),
                **scores_of(found),
            )


def hypothalamus(folder: Path, options: list[str], data: Path) -> None:
    store = fitted(folder, [data / "merfish_hypothalamus_2slices.h5ad"], options, "slice")
    atlas = an.open_atlas(store, slice_key="slice")
    for key in EMBEDDINGS:
        for refine in (False, True):
            found = tl.reconstruct_3d(atlas, key, refine=refine, label_key="cell_class", overwrite=True)
            say("hypothalamus", embedding=key, refine=refine, **scores_of(found))


def scores_of(found: object) -> dict[str, object]:
    row = found.scores.iloc[0].drop(["slice", "onto"])  # type: ignore[attr-defined]
    return {str(name): float(value) for name, value in row.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--parts", default="embryo,cortex,planes,hypothalamus")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("ATLASNMF_DATA", ".")))
    parser.add_argument("--steps", default="500")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print(json.dumps({"machine": machine(), "steps": int(args.steps), "seed": args.seed}), flush=True)
    options = ["--steps", args.steps, "--seed", str(args.seed)]
    for part in args.parts.split(","):
        with tempfile.TemporaryDirectory() as folder:
            if part == "embryo":
                embryo(Path(folder), options, args.seed)
            else:
                {"cortex": cortex, "planes": planes, "hypothalamus": hypothalamus}[part](
                    Path(folder), options, args.data
                )


if __name__ == "__main__":
    main()
