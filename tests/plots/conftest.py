import sys
from pathlib import Path

import anndata
import matplotlib
import numpy as np
import pandas as pd
import pytest

from atlasnmf.store.atlas import open_atlas

matplotlib.use("Agg")
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _no_open_figures():
    import matplotlib.pyplot as plt

    yield
    plt.close("all")


def _an_atlas(n=(60, 40)):
    """Two slices of different size, one table with a slice column."""
    rng = np.random.default_rng(0)
    total = sum(n)
    spatial = rng.uniform(0, 100, (total, 2)) * np.repeat([[1.0, 1.0], [3.0, 2.0]], n, axis=0)
    factors = rng.dirichlet(np.ones(3), total).astype(np.float32)
    factors[4] = np.nan
    obs = pd.DataFrame(
        {
            "slice": pd.Categorical(np.repeat(["a", "b"], n)),
            "domains": pd.Categorical(rng.choice(["0", "1", "10", "2"], total)),
        },
        index=[f"s{i}" for i in range(total)],
    )
    obs.loc["s9", "domains"] = np.nan
    adata = anndata.AnnData(
        np.ones((total, 2), np.float32), obs=obs, obsm={"spatial": spatial, "inspire_factors": factors}
    )
    adata.uns["inspire"] = {"history": {"step": np.arange(5), "loss": np.arange(5.0)}}
    return open_atlas(adata, slice_key="slice")


@pytest.fixture
def an_atlas():
    return _an_atlas
