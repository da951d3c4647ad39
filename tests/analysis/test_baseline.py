import numpy as np
import pytest

from atlasnmf import metrics
from atlasnmf.analysis import assign_domains, quality, quality_beside_baseline
from atlasnmf.errors import BadInput


@pytest.fixture
def two_slices():
    rng = np.random.default_rng(0)
    labels = rng.choice(["L1", "L2", "WM"], 600).astype(object)
    slices = np.repeat(["a", "b"], [250, 350])
    place = {"L1": [0, 0], "L2": [4, 0], "WM": [0, 4]}
    embedding = np.array([place[label] for label in labels]) + rng.normal(size=(600, 2))
    labels[::50] = None
    return embedding, labels, slices


def test_figures_are_means_over_slices_of_one_joint_mixture(two_slices):
    embedding, labels, slices = two_slices
    embedding[3] = np.nan
    found = quality(embedding, labels, slices)
    groups = assign_domains(embedding, n_domains=3)
    known = (labels != None) & np.isfinite(embedding).all(axis=1)  # noqa: E711 - element by element
    for row, name in zip(found["slices"], "ab", strict=True):
        here = known & (slices == name)
        assert row["slice"] == name
        assert row["n_spots"] == here.sum()
        assert row["ari"] == pytest.approx(metrics.adjusted_rand(labels[here], groups[here]))
        assert row["nmi"] == pytest.approx(metrics.normalised_mutual_information(labels[here], groups[here]))
        assert row["asw"] == pytest.approx(metrics.silhouette(embedding[here], labels[here]))
    assert found["n_domains"] == 3
    for figure in ("ari", "nmi", "asw"):
        assert found[figure] == pytest.approx(np.mean([row[figure] for row in found["slices"]]))


def test_one_slice_is_the_default(two_slices):
    embedding, labels, _ = two_slices
    (row,) = quality(embedding, labels)["slices"]
    assert row["slice"] == "all"


def test_the_baseline_stands_beside(two_slices):
    embedding, labels, slices = two_slices
    found = quality_beside_baseline(embedding[:, ::-1], embedding, labels, slices)
    assert found["ari"] == pytest.approx(found["baseline"]["ari"], abs=0.02)
    assert found["baseline"] == quality(embedding, labels, slices)


def test_slices_without_labels_are_left_out(two_slices):
    embedding, labels, slices = two_slices
    labels = np.where(slices == "b", None, labels)
    assert [row["slice"] for row in quality(embedding, labels, slices)["slices"]] == ["a"]
    with pytest.raises(BadInput, match="no slice has 10 spots"):
        quality(embedding, [None] * 600, slices)
    with pytest.raises(BadInput, match="pass one of each"):
        quality(embedding, labels[:-1], slices)


@pytest.mark.data
@pytest.mark.slow
def test_the_smoothed_pca_of_two_cortex_slices_has_its_known_quality(real_data):
    """Averaging PCA scores over six neighbours twice reaches about .53 / .67 / .15 (ARI, NMI, ASW)."""
    import anndata
    import scipy.sparse
    from scipy.spatial import cKDTree
    from sklearn.decomposition import PCA

    tables = [anndata.read_h5ad(real_data / f"dlpfc_15167{i}.h5ad") for i in (3, 4)]
    genes = tables[0].var_names.intersection(tables[1].var_names)
    logs = []
    for table in tables:
        scale = scipy.sparse.diags(1e4 / np.asarray(table.X.sum(axis=1)).ravel())
        log = np.log1p((scale @ table[:, genes].X).toarray())
        logs.append(log - log.mean(axis=0))
    scores = PCA(20, random_state=0).fit_transform(np.vstack(logs))
    smoothed = []
    for part, table in zip(np.split(scores, [tables[0].n_obs]), tables, strict=True):
        near = cKDTree(table.obsm["spatial"]).query(table.obsm["spatial"], 7)[1]
        for _ in range(2):
            part = part[near].mean(axis=1)
        smoothed.append(part)
    labels = np.concatenate([table.obs["layer"].astype(object).to_numpy() for table in tables])
    found = quality(np.vstack(smoothed), labels, np.repeat([0, 1], [t.n_obs for t in tables]))
    assert found["n_domains"] == 7
    assert found["ari"] == pytest.approx(0.53, abs=0.03)
    assert found["nmi"] == pytest.approx(0.67, abs=0.02)
    assert found["asw"] == pytest.approx(0.146, abs=0.01)
