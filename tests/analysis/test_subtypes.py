import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import spatialdata
from anndata import AnnData

from atlasnmf import tl
from atlasnmf.errors import BadInput, BadOption
from atlasnmf.metrics import adjusted_rand
from atlasnmf.store.atlas import open_atlas

N_CELLS, N_GENES = 240, 30


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 4, N_CELLS)
    factors = 0.9 * np.eye(4)[kinds] + 0.1 * rng.dirichlet(np.ones(4), N_CELLS)
    fine = AnnData(
        scipy.sparse.csr_matrix(np.ones((N_CELLS, 2), np.float32)),
        obs=pd.DataFrame(
            {
                "siid_depth": rng.uniform(50, 60, N_CELLS),
                "coarse_type": pd.Categorical(np.where(kinds < 2, "other", "stroma")),
                "kind": kinds,
            },
            index=[f"c{i}" for i in range(N_CELLS)],
        ),
        obsm={"spatial": rng.uniform(0, 9, (N_CELLS, 2)), "siid_factors": factors.astype(np.float32)},
    )
    coarse = AnnData(
        scipy.sparse.csr_matrix(np.ones((5, N_GENES), np.float32)),
        obs=pd.DataFrame(index=[f"v{i}" for i in range(5)]),
        var=pd.DataFrame(index=[f"g{i}" for i in range(N_GENES)]),
        obsm={"spatial": rng.uniform(0, 9, (5, 2)), "siid_proportions": np.full((5, 4), 0.25)},
        varm={"siid_loadings": rng.dirichlet(np.full(N_GENES, 0.3), 4).T},
    )
    return open_atlas(
        spatialdata.SpatialData(tables={"fine": fine, "coarse": coarse}), tables=["fine", "coarse"]
    )


@pytest.mark.parametrize("method", ["mixture", "leiden"])
def test_the_two_kinds_within_a_type_are_told_apart(pair, method):
    column = tl.subtypes(pair, "coarse_type", "stroma", n_subtypes=2, method=method)
    kinds = np.asarray(pair.tables[0].obs_column("kind"))
    stroma = kinds >= 2
    assert np.isnan(pd.Series(column)[~stroma].astype(float)).all()
    assert adjusted_rand(kinds[stroma], column.codes[stroma]) == pytest.approx(1)
    written = pd.Series(pair.tables[0].obs_column("subtypes"))
    assert (written[stroma].astype(str) == pd.Series(column)[stroma].astype(str).to_numpy()).all()


def test_what_cannot_be_grouped_is_said(pair):
    with pytest.raises(BadInput, match=r"no value 'nobody' in .* there are other, stroma"):
        tl.subtypes(pair, "coarse_type", "nobody")
    with pytest.raises(BadOption, match="coarse_tipe"):
        tl.subtypes(pair, "coarse_tipe", "stroma")
    with pytest.raises(BadOption, match="nope"):
        tl.subtypes(pair, "coarse_type", "stroma", genes=["nope"])
    for name in ("n_genes", "n_components", "n_subtypes"):
        with pytest.raises(BadOption, match=f"{name} must be at least 1, got 0"):
            tl.subtypes(pair, "coarse_type", "stroma", **{name: 0})
    with pytest.raises(BadOption, match="genes names none"):
        tl.subtypes(pair, "coarse_type", "stroma", genes=[])
    with pytest.raises(BadInput, match="no pair fitted"):
        tl.subtypes(pair, "coarse_type", "stroma", key="other")
