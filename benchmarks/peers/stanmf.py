"""The stability study as published, one scikit-learn fit after the other, and here, on the same genes.

usage: python benchmarks/peers/stanmf.py DATA [--ranks 4-12] [--replicates 8] [--published-replicates 8]

DATA is an h5ad file or a SpatialData store; its counts are log-normalised and held dense for the published
procedure: NMF(init="nndsvda", solver="cd", tol=1e-4, max_iter=200) on every resampled matrix, float64. Set
the threads outside (OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1) and compare processor times. The published fits
are the long part: they are kept in --cache, rank by rank, and not repeated. With fewer published replicates
than replicates their time is scaled up to as many; the curve is then compared with --replicates as few.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import scipy.sparse

sys.path.insert(0, str(Path(__file__).parents[1] / "scale"))
from processes import machine

from atlasnmf.batches.passes import Passes
from atlasnmf.batches.sources import HeldCsr, SpotSource
from atlasnmf.models.stanmf.instability import instability
from atlasnmf.models.stanmf.method import build
from atlasnmf.models.stanmf.params import Params, parse_ranks
from atlasnmf.models.stanmf.perturb import gene_draws
from atlasnmf.pipeline.sizes import tile_spots
from atlasnmf.schema import AtlasFacts, Csr
from atlasnmf.tiles.plan import plan_tiles
from atlasnmf.train import loop


def read(path: str) -> scipy.sparse.csr_matrix:
    """Return the counts of all tables, spots x genes."""
    if path.endswith(".h5ad"):
        import anndata

        return scipy.sparse.csr_matrix(anndata.read_h5ad(path).X)
    import spatialdata

    tables = spatialdata.read_zarr(path).tables.values()
    return scipy.sparse.vstack([scipy.sparse.csr_matrix(table.X) for table in tables]).tocsr()


def published(counts: scipy.sparse.csr_matrix, ranks: list[int], n_fits: int, cache: Path) -> dict[str, dict]:
    """Run the published procedure, or take its fits from the cache."""
    from sklearn.decomposition import NMF

    done = json.loads(cache.read_text()) if cache.exists() else {}
    totals = np.asarray(counts.sum(axis=1)).ravel()
    values = scipy.sparse.diags(1e4 / totals) @ counts.astype(np.float64)
    values.data = np.log1p(values.data)
    dense = values.toarray()
    for rank in ranks:
        if str(rank) in done:
            continue
        patterns, losses, spent = [], [], 0.0
        for fit in range(n_fits):
            draws = gene_draws(0, rank, fit, dense.shape[1]).astype(int)
            drawn = dense[:, np.repeat(np.arange(dense.shape[1]), draws)]
            start = time.process_time()
            model = NMF(rank, init="nndsvda", solver="cd", tol=1e-4, max_iter=200, random_state=0)
            patterns.append(model.fit_transform(drawn))
            spent += time.process_time() - start
            losses.append(float(model.reconstruction_err_**2 / (drawn**2).sum()))
        stacked = np.concatenate(patterns, axis=1)
        found = instability(stacked.T @ stacked, n_fits)
        done[str(rank)] = {**vars(found), "losses": losses, "cpu_s": spent}
        cache.write_text(json.dumps(done))
        print(f"published, rank {rank}: {spent:.0f} s, instability {found.hungarian_mean:.4f}", flush=True)
    return done


def ours(counts: scipy.sparse.csr_matrix, **params: object) -> tuple[list[dict], float, int]:
    """Run the study here, rows in memory; return the curve, processor seconds and the chosen rank."""
    offsets = np.array([0, counts.shape[0]])
    totals = np.asarray(counts.sum(axis=1)).ravel().astype(np.float32)
    source = SpotSource(offsets, HeldCsr(Csr.from_scipy(counts.astype(np.uint16))), totals)
    n_genes = counts.shape[1]
    facts = AtlasFacts(
        ("all",),
        np.array([counts.shape[0]]),
        tuple(map(str, range(n_genes))),
        np.ones((1, n_genes), dtype=bool),
        np.asarray(counts.sum(axis=0)),
        counts.nnz / counts.shape[0],
    )
    model = build(Params(**params), facts, "cpu", 0)
    passes = Passes(source, plan_tiles(offsets, tile_spots(counts.shape[0])))
    start = time.process_time()
    state = loop.run(model.method, passes, sample=lambda: [source.batch(0, source.read(0, 64))])
    return state.curve, time.process_time() - start, state.rank


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--ranks", default="4-12")
    parser.add_argument("--replicates", type=int, default=8)
    parser.add_argument("--published-replicates", type=int)
    parser.add_argument("--paths", default="compressed,exact")
    parser.add_argument("--cache", type=Path, default=Path("published_stanmf.json"))
    parser.add_argument("--exact-iterations", type=int)
    parser.add_argument("--anchor-every", type=int)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    counts, ranks = read(args.data), list(parse_ranks(args.ranks))
    n_published = args.published_replicates or args.replicates
    print(f"{counts.shape[0]} spots x {counts.shape[1]} genes; {machine()}")
    given = {"exact_iterations": args.exact_iterations, "anchor_every": args.anchor_every}
    given = {name: value for name, value in given.items() if value is not None}
    rows = {}
    for path in args.paths.split(","):
        rows[path] = ours(counts, ranks=ranks, replicates=args.replicates, path=path, **given)
        curve = [round(entry["hungarian_mean"], 4) for entry in rows[path][0]]
        print(f"{path}: {rows[path][1]:.0f} s", curve, flush=True)
    old = published(counts, ranks, n_published, args.cache)
    spent = sum(old[str(rank)]["cpu_s"] for rank in ranks) * args.replicates / n_published
    scaled = " (scaled up)" if n_published < args.replicates else ""
    print(f"published: {spent:.0f} s of processor time{scaled}")
    for path, (curve, seconds, rank) in rows.items():
        print(f"{path}: {seconds:.0f} s, {spent / seconds:.1f}x as fast, rank {rank}")
        print("rank  published (sd)   here (sd)        difference  largest difference of a fit's loss")
        for entry in curve:
            there = old[str(entry["rank"])]
            loss = max(abs(a / b - 1) for a, b in zip(entry["losses"], there["losses"], strict=False))
            print(
                f"{entry['rank']:4d}  {there['hungarian_mean']:.4f} ({there['hungarian_sd']:.4f})  "
                f"{entry['hungarian_mean']:.4f} ({entry['hungarian_sd']:.4f})  "
                f"{entry['hungarian_mean'] - there['hungarian_mean']:+.4f}     {loss:.3%}"
            )


if __name__ == "__main__":
    main()
