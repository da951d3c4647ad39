"""The same genes as scanpy's seurat_v3, slice by slice."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

from atlasnmf.errors import BadInput
from atlasnmf.features.genes import is_mitochondrial
from atlasnmf.features.hvg import highly_variable
from atlasnmf.features.qc import survey
from tests.features.sources import random_counts, source_of

pytestmark = pytest.mark.filterwarnings("ignore")  # scanpy's own


def scanpy_choice(counts: sp.csr_matrix, n_top: int, min_spots: int = 0) -> np.ndarray:
    import scanpy as sc

    adata = ad.AnnData(counts.copy())
    mask, _ = sc.pp.filter_genes(adata, min_cells=min_spots, inplace=False)
    adata = adata[:, mask].copy()
    sc.pp.highly_variable_genes(adata, flavor="seurat_v3", n_top_genes=n_top)
    chosen = np.zeros(counts.shape[1], dtype=bool)
    chosen[np.flatnonzero(mask)] = adata.var["highly_variable"].to_numpy()
    return chosen


@pytest.mark.parametrize("n_top", [50, 333, 700])
@pytest.mark.parametrize("min_spots", [0, 3, 30])
def test_same_genes_as_scanpy_on_counts_of_several_slices(n_top: int, min_spots: int) -> None:
    counts = np.concatenate([random_counts(400, 800, seed=0), random_counts(250, 800, seed=1, depth=0.2)])
    codes = np.repeat([0, 1], [400, 250])
    shuffled = np.random.default_rng(0).permutation(650)
    source = source_of(counts[shuffled])
    found = survey(source, codes[shuffled], n_slices=2, n_cols=800, tile_rows=100, n_workers=2)
    usable = found.gene_n_spots >= min_spots
    chosen = highly_variable(source, codes[shuffled], found, usable, n_top, tile_rows=100, n_workers=2)
    assert source.n_read == 1300 or (usable.sum(axis=1) <= n_top).all()  # two passes
    for index in range(2):
        expected = scanpy_choice(sp.csr_matrix(counts[codes == index]), n_top, min_spots)
        np.testing.assert_array_equal(chosen[index], expected)


def test_a_panel_keeps_its_genes_without_a_second_pass() -> None:
    source = source_of(random_counts(100, 40))
    found = survey(source, np.zeros(100, int), n_slices=1, n_cols=40)
    usable = found.gene_n_spots >= 1
    np.testing.assert_array_equal(highly_variable(source, np.zeros(100, int), found, usable, 40), usable)
    assert source.n_read == 100


def test_hopeless_slices_are_refused() -> None:
    counts = np.ones((5, 60), dtype=np.float32)
    counts[0] = 2  # all genes have one mean: no trend to fit
    for rows in (counts, counts[:1]):
        source = source_of(rows)
        codes = np.zeros(len(rows), int)
        found = survey(source, codes, n_slices=1, n_cols=60)
        with pytest.raises(BadInput, match=r"slice 'thin'.*--n-hvgs 0"):
            highly_variable(source, codes, found, found.gene_n_spots > 0, 10, slice_names=("thin",))


@pytest.mark.data
@pytest.mark.parametrize("name", ["dlpfc_151673", "dlpfc_151674", "st_breast_4layers", "st_mob"])
@pytest.mark.parametrize("n_top", [1000, 2000, 3000])
def test_same_genes_as_scanpy_on_real_slices(real_data: Path, name: str, n_top: int) -> None:
    adata = ad.read_h5ad(real_data / f"{name}.h5ad")
    labels = adata.obs["slice"].to_numpy() if "slice" in adata.obs else np.zeros(adata.n_obs)
    codes = np.unique(labels, return_inverse=True)[1]
    use = ~is_mitochondrial(adata.var_names)
    source = source_of(adata.X)
    found = survey(source, codes, n_slices=codes.max() + 1, n_cols=adata.n_vars, use=use, n_workers=2)
    usable = (found.gene_n_spots >= 10) & use
    chosen = highly_variable(source, codes, found, usable, n_top, n_workers=2)
    for index in range(codes.max() + 1):
        own = sp.csr_matrix(adata.X)[codes == index][:, use]
        np.testing.assert_array_equal(chosen[index, use], scanpy_choice(own, n_top, min_spots=10))
