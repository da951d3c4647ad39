"""A labelled atlas in memory, from h5ad files: facts and batches as the pipeline makes them, by scipy.

For experiments on models only: dense where that is simplest, so for tens of thousands of spots at most.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anndata
import numpy as np
import scanpy as sc
import scipy.sparse as sp
from scipy.spatial import cKDTree

from atlasnmf.graph.scale import default_radius
from atlasnmf.schema import AtlasFacts, Csr, SliceBatch
from atlasnmf.seeds import rng_for


def data_dir() -> Path:
    here = Path(__file__).resolve().parents[2]
    return Path(os.environ.get("ATLASNMF_DATA", here.parent / "shared" / "data"))


@dataclass
class MemoryAtlas:
    """Slices in memory; see :class:`atlasnmf.schema.SliceBatch` for the arrays."""

    facts: AtlasFacts
    counts: list[sp.csr_matrix]
    totals: list[np.ndarray]
    scores: list[np.ndarray]
    smoothed: list[list[sp.csr_matrix]]
    graphs: list[sp.csr_matrix]
    coords: list[np.ndarray]
    labels: list[np.ndarray]
    extras: dict = field(default_factory=dict)

    def batch(self, s: int, rows: np.ndarray, halo: int = 0, hops: int = 0) -> SliceBatch:
        rings = [len(rows)]
        everything = rows
        for _ in range(halo):
            reached = np.unique(self.graphs[s][everything].indices)
            everything = np.concatenate([everything, np.setdiff1d(reached, everything)])
            rings.append(len(everything))
        graph = None
        if halo:
            place = np.full(self.counts[s].shape[0], -1)
            place[everything] = np.arange(len(everything))
            part = self.graphs[s][everything[: rings[-2]]]
            graph = Csr(part.indptr.astype(np.int64), place[part.indices], part.data, len(everything))
        return SliceBatch(
            slice_index=s,
            rows=everything,
            rings=tuple(rings),
            counts=Csr.from_scipy(self.counts[s][everything]),
            totals=self.totals[s][everything].astype(np.float32),
            scores=self.scores[s][everything].astype(np.float32),
            smoothed=tuple(Csr.from_scipy(x[everything]) for x in self.smoothed[s][:hops]),
            graph=graph,
        )

    def whole(self, s: int, halo: int = 0, hops: int = 0) -> SliceBatch:
        return self.batch(s, np.arange(self.counts[s].shape[0]), halo, hops)

    def tile_rows(self, s: int, size: int) -> list[np.ndarray]:
        """Compact runs of spots, as Hilbert tiles are: recursive halving along the longer side."""
        parts = [np.arange(len(self.coords[s]))]
        while max(len(part) for part in parts) > size:
            halves = []
            for part in parts:
                xy = self.coords[s][part]
                axis = int(np.argmax(np.ptp(xy, axis=0)))
                order = part[np.argsort(xy[:, axis], kind="stable")]
                halves += [np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])]
            parts = halves
        return parts

    def units(
        self, n: int, seed: int, *, halo: int = 0, hops: int = 0, start: int = 0, block: int = 64
    ) -> Iterator[list[SliceBatch]]:
        """Units of a few tiles a slice: small blocks without a halo, large tiles with one."""
        size = block if not halo else n
        tiles = [self.tile_rows(s, size) for s in range(len(self.counts))]
        step = start
        while True:
            unit = []
            for s, parts in enumerate(tiles):
                rng = rng_for(seed, "memory", s, step)
                want = max(1, round(n / (len(self.counts[s].indptr) - 1) * len(parts)))
                chosen = rng.choice(len(parts), min(want, len(parts)), replace=False)
                rows = np.concatenate([parts[c] for c in np.sort(chosen)])
                unit.append(self.batch(s, rows, halo, hops))
            yield unit
            step += 1

    def sample(self, n: int, seed: int, *, halo: int = 0, hops: int = 0) -> list[SliceBatch]:
        out = []
        for s in range(len(self.counts)):
            size = self.counts[s].shape[0]
            rows = np.sort(rng_for(seed, "sample", s).choice(size, min(n, size), replace=False))
            out.append(self.batch(s, rows, halo, hops))
        return out


def load_slices(
    files: Sequence[str], label: str | None, slice_key: str | None = None
) -> list[anndata.AnnData]:
    tables = []
    for file in files:
        table = anndata.read_h5ad(data_dir() / f"{file}.h5ad")
        if slice_key is None:
            tables.append(table)
        else:
            keys = table.obs[slice_key].astype(str)
            tables += [table[(keys == key).to_numpy()].copy() for key in sorted(keys.unique())]
    for table in tables:
        names = table.obs[label].astype(object).to_numpy() if label else np.full(table.n_obs, None)
        table.obs["_label"] = [name if isinstance(name, str) else None for name in names]
    return tables


def shared_variable_genes(tables: Sequence[anndata.AnnData], n_hvgs: int, min_spots: int = 3) -> list[str]:
    """seurat_v3 per slice on raw counts, then the intersection; 0 takes all shared genes."""
    shared: set[str] | None = None
    for table in tables:
        keep = np.asarray((table.X > 0).sum(0)).ravel() >= min_spots
        keep &= ~table.var_names.str.upper().str.startswith("MT-")
        kept = table[:, keep].copy()
        names = set(kept.var_names)
        if 0 < n_hvgs < kept.n_vars:
            flags = sc.pp.highly_variable_genes(kept, flavor="seurat_v3", n_top_genes=n_hvgs, inplace=False)
            names = set(kept.var_names[flags.highly_variable.to_numpy()])
        shared = names if shared is None else shared & names
    return sorted(shared or ())


def neighbour_graph(coords: np.ndarray) -> sp.csr_matrix:
    """Neighbours within the radius the pipeline would choose; self included; data = A~ weights."""
    n = len(coords)
    pairs = cKDTree(coords).query_pairs(default_radius([coords])[0], output_type="ndarray")
    ends = np.concatenate([pairs, pairs[:, ::-1], np.repeat(np.arange(n), 2).reshape(-1, 2)])
    graph = sp.csr_matrix((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(n, n))
    degree = np.asarray(graph.sum(1)).ravel()
    scale = sp.diags(1 / np.sqrt(degree))
    weighted = (scale @ graph @ scale).tocsr()
    weighted.sort_indices()
    return weighted


def averaging(graph: sp.csr_matrix) -> sp.csr_matrix:
    """D^-1 A of the same neighbours."""
    pattern = graph.copy()
    pattern.data = np.ones_like(pattern.data)
    return sp.diags(1 / np.asarray(pattern.sum(1)).ravel()) @ pattern


def build_atlas(
    tables: Sequence[anndata.AnnData],
    *,
    n_hvgs: int = 6000,
    hops: int = 2,
    n_components: int = 32,
    smooth_hops: int | None = None,
    gene_hops: int = 0,
    target_sum: float = 1e4,
    scale_genes: str = "none",
    centre: bool = True,
) -> MemoryAtlas:
    """Make facts and features; components are of the log counts averaged ``smooth_hops`` times."""
    genes = shared_variable_genes(tables, n_hvgs)
    counts, totals, coords, labels, graphs, logs, smoothed = [], [], [], [], [], [], []
    for table in tables:
        matrix = table.X.tocsr()
        total = np.asarray(matrix.sum(1)).ravel()
        y = matrix[:, table.var_names.get_indexer(genes)].astype(np.float32).tocsr()
        y.sort_indices()
        graph = neighbour_graph(np.asarray(table.obsm["spatial"], float))
        x = sp.diags(target_sum / np.maximum(total, 1)) @ y
        x = x.tocsr()
        x.data = np.log1p(x.data)
        chain = []
        for _ in range(gene_hops):
            chain.append((graph @ (chain[-1] if chain else x)).astype(np.float32).tocsr())
        counts.append(y)
        totals.append(total)
        coords.append(np.asarray(table.obsm["spatial"], float))
        labels.append(table.obs["_label"].to_numpy(object))
        graphs.append(graph)
        logs.append(x.astype(np.float64))
        smoothed.append(chain)
    rounds = hops if smooth_hops is None else smooth_hops
    averaged = []
    for x, graph in zip(logs, graphs, strict=True):
        mean = averaging(graph)
        for _ in range(rounds):
            x = mean @ x
        averaged.append(x)
    centres = np.stack([np.asarray(x.mean(0)).ravel() for x in averaged])
    if not centre:
        centres = np.repeat(centres.mean(0, keepdims=True), len(tables), 0)
    n_all = sum(x.shape[0] for x in averaged)
    cov = sum(
        (x.T @ x).toarray() - x.shape[0] * np.outer(m, m) for x, m in zip(averaged, centres, strict=True)
    )
    cov = cov / n_all
    raw = sum(np.asarray(x.multiply(x).sum(0)).ravel() for x in logs)
    raw_means = np.stack([np.asarray(x.mean(0)).ravel() for x in logs])
    raw = raw / n_all - sum(x.shape[0] * m * m for x, m in zip(logs, raw_means, strict=True)) / n_all
    spread = {
        "none": np.ones(len(genes)),
        "smooth": np.sqrt(np.maximum(np.diag(cov), 1e-12)),
        "raw": np.sqrt(np.maximum(raw, 1e-12)),
        "noise": np.sqrt(np.maximum(raw - np.diag(cov), 1e-12)),
        "mean": np.sqrt(np.maximum(centres.mean(0), 1e-12)),
    }[scale_genes]
    values, vectors = np.linalg.eigh(cov / np.outer(spread, spread))
    components = vectors[:, ::-1][:, :n_components] / spread[:, None]
    scores = []
    for x, graph, m in zip(logs, graphs, centres, strict=True):
        mean = averaging(graph)
        levels = [x @ components - m @ components]
        for _ in range(hops):
            levels.append(mean @ levels[-1])
        scores.append(np.stack(levels, 1))
    facts = AtlasFacts(
        slices=tuple(f"slice{s}" for s in range(len(tables))),
        n_spots=np.array([len(c) for c in coords]),
        genes=tuple(genes),
        gene_mask=np.ones((len(tables), len(genes)), bool),
        gene_sums=np.stack([np.asarray(y.sum(0), float).ravel() for y in counts]),
        nnz_per_spot=float(np.mean([y.nnz / y.shape[0] for y in counts])),
        components=components.astype(np.float32),
        centres=centres.astype(np.float32),
        component_scale=np.sqrt(np.maximum(values[::-1][:n_components], 1e-12)).astype(np.float32),
        target_sum=target_sum,
    )
    return MemoryAtlas(facts, counts, totals, scores, smoothed, graphs, coords, labels)
