import sys

import anndata
import numpy as np
import pandas as pd
import pytest
import spatialdata
from sklearn.mixture import GaussianMixture

from atlasnmf.analysis import assign_domains, domains
from atlasnmf.errors import BadInput, BadOption
from atlasnmf.metrics import adjusted_rand
from atlasnmf.simulate import simulate_embryo
from atlasnmf.store.atlas import open_atlas
from atlasnmf.store.results import ResultWriter


def blobs(n=2000, n_groups=4, seed=0):
    rng = np.random.default_rng(seed)
    groups = rng.choice(n_groups, n, p=np.arange(n_groups, 0, -1) / np.arange(n_groups + 1).sum())
    return (6 * rng.normal(size=(n_groups, 5))[groups] + rng.normal(size=(n, 5))).astype(np.float32), groups


@pytest.mark.parametrize("method", ["mixture", "leiden"])
@pytest.mark.parametrize("n_sample", [100_000, 700])
def test_groups_are_found_and_ordered_by_size(method, n_sample):
    rows, groups = blobs()
    rows[[5, 900]] = np.nan
    found = assign_domains(rows, n_domains=4, method=method, n_sample=n_sample)
    assert found[[5, 900]].tolist() == [-1, -1]
    kept = found >= 0
    assert kept.sum() == 1998
    assert adjusted_rand(groups[kept], found[kept]) > 0.99
    assert (np.diff(np.bincount(found[kept])) <= 0).all()


def test_chunks_change_nothing(monkeypatch):
    rows, _ = blobs()
    whole = assign_domains(rows, n_domains=4)
    # the function hides the module of the same name
    monkeypatch.setattr(sys.modules["atlasnmf.analysis.domains"], "RUN_SPOTS", 97)
    np.testing.assert_array_equal(assign_domains(rows, n_domains=4), whole)


@pytest.mark.parametrize("covariance", ["full", "diag", "spherical"])
def test_other_covariances_are_scikit_learns(covariance):
    rows, _ = blobs(600)
    found = assign_domains(rows, n_domains=4, covariance=covariance)
    reference = GaussianMixture(4, covariance_type=covariance, random_state=1, n_init=5).fit_predict(rows)
    assert adjusted_rand(reference, found) > 0.99


@pytest.mark.parametrize(
    "options, error, mend",
    [
        ({"method": "louvain"}, BadOption, "mixture or leiden"),
        ({"covariance": "round"}, BadOption, "tied, full"),
        ({"n_domains": 0}, BadOption, "one domain or more"),
        ({"n_domains": 5000}, BadInput, "fewer domains"),
        ({"n_domains": 5000, "covariance": "diag"}, BadInput, "fewer domains"),
    ],
)
def test_bad_options_are_refused(options, error, mend):
    with pytest.raises(error, match=mend):
        assign_domains(blobs(300)[0], **options)


def test_bad_embeddings_are_refused():
    with pytest.raises(BadInput, match="two dimensions"):
        assign_domains(np.zeros(4))
    with pytest.raises(BadInput, match="finite"):
        assign_domains(np.full((4, 2), np.nan))


@pytest.fixture
def store(tmp_path):
    path = simulate_embryo(tmp_path / "e.zarr", n_spots=900, n_slices=2, n_genes=80, n_factors=4)
    atlas = open_atlas(path)
    factors = np.concatenate([table.obsm("true_factors") for table in atlas.tables])
    factors[7] = np.nan
    with ResultWriter(atlas) as writer:
        writer.per_spot("X_inspire", factors.shape[1])
        writer.put_spots("X_inspire", np.arange(len(factors)), factors)
    return path


def test_domains_land_in_every_table_of_a_store(store):
    before = spatialdata.read_zarr(store)
    columns = domains(open_atlas(store), n_domains=4)
    after = spatialdata.read_zarr(store)
    for name, table in after.tables.items():
        found = table.obs["domains"]
        assert list(found.cat.categories) == ["0", "1", "2", "3"]
        assert found.isna().sum() == (1 if name == "slice_1" else 0)
        assert found.array.equals(columns[name]) or (found.array == columns[name])[found.notna()].all()
        assert list(table.obs.columns) == [*before.tables[name].obs.columns, "domains"]
        assert adjusted_rand(table.obs["domain"], found) > 0.5
    assert list(before.tables["slice_1"].obs_names) == list(after.tables["slice_1"].obs_names)


def test_an_existing_column_is_kept_unless_asked(store):
    domains(str(store), n_domains=3, key_added="areas")
    with pytest.raises(BadOption, match="overwrite"):
        domains(str(store), n_domains=4, key_added="areas")
    domains(str(store), n_domains=4, key_added="areas", overwrite=True)
    table = spatialdata.read_zarr(store).tables["slice_2"]
    assert len(table.obs["areas"].cat.categories) == 4


def test_a_missing_embedding_names_the_nearest(store):
    with pytest.raises(BadInput, match="did you mean 'X_inspire'"):
        domains(str(store), "X_inspyre")


def test_data_in_memory_is_assigned_to():
    rows, groups = blobs(400)
    adata = anndata.AnnData(
        np.ones((400, 3), np.float32),
        obs=pd.DataFrame(index=[f"s{i}" for i in range(400)]),
        obsm={"X_inspire": rows, "spatial": np.random.default_rng(0).normal(size=(400, 2))},
    )
    columns = domains(adata, n_domains=4)
    assert adjusted_rand(groups, adata.obs["domains"]) > 0.99
    assert list(columns) == ["table"]
    assert isinstance(adata.obs["domains"].dtype, pd.CategoricalDtype)
