"""What the analyses cost at atlas scale, one JSON line each: ``python benchmarks/scale/analysis.py``.

Domains, label transfer and a trajectory of a million spots in 32 dimensions, genes that differ between
domains, and the enrichment of 60 factors in 5000 sets of genes, each in a process of its own so that its peak
memory is its own. ``seconds`` is the analysis by the clock, ``process_cpu_s`` the processor time of its whole
process, imports and compiling included.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from processes import atlasnmf, machine, measure

from atlasnmf.schema import Csr
from atlasnmf.store.writer import create_store


def write_store(path: Path, n_spots: int, n_dims: int, n_groups: int = 16) -> None:
    """Two slices with an embedding of overlapping groups; one gene, so that counts cost nothing."""
    import pandas as pd

    rng = np.random.default_rng(0)
    # groups along a bent line, so that there is something to follow
    turns = np.linspace(0, 3, n_groups)[:, None] * rng.uniform(0.5, 1.5, n_dims)
    centres = 6.0 * np.cos(turns + rng.uniform(0, 6, n_dims))
    with create_store(path, overwrite=True) as store:
        for name in ("slice_1", "slice_2"):
            table = store.table(name, n_genes=1)
            n_own, labels = n_spots // 2, []
            for start in range(0, n_own, 65_536):
                n = min(65_536, n_own - start)
                groups = rng.integers(0, n_groups, n)
                labels.append(groups)
                rows = (centres[groups] + rng.normal(size=(n, n_dims))).astype(np.float32)
                ones = Csr(np.arange(n + 1), np.zeros(n, np.int32), np.ones(n, np.float32), 1)
                table.append(ones, obsm={"X_inspire": rows, "spatial": rng.uniform(size=(n, 2))})
            names = [f"{name}_{i}" for i in range(n_own)]
            codes = pd.Categorical.from_codes(np.concatenate(labels), [f"group_{g}" for g in range(n_groups)])
            obs = pd.DataFrame({"group": codes}, index=names)
            table.close(obs=obs, var=pd.DataFrame(index=["gene"]))


def domains(path: Path, method: str) -> dict[str, object]:
    from atlasnmf import open_atlas, tl

    start = time.perf_counter()
    tl.domains(open_atlas(path), "X_inspire", n_domains=16, method=method, key_added=f"by_{method}")
    return {"seconds": round(time.perf_counter() - start, 2)}


def label_transfer(path: Path) -> dict[str, object]:
    from atlasnmf import open_atlas, tl

    start = time.perf_counter()
    found = tl.label_transfer(open_atlas(path), "group", source="slice_1", target="slice_2")
    return {"seconds": round(time.perf_counter() - start, 2), "accuracy": round(found.accuracy, 4)}


def trajectory(path: Path) -> dict[str, object]:
    from scipy.stats import spearmanr

    from atlasnmf import open_atlas, tl

    atlas = open_atlas(path)
    start = time.perf_counter()
    found = tl.trajectory(atlas, groups="group", root="group_0")
    seconds = time.perf_counter() - start
    order = [int(name.split("_")[1]) for name in found.groups]
    rank = abs(float(spearmanr(order, found.mean_pseudotime)[0]))
    return {"seconds": round(seconds, 2), "order_of_groups": round(rank, 3)}


def differential(path: Path, method: str) -> dict[str, object]:
    from atlasnmf import open_atlas, tl

    atlas = open_atlas(path)
    start = time.perf_counter()
    found = tl.differential(atlas, "domain", method=method, key_added=f"by_{method}")
    return {"seconds": round(time.perf_counter() - start, 2), "n_tests": len(found)}


def enrichment(n_factors: int, n_sets: int, n_genes: int) -> dict[str, object]:
    import anndata

    from atlasnmf import tl

    rng = np.random.default_rng(0)
    genes = np.array([f"g{i}" for i in range(n_genes)])
    sizes = rng.integers(15, 500, n_sets)
    sets = {f"s{i}": rng.choice(genes, size, replace=False) for i, size in enumerate(sizes)}
    adata = anndata.AnnData(
        np.ones((2, n_genes), np.float32), obsm={"inspire_factors": np.ones((2, n_factors))}
    )
    adata.var_names = genes
    adata.varm["inspire_loadings"] = rng.gamma(0.3, size=(n_genes, n_factors))
    tl.enrichment(adata, {"warm": genes[:20]}, n_permutations=2, key_added="warm")
    start = time.perf_counter()
    found = tl.enrichment(adata, sets)
    return {"seconds": round(time.perf_counter() - start, 2), "n_tests": len(found)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spots", type=int, default=1_000_000)
    parser.add_argument("--counted", type=int, default=200_000, help="spots with counts")
    parser.add_argument("--sets", type=int, default=5_000)
    parser.add_argument("--only", help="run one part in this process", default=None)
    parser.add_argument("--store", type=Path, default=None)
    options = parser.parse_args()
    if options.only is not None:
        kind, _, method = options.only.partition(":")
        parts = {"domains": domains, "differential": differential}
        if kind == "enrichment":
            found = enrichment(60, options.sets, 6_000)
        elif kind in parts:
            found = parts[kind](options.store, method)
        else:
            found = {"label_transfer": label_transfer, "trajectory": trajectory}[kind](options.store)
        print(json.dumps(found))
        return
    print(json.dumps({"machine": machine()}), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        store, embryo = Path(folder) / "large.zarr", Path(folder) / "embryo.zarr"
        write_store(store, options.spots, 32)
        shape = ["--n-spots", str(options.counted), "--n-genes", "1000", "--n-slices", "2"]
        measure(atlasnmf("simulate", "embryo", str(embryo), *shape))
        large = {"spots": options.spots, "dims": 32}
        counted = {"spots": options.counted, "genes": 1000}
        sets = {"factors": 60, "sets": options.sets, "genes": 6_000, "permutations": 1000}
        runs = [
            ("domains:mixture", store, large),
            ("domains:leiden", store, large),
            ("label_transfer", store, large),
            ("trajectory", store, large),
            ("differential:welch", embryo, counted),
            ("differential:wilcoxon", embryo, counted),
            ("enrichment", store, sets),
        ]
        for part, where, sizes in runs:
            again = [sys.executable, __file__, "--sets", str(options.sets), "--store", str(where), "--only"]
            cost = measure([*again, part])
            own = {"process_cpu_s": round(cost.cpu_s, 1), "peak_gb": round(cost.peak_bytes / 1e9, 2)}
            figures = json.loads(cost.stdout) | own
            print(json.dumps({"part": part, **sizes, **figures}), flush=True)


if __name__ == "__main__":
    main()
