from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.ndimage
import spatialdata

from atlasnmf.cli import main
from atlasnmf.errors import BadInput, BadOption
from atlasnmf.metrics.regions import adjacency_on_grid
from atlasnmf.pipeline.volumes import simulate_volume
from atlasnmf.simulate.volume import annotated_grid, made_grid, plan_volume
from atlasnmf.store.ontology import Ontology


@pytest.fixture(scope="module")
def volume():
    return plan_volume(made_grid((22, 18, 20), 24, seed=3), n_genes=60, n_patterns=5, missing=0.2, seed=3)


def test_the_grid_is_divided_in_two_levels():
    painted = made_grid((22, 18, 20), 24, seed=0)
    numbers = np.unique(painted.regions[painted.regions > 0])
    assert len(numbers) == 24
    assert all(len(painted.ontology.lineage(int(number))) == 3 for number in numbers)
    _, contains = painted.ontology.membership(numbers)
    divisions = contains.sum(axis=1)
    assert divisions.max() == 24  # the root
    assert ((divisions > 1) & (divisions < 24)).sum() >= 4
    for number in numbers:  # every region is in one piece
        assert scipy.ndimage.label(painted.regions == number, np.ones((3, 3, 3)))[1] == 1


def test_patterns_are_unions_of_touching_regions(volume):
    painted = volume.painted
    inside = painted.regions > 0
    names = dict(zip(painted.ontology.acronyms, painted.ontology.ids, strict=True))
    assert volume.patterns.shape == (inside.sum(), 5)
    assert [len(union) for union in volume.pattern_regions] == [1, 2, 3, 1, 2]
    ids = painted.regions[inside]
    for k, union in enumerate(volume.pattern_regions):
        members = [
            np.isin(ids, [i for i in np.unique(ids) if names[r] in painted.ontology.lineage(int(i))])
            for r in union
        ]
        assert np.add.reduce(members).max() == 1  # disjoint
        np.testing.assert_array_equal(volume.patterns[:, k] > 0, np.logical_or.reduce(members))
        labels = np.full(inside.shape, -1)
        for i, member in enumerate(members):
            place = np.zeros(inside.shape, bool)
            place[inside] = member
            labels[place] = i
        touching = adjacency_on_grid(labels)
        assert (np.linalg.matrix_power(touching + np.eye(len(union)), len(union)) > 0).all()
    assert ((volume.patterns > 0).sum(axis=1) <= 1).all()


def test_patterns_are_equally_strong_and_every_gene_has_one(volume):
    strength = np.linalg.norm(volume.coefficients, axis=0) * np.linalg.norm(volume.patterns, axis=0)
    np.testing.assert_allclose(strength, strength[0], rtol=1e-4)
    assert (volume.coefficients.sum(axis=1) > 0).all()


def test_images_follow_patterns_and_lose_what_they_should(volume):
    inside = volume.inside
    lost = []
    for gene in range(20):
        image = volume.image(gene)
        np.testing.assert_array_equal(np.isnan(image), ~inside)
        values = image[inside]
        known = values >= 0
        lost.append(1 - known.mean())
        mean = volume.patterns @ volume.coefficients[gene]
        assert np.corrcoef(values[known], mean[known])[0, 1] > 0.8
        assert (values[~known] == -1).all()
    assert 0.15 < np.mean(lost) < 0.25
    np.testing.assert_array_equal(volume.image(3), volume.image(3))


def test_a_store_has_the_truth(tmp_path):
    outcome = simulate_volume(tmp_path / "v.zarr", shape=(20, 16, 18), n_regions=20, n_genes=40, n_patterns=4)
    table = spatialdata.read_zarr(tmp_path / "v.zarr").tables["volume"]
    truth = table.uns["truth"]
    assert truth["rank"] == 4
    assert len(truth["pattern_regions"]) == 4
    assert table.obsm["true_patterns"].shape == (len(table), 4)
    assert table.varm["true_coefficients"].shape == (40, 4)
    assert table.obsm["spatial"].shape == (len(table), 3)
    Ontology.of(table.uns["ontology"])
    ideal = table.obsm["true_patterns"] @ table.varm["true_coefficients"].T
    values = np.asarray(table.X)
    assert (values >= 0).all()
    assert np.corrcoef(values.ravel(), ideal.ravel())[0, 1] > 0.85
    # voxels hardly ever measured are gone
    assert outcome.n_dropped > 0
    assert 0.05 < outcome.missing_share < 0.15
    assert outcome.score.r2 > 0.3


def test_the_same_seed_writes_the_same_bytes(tmp_path):
    sizes = {"shape": (16, 14, 15), "n_regions": 12, "n_genes": 20, "n_patterns": 3, "seed": 4}
    first, second = tmp_path / "a.zarr", tmp_path / "b.zarr"
    simulate_volume(first, **sizes)
    simulate_volume(second, **sizes)
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(second) for path in second.rglob("*") if path.is_file())
    for file in files:
        assert (first / file).read_bytes() == (second / file).read_bytes(), file


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"n_genes": 5}, "genes are too few"),
        ({"missing": 0.9}, "missing values"),
        ({"n_regions": 500}, "too small"),
        ({"n_patterns": 12, "n_regions": 12}, "room for"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(tmp_path, sizes, message):
    with pytest.raises(BadOption, match=message):
        simulate_volume(
            tmp_path / "v.zarr", **{"shape": (16, 14, 15), "n_regions": 12, "n_patterns": 3} | sizes
        )
    assert not list(tmp_path.iterdir())


def test_a_file_with_a_grid_is_painted_on(tmp_path):
    painted = made_grid((16, 14, 15), 12, seed=1)
    voxels = np.argwhere(painted.regions > 0)
    numbers = painted.regions[painted.regions > 0]
    paths = {
        n: "/" + "/".join(map(str, painted.ontology.lineage(int(n))[::-1])) + "/" for n in np.unique(numbers)
    }
    obs = pd.DataFrame(
        {
            "structure_id": numbers,
            "acronym": pd.Categorical([painted.ontology.acronym(n) for n in numbers]),
            "id_path": pd.Categorical([paths[n] for n in numbers]),
            "major": pd.Categorical(["all"] * len(numbers)),
        },
        index=[f"v{i}" for i in range(len(numbers))],
    )
    adata = anndata.AnnData(
        np.zeros((len(numbers), 1), np.float32), obs=obs, obsm={"spatial": voxels.astype(float)}
    )
    adata.uns["grid_shape_xyz"] = np.array(painted.regions.shape)
    adata.write_h5ad(tmp_path / "grid.h5ad")
    found = annotated_grid(tmp_path / "grid.h5ad")
    np.testing.assert_array_equal(found.regions, painted.regions)
    for number in np.unique(numbers):
        assert found.ontology.lineage(int(number)) == painted.ontology.lineage(int(number))
        assert found.ontology.acronym(int(number)) == painted.ontology.acronym(int(number))
    assert found.ontology.acronym(1) == "all"
    del adata.obs["id_path"]
    adata.write_h5ad(tmp_path / "poor.h5ad")
    with pytest.raises(BadInput, match="id_path"):
        annotated_grid(tmp_path / "poor.h5ad")


@pytest.mark.data
def test_the_allen_grid_is_painted_on(real_data, tmp_path):
    path = real_data / "allen_ccf_grid200um_2genes.h5ad"
    if not path.exists():
        pytest.skip("no Allen grid among the real data")
    painted = annotated_grid(path)
    assert painted.grid.shape == (67, 41, 58)
    assert (painted.regions > 0).sum() == 62529
    assert painted.ontology.acronym(315) == "Isocortex"
    volume = plan_volume(painted, n_genes=30, n_patterns=6)
    assert len(volume.pattern_regions) == 6


def test_the_command_line_simulates(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(
            ["simulate", "volume", str(tmp_path / "v.zarr"), "--shape", "16,14,15", "--n-regions", "12"]
            + ["--n-genes", "20", "--n-patterns", "3"]
        )
    assert stopped.value.code == 0
    assert "voxels of 20 genes" in capsys.readouterr().out
