"""Preranked GSEA of one ranking, by gseapy and by ours, side by side.

usage: python benchmarks/peers/gsea.py [--sets 100] [--genes 6000] [--permutations 1000]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import gseapy
import numpy as np
import pandas as pd

from atlasnmf.metrics import preranked_gsea

sys.path.insert(0, str(Path(__file__).parents[1] / "scale"))
from processes import machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sets", type=int, default=100)
    parser.add_argument("--genes", type=int, default=6_000)
    parser.add_argument("--permutations", type=int, default=1_000)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    genes = np.array([f"g{i}" for i in range(args.genes)])
    sizes = rng.integers(15, 500, args.sets)
    members = [np.sort(rng.choice(args.genes, size, replace=False)) for size in sizes]
    statistics = rng.normal(size=(args.genes, 1))
    starts = np.cumsum([0, *sizes])
    preranked_gsea(statistics, members[0], np.array([0, sizes[0]]), n_permutations=2)  # compiles
    start, used = time.perf_counter(), time.process_time()
    ours = preranked_gsea(statistics, np.concatenate(members), starts, n_permutations=args.permutations)
    ours_s, ours_cpu = time.perf_counter() - start, time.process_time() - used
    start, used = time.perf_counter(), time.process_time()
    theirs = gseapy.prerank(
        rnk=pd.Series(statistics[:, 0], index=genes).sort_values(ascending=False),
        gene_sets={f"s{i}": genes[own].tolist() for i, own in enumerate(members)},
        permutation_num=args.permutations,
        min_size=1,
        max_size=1_000,
        outdir=None,
        no_plot=True,
        seed=0,
        threads=1,
    ).res2d.set_index("Term")
    theirs_s, theirs_cpu = time.perf_counter() - start, time.process_time() - used
    score = theirs.loc[[f"s{i}" for i in range(args.sets)], "ES"].astype(float).to_numpy()
    record = {
        "machine": machine(),
        "sets": args.sets,
        "gseapy_s": round(theirs_s, 2),
        "gseapy_cpu_s": round(theirs_cpu, 2),
        "ours_s": round(ours_s, 2),
        "ours_cpu_s": round(ours_cpu, 2),
        "largest_difference_of_scores": float(np.abs(score - ours.score[0]).max()),
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
