"""Linking patterns to regions with every touching pair and every connected triple: seconds and unions.

usage: python benchmarks/linking.py [--annotated GRID.h5ad] [--n-regions 800] [--n-patterns 11]

Without a file, a made grid of about 60,000 voxels with two levels of regions is used.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

from atlasnmf.analysis.region_unions import link_regions, search_unions
from atlasnmf.analysis.regions import regions_of
from atlasnmf.graph.grid import grid_graph
from atlasnmf.schema import Csr
from atlasnmf.simulate.volume import annotated_grid, made_grid

sys.path.insert(0, str(Path(__file__).parent / "scale"))
from processes import machine


def _reaching(graph: Csr, steps: int) -> Csr:
    """Join voxels that so many steps lead to."""
    walked = edges = graph.to_scipy().astype(bool)
    for _ in range(steps - 1):
        walked = (walked + walked @ edges).astype(bool)
    return Csr.from_scipy(walked)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--annotated", help="h5ad file of an annotated grid")
    parser.add_argument("--n-regions", type=int, default=800, help="regions of all levels, about")
    parser.add_argument("--n-patterns", type=int, default=11)
    parser.add_argument("--shape", default="60,40,50")
    parser.add_argument("--connectivity", type=int, default=1, help="1 faces, 2 edges, 3 corners")
    parser.add_argument("--dilations", type=int, default=1, help="regions touch within so many voxels")
    args = parser.parse_args()
    if args.annotated:
        painted = annotated_grid(args.annotated)
    else:
        x, y, z = (int(size) for size in args.shape.split(","))
        painted = made_grid((x, y, z), int(args.n_regions * 0.8), seed=0)
    mask = painted.regions > 0
    rng = np.random.default_rng(0)
    patterns = rng.gamma(0.5, size=(int(mask.sum()), args.n_patterns)).astype(np.float32)
    numbers = painted.regions[mask]
    warm = np.array([str(number) for number in numbers[:50]])
    link_regions(patterns[:50], regions_of(warm, grid_graph(np.argwhere(mask)[:50])))  # compiles

    start = time.perf_counter()
    regions = regions_of(
        [painted.ontology.acronym(int(number)) for number in numbers],
        _reaching(grid_graph(np.argwhere(mask), connectivity=args.connectivity), args.dilations),
        ontology=painted.ontology,
    )
    gathered = time.perf_counter()
    links = link_regions(patterns, regions)
    linked = time.perf_counter()
    search_unions(patterns, regions)
    searched = time.perf_counter()
    record = {
        "n_voxels": int(mask.sum()),
        "n_regions": len(links.regions),
        "n_patterns": args.n_patterns,
        "n_pairs": links.n_unions[1],
        "n_triples": links.n_unions[2],
        "regions_s": round(gathered - start, 2),
        "link_s": round(linked - gathered, 2),
        "beam_search_s": round(searched - linked, 2),
        "machine": machine(),
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
