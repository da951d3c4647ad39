import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import spatialdata

from atlasnmf import plots
from atlasnmf.errors import BadInput, BadOption
from atlasnmf.store.atlas import open_atlas

N_CELLS, N_SPOTS, GENES = 120, 9, ["g0", "g1", "g2", "g3"]


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    factors = rng.dirichlet([0.3, 0.3, 0.3], N_CELLS).astype(np.float32)
    loadings = rng.dirichlet(np.ones(4), 3).T.astype(np.float32)
    depth = rng.uniform(20, 40, N_CELLS)
    fine = anndata.AnnData(
        scipy.sparse.csr_matrix(
            rng.poisson(depth[:, None] * (factors @ loadings.T))[:, :3].astype(np.float32)
        ),
        obs=pd.DataFrame(
            {"siid_depth": depth, "type": pd.Categorical.from_codes(factors.argmax(1), ["a", "b", "c"])},
            index=[f"c{i}" for i in range(N_CELLS)],
        ),
        var=pd.DataFrame(index=GENES[:3]),
        obsm={"spatial": rng.uniform(0, 10, (N_CELLS, 2)), "siid_factors": factors},
    )
    score = {"gene": np.array(["g0", "g1"], dtype=object), "counts": np.array([5.0, 100.0])}
    score |= {"r2": np.array([0.2, 0.4]), "pearson": np.array([0.4, 0.6])}
    score |= {f"baseline_{name}": np.array([0.1, 0.1 * at]) for at, name in enumerate("ABCD")}
    fine.uns["siid"] = {"holdout": score}
    coarse = anndata.AnnData(
        scipy.sparse.csr_matrix(rng.poisson(3.0, (N_SPOTS, 4)).astype(np.float32)),
        obs=pd.DataFrame(index=[f"v{i}" for i in range(N_SPOTS)]),
        var=pd.DataFrame(index=GENES),
        obsm={"spatial": rng.uniform(0, 10, (N_SPOTS, 2)), "siid_proportions": np.full((N_SPOTS, 3), 1 / 3)},
        varm={"siid_loadings": loadings},
    )
    return open_atlas(
        spatialdata.SpatialData(tables={"fine": fine, "coarse": coarse}), tables=["fine", "coarse"]
    )


def test_a_gene_as_measured_and_as_imputed(pair):
    axes = plots.imputed(pair, ["g1", "g3"])
    assert axes.shape == (2, 2)
    assert [axis.get_title() for axis in axes[0]] == ["measured", "imputed"]
    counts = np.sort(pair.tables[0].counts.read(0, N_CELLS).to_scipy()[:, 1].toarray().ravel())
    drawn = np.sort(axes[0, 0].collections[-1].get_array())
    np.testing.assert_allclose(drawn, counts * 1e6 / counts.sum())
    lazy = np.sort(np.asarray(pair.imputed("g1")).ravel().astype(float))
    np.testing.assert_allclose(
        np.sort(axes[0, 1].collections[-1].get_array()), lazy * 1e6 / lazy.sum(), rtol=1e-5
    )
    # the fine slice has no g3: nothing to draw beside what is imputed
    assert not axes[1, 0].collections
    assert axes[1, 1].collections
    axes[0, 0].figure.draw_without_rendering()
    with pytest.raises(BadOption, match="nope"):
        plots.imputed(pair, "nope")


def test_scores_of_a_holdout(pair):
    axes = plots.holdout(pair)
    np.testing.assert_allclose(axes.collections[0].get_offsets(), [[5, 0.2], [100, 0.4]])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["mean 0.300", "baseline D 0.200"]
    assert plots.holdout(pair, score="pearson").get_ylabel() == "pearson"
    with pytest.raises(BadOption, match="no score 'auc'"):
        plots.holdout(pair, score="auc")
    with pytest.raises(BadInput, match="held no genes out"):
        plots.holdout({"loss": 1.0})


def test_types_against_factors(pair):
    axes = plots.factor_types(pair, "type")
    factors = pair.tables[0].obsm("siid_factors").astype(float)
    cosine = np.asarray(axes.images[0].get_array())
    order = [int(label.get_text()) - 1 for label in axes.get_xticklabels()]
    own = np.eye(3)[factors.argmax(1)]
    expected = (own.T @ factors) / np.outer(np.linalg.norm(own, axis=0), np.linalg.norm(factors, axis=0))
    np.testing.assert_allclose(cosine, expected[:, order])
    assert axes.get_yticklabels()[0].get_text().startswith("a (")
    with pytest.raises(BadOption, match="tipe"):
        plots.factor_types(pair, "tipe")
    with pytest.raises(BadInput, match="no factors"):
        plots.factor_types(pair, "type", key="other")


def test_proportions_are_mapped_like_any_factors(pair):
    axes = plots.factors(pair, "siid_proportions")
    assert axes.shape == (3, 1)
