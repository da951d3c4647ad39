"""Two small slices of one tissue, as units of whole slices or of tiles with their halo."""

import numpy as np
import scipy.sparse as sp
from scipy.spatial import cKDTree

from atlasnmf.batches.halos import halo_batch
from atlasnmf.batches.sources import HeldCsr, HeldDense, SpotSource
from atlasnmf.schema import AtlasFacts, Csr, Frame
from atlasnmf.seeds import rng_for

N, G, P, HALO = 240, 30, 6, 4


def slices(n_slices=2):
    """Return what a model knows of the slices, and the rows."""
    offsets = np.arange(n_slices + 1) * N
    points, counts, scores, graphs, degrees = [], [], [], [], []
    loadings = np.linalg.qr(rng_for(0, "small", "loadings").standard_normal((G, P)))[0]
    for s in range(n_slices):
        rng = rng_for(0, "small", s)
        own = rng.uniform(size=(N, 2))
        own = own[np.argsort(own[:, 0])]  # a run of rows is a strip of the slice
        domain = (own[:, 0] * 4).astype(int)
        rate = 0.5 + 3.0 * (np.arange(G)[None] % 4 == domain[:, None])
        y = rng.poisson(rate).astype(np.float32)
        near = sp.csr_matrix(cKDTree(own).sparse_distance_matrix(cKDTree(own), 0.09) > 0)
        near = (near + sp.eye(N)).tocsr()
        near.data[:] = 1
        near.sort_indices()
        mean = sp.diags(1 / np.asarray(near.sum(1)).ravel()) @ near
        levels = [np.log1p(y) @ loadings]
        levels.append(mean @ levels[0])
        points.append(own)
        counts.append(y)
        scores.append(np.stack(levels, 1) - levels[1].mean(0))
        graphs.append(sp.csr_matrix(near))
        degrees.append(np.asarray(near.sum(1)).ravel())
    graph = sp.block_diag(graphs, format="csr")
    whole = SpotSource(
        offsets=offsets,
        counts=HeldCsr(Csr.from_scipy(sp.csr_matrix(np.concatenate(counts)))),
        totals=np.concatenate(counts).sum(1).astype(np.float32),
        scores=HeldDense(np.concatenate(scores).astype(np.float32)),
        smoothed=(),
        graph=HeldCsr(
            Csr(graph.indptr.astype(np.int64), graph.indices, graph.data.astype(np.uint8), graph.shape[1])
        ),
        degrees=np.concatenate(degrees).astype(np.float32),
    )
    spread = np.concatenate(scores)[:, -1].std(0).astype(np.float32)
    facts = AtlasFacts(
        slices=tuple("abcd"[:n_slices]),
        n_spots=np.full(n_slices, N),
        genes=tuple(f"g{g}" for g in range(G)),
        gene_mask=np.ones((n_slices, G), bool),
        gene_sums=np.ones((n_slices, G)),
        nnz_per_spot=10.0,
        components=loadings.astype(np.float32),
        centres=np.zeros((n_slices, G), np.float32),
        component_scale=spread,
        frame=Frame(
            np.concatenate(points),
            np.full(n_slices, 0.03),
            np.ones(n_slices, bool),
            tuple({"method": "none", "score": 1.0} for _ in range(n_slices)),
        ),
        kinds=np.zeros(n_slices, np.int64),
    )
    return facts, whole


def units(source, n_rows=N):
    """Return units that go over every slice once, in tiles of so many rows."""
    n_slices = len(source.offsets) - 1
    return [
        [halo_batch(source, s, s * N + start, s * N + min(start + n_rows, N), HALO) for s in range(n_slices)]
        for start in range(0, N, n_rows)
    ]
