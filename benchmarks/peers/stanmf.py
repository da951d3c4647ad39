"""The stability study as published, one scikit-learn fit after the other, and here, on the same genes.

usage: python benchmarks/peers/stanmf.py DATA [--ranks 4-12] [--replicates 8] [--published-replicates 8]

DATA is an h5ad file or a SpatialData store; its counts are log-normalised and held dense for the published
procedure: NMF(init="nndsvda", solver="cd", tol=1e-4, max_iter=200) on every resampled matrix, float64. Set
the threads outside (OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1) and compare processor times. The published fits
are the long part: they are kept in the folder --cache, fit by fit, and not repeated; --paths none runs them
alone. With fewer published replicates than replicates their time is scaled up to as many; the curve is then
that of fewer fits.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

sys.path.insert(0, str(Path(__file__).parents[1] / "scale"))
from processes import machine

from atlasnmf.batches.passes import Passes
from atlasnmf.batches.sources import HeldCsr, SpotSource
from atlasnmf.models.stanmf.instability import Instability, choose_rank, instability
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


def published(
    counts: scipy.sparse.csr_matrix, ranks: list[int], n_fits: int, folder: Path
) -> dict[int, list[dict[str, Any]]]:
    """Run the published procedure, a fit of every rank in turn, or take its fits from the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    dense: np.ndarray | None = None
    fits: dict[int, list[dict[str, Any]]] = {rank: [] for rank in ranks}
    for fit in range(n_fits):
        for rank in ranks:
            kept = folder / f"rank{rank}_fit{fit}.npz"
            if not kept.exists():
                dense = log_values(counts) if dense is None else dense
                _fit_published(dense, rank, fit, kept)
            with np.load(kept) as found:
                fits[rank].append({name: found[name] for name in found.files})
    return fits


def log_values(counts: scipy.sparse.csr_matrix) -> np.ndarray:
    """Return log1p of counts per 10^4, dense, float64."""
    values = scipy.sparse.diags(1e4 / np.asarray(counts.sum(axis=1)).ravel()) @ counts.astype(np.float64)
    values.data = np.log1p(values.data)
    return values.toarray()


def _fit_published(dense: np.ndarray, rank: int, fit: int, kept: Path) -> None:
    from sklearn.decomposition import NMF

    draws = gene_draws(0, rank, fit, dense.shape[1]).astype(int)
    drawn = dense[:, np.repeat(np.arange(dense.shape[1]), draws)]
    start = time.process_time()
    model = NMF(rank, init="nndsvda", solver="cd", tol=1e-4, max_iter=200, random_state=0)
    patterns = model.fit_transform(drawn)
    spent = time.process_time() - start
    loss = model.reconstruction_err_**2 / (drawn**2).sum()
    partial = kept.with_suffix(".part.npz")
    np.savez(partial, patterns=patterns.astype(np.float32), loss=loss, cpu_s=spent, iterations=model.n_iter_)
    partial.rename(kept)
    print(f"published, rank {rank}, fit {fit}: {spent:.1f} s, {model.n_iter_} iterations", flush=True)


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
    parser.add_argument("--paths", default="compressed,exact", help="none: the published side alone")
    parser.add_argument("--cache", type=Path, default=Path("published_stanmf"))
    parser.add_argument("--exact-iterations", type=int)
    parser.add_argument("--anchor-every", type=int)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    counts, ranks = read(args.data), list(parse_ranks(args.ranks))
    n_published = args.published_replicates or args.replicates
    print(f"{counts.shape[0]} spots x {counts.shape[1]} genes; {machine()}", flush=True)
    given = {"exact_iterations": args.exact_iterations, "anchor_every": args.anchor_every}
    given = {name: value for name, value in given.items() if value is not None}
    rows = {}
    for path in args.paths.split(",") if args.paths != "none" else []:
        rows[path] = ours(counts, ranks=ranks, replicates=args.replicates, path=path, **given)
        curve = [round(entry["hungarian_mean"], 4) for entry in rows[path][0]]
        print(f"{path}: {rows[path][1]:.0f} s", curve, flush=True)
    fits = published(counts, ranks, n_published, args.cache)
    spent = sum(fit["cpu_s"] for rank in ranks for fit in fits[rank]) * args.replicates / n_published
    scaled = " (scaled up)" if n_published < args.replicates else ""
    old = {rank: curve_of(fits[rank]) for rank in ranks}
    best = choose_rank(ranks, [old[rank].hungarian_mean for rank in ranks])
    print(f"published: {spent:.0f} s of processor time{scaled}, rank {best}")
    for path, (curve, seconds, rank) in rows.items():
        print(f"{path}: {seconds:.0f} s, {spent / seconds:.1f}x as fast, rank {rank}")
        print("rank  published (sd)   here (sd)        difference  largest difference of a fit's loss")
        for entry in curve:
            there = old[entry["rank"]]
            losses = zip(entry["losses"], fits[entry["rank"]], strict=False)
            loss = max(abs(mine / fit["loss"] - 1) for mine, fit in losses)
            print(
                f"{entry['rank']:4d}  {there.hungarian_mean:.4f} ({there.hungarian_sd:.4f})  "
                f"{entry['hungarian_mean']:.4f} ({entry['hungarian_sd']:.4f})  "
                f"{entry['hungarian_mean'] - there.hungarian_mean:+.4f}     {loss:.3%}"
            )


def curve_of(fits: list[dict[str, Any]]) -> Instability:
    """Return how much the patterns of some fits differ."""
    patterns = np.concatenate([fit["patterns"] for fit in fits], axis=1).astype(np.float64)
    return instability(patterns.T @ patterns, len(fits))


if __name__ == "__main__":
    main()
