from __future__ import annotations

import json
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pandas as pd
import pytest
import spatialdata
import zarr

from atlasnmf.cli import main
from atlasnmf.errors import BadInput, BadOption
from atlasnmf.features.fill import fill_missing
from atlasnmf.pipeline.volumes import VolumeOptions, ingest_volumes
from atlasnmf.store.atlas import open_atlas
from atlasnmf.store.grids import Grid, _nrrd_signs
from atlasnmf.store.volumes import open_volumes

SHAPE = (9, 7, 8)
AFFINE = np.array([[0.2, 0, 0, -1], [0, 0.2, 0, 2], [0, 0, 0.4, 0], [0, 0, 0, 1]])


class Brain:
    """Four gene images, a mask and regions; some values missing inside, NaN all over outside."""

    def __init__(self, missing=0.1):
        rng = np.random.default_rng(0)
        x, y, z = np.meshgrid(*[np.linspace(-1, 1, size) for size in SHAPE], indexing="ij")
        self.mask = x**2 + y**2 + z**2 < 1
        self.images = {}
        for gene, field in zip(("Gad1", "Slc17a7", "Prox1", "Rorb"), (x, y, z, x * y), strict=True):
            image = (field + 2 + 0.05 * rng.normal(size=SHAPE)).astype(np.float32)
            image[rng.uniform(size=SHAPE) < missing] = -1
            image[~self.mask] = np.nan
            self.images[gene] = image
        self.regions = np.where(self.mask, np.where(x < 0, 10, np.where(y < 0, 21, 22)), 0)

    def nifti(self, folder, suffix=".nii.gz", affine=AFFINE):
        folder.mkdir(exist_ok=True)
        for name, array in {**self.images, "mask": self.mask.astype(np.uint8)}.items():
            image = nibabel.Nifti1Image(array, affine)
            image.header.set_xyzt_units("mm")
            nibabel.save(image, folder / f"{name}{suffix}")
        nibabel.save(nibabel.Nifti1Image(self.regions.astype(np.int32), affine), folder / f"ccf{suffix}")
        return [folder / f"{name}{suffix}" for name in self.images]

    def expected(self):
        """Filled values by the plain formula, rows in C order of voxels."""
        voxels = np.argwhere(self.mask)
        coords = voxels @ AFFINE[:3, :3].T + AFFINE[:3, 3]
        columns = []
        for image in self.images.values():
            row = image[self.mask].copy()
            row[row == -1] = np.nan
            columns.append(fill_missing(row, voxels * [1.0, 1.0, 2.0]))
        return voxels, coords, np.stack(columns, axis=1)


@pytest.fixture(scope="module")
def brain():
    return Brain()


@pytest.fixture
def ontology(tmp_path):
    path = tmp_path / "ontology.csv"
    path.write_text("id,acronym,parent_id\n1,root,\n10,CTX,1\n20,CNU,1\n21,STR,20\n22,PAL,20\n")
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_one_image_a_gene_becomes_a_table(tmp_path, brain, ontology, suffix):
    files = brain.nifti(tmp_path / "in", suffix)
    outcome = ingest_volumes(
        files,
        tmp_path / "out.zarr",
        mask=tmp_path / "in" / f"mask{suffix}",
        annotation=tmp_path / "in" / f"ccf{suffix}",
        ontology=ontology,
    )
    voxels, coords, values = brain.expected()
    table = spatialdata.read_zarr(tmp_path / "out.zarr").tables["volume"]
    assert table.X.dtype == np.float32
    np.testing.assert_allclose(np.asarray(table.X), values, rtol=1e-6)
    np.testing.assert_array_equal(table.obsm["voxel"], voxels)
    np.testing.assert_allclose(table.obsm["spatial"], coords, atol=1e-6)
    assert table.uns["volume"]["unit"] == "millimetre"
    assert table.uns["volume"]["shape"].tolist() == list(SHAPE)
    assert "last axis runs fastest" in table.uns["volume"]["order"]
    assert list(table.var_names) == list(brain.images)
    assert table.obs_names[0] == "v{}_{}_{}".format(*voxels[0])
    names = {10: "CTX", 21: "STR", 22: "PAL"}
    assert table.obs["region"].tolist() == [names[r] for r in brain.regions[brain.mask]]
    assert table.uns["ontology"]["parent"].tolist() == [-1, 1, 1, 20, 20]
    shares = [(image[brain.mask] == -1).mean() for image in brain.images.values()]
    np.testing.assert_allclose(table.var["missing"], shares, rtol=1e-5)
    assert outcome.n_voxels == brain.mask.sum()
    assert outcome.missing_share == pytest.approx(np.mean(shares))
    # smooth fields: filling explains nearly all
    assert outcome.score.r2 > 0.7
    assert table.uns["volume"]["fill"]["r2"] == pytest.approx(outcome.score.r2)
    assert not [entry for entry in (tmp_path / "out.zarr").iterdir() if entry.name.startswith(".fill")]
    atlas = open_atlas(tmp_path / "out.zarr")
    atlas.check()
    np.testing.assert_allclose(atlas.coordinates(), coords, atol=1e-6)


def test_the_same_values_from_every_format(tmp_path, brain):
    ingest_volumes(brain.nifti(tmp_path / "in"), tmp_path / "a.zarr", mask=tmp_path / "in" / "mask.nii.gz")
    stack = np.stack(list(brain.images.values()))
    (tmp_path / "genes.txt").write_text("\n".join(brain.images))
    mask = tmp_path / "in" / "mask.nii.gz"
    four = nibabel.Nifti1Image(np.moveaxis(stack, 0, -1), AFFINE)
    four.header.set_xyzt_units("mm")
    nibabel.save(four, tmp_path / "four.nii.gz")
    ingest_volumes(
        [tmp_path / "four.nii.gz"], tmp_path / "b.zarr", mask=mask, gene_names=tmp_path / "genes.txt"
    )
    directions = [[np.nan] * 3, *AFFINE[:3, :3].T.tolist()]
    header = {
        "space": "right-anterior-superior",
        "space directions": directions,
        "space origin": AFFINE[:3, 3],
        "space units": ["mm"] * 3,
        "kinds": ["list", "domain", "domain", "domain"],
    }
    nrrd.write(str(tmp_path / "four.nrrd"), stack, header)
    ingest_volumes([tmp_path / "four.nrrd"], tmp_path / "c.zarr", mask=mask, gene_names=list(brain.images))
    array = zarr.create_array(str(tmp_path / "four.zarr"), shape=stack.shape, dtype="f4")
    array[...] = stack
    array.attrs.update({"genes": list(brain.images), "spacing": [0.2, 0.2, 0.4], "unit": "mm"})
    masked = zarr.create_array(str(tmp_path / "mask.zarr"), shape=SHAPE, dtype="u1")
    masked[...] = brain.mask
    ingest_volumes([tmp_path / "four.zarr"], tmp_path / "d.zarr", mask=tmp_path / "mask.zarr")
    group = zarr.open_group(str(tmp_path / "members.zarr"), mode="w")
    for name, image in brain.images.items():
        group.create_array(name, shape=SHAPE, dtype="f4")[...] = image
    ingest_volumes(
        [tmp_path / "members.zarr"],
        tmp_path / "e.zarr",
        mask=tmp_path / "mask.zarr",
        spacing=(0.2, 0.2, 0.4),
        unit="mm",
    )
    tables = {name: spatialdata.read_zarr(tmp_path / f"{name}.zarr").tables["volume"] for name in "abcde"}
    for name, table in tables.items():
        expected = tables["a"][:, table.var_names]
        np.testing.assert_allclose(np.asarray(table.X), np.asarray(expected.X), rtol=1e-5, err_msg=name)
        assert table.uns["volume"]["unit"] == "millimetre"
        shift = 0 if name in "abc" else AFFINE[:3, 3]
        np.testing.assert_allclose(table.obsm["spatial"] + shift, expected.obsm["spatial"], atol=1e-6)


def test_spaces_that_point_another_way_are_the_same_place(tmp_path, brain):
    """NRRD files often count to the left and to the back, NIfTI files never do."""
    files = brain.nifti(tmp_path / "in")
    turned = np.diag([-1.0, -1.0, 1.0, 1.0]) @ AFFINE
    for name, affine in (("turned", turned), ("mirrored", AFFINE)):
        header = {
            "space": "left-posterior-superior",
            "space directions": affine[:3, :3].T,
            "space origin": affine[:3, 3],
            "space units": ["mm"] * 3,
        }
        nrrd.write(str(tmp_path / f"{name}.nrrd"), brain.mask.astype(np.uint8), header)
    outcome = ingest_volumes(files, tmp_path / "o.zarr", mask=tmp_path / "turned.nrrd")
    assert outcome.n_voxels == brain.mask.sum()
    with pytest.raises(BadInput, match="different places"):
        ingest_volumes(files, tmp_path / "p.zarr", mask=tmp_path / "mirrored.nrrd")


def test_voxels_and_genes_without_values_are_left_out(tmp_path):
    brain = Brain()
    lonely = tuple(np.argwhere(brain.mask)[5])
    for image in brain.images.values():
        image[lonely] = np.nan
    brain.images["Empty"] = np.full(SHAPE, -1, np.float32)
    files = brain.nifti(tmp_path / "in")
    said = []

    class Listener:
        def stage(self, name, total=None, unit="spots"):
            from contextlib import nullcontext

            return nullcontext(lambda n: None)

        def warn(self, message):
            said.append(message)

    outcome = ingest_volumes(
        files, tmp_path / "o.zarr", mask=tmp_path / "in" / "mask.nii.gz", events=Listener()
    )
    assert outcome.n_dropped == 1
    assert outcome.genes_left_out == ("Empty",)
    assert any("Empty" in line for line in said)
    table = spatialdata.read_zarr(tmp_path / "o.zarr").tables["volume"]
    assert table.shape == (brain.mask.sum() - 1, 4)
    assert not (table.obsm["voxel"] == lonely).all(axis=1).any()
    assert np.isfinite(np.asarray(table.X)).all()


def test_without_a_mask_voxels_with_a_region_are_inside(tmp_path, brain):
    files = brain.nifti(tmp_path / "in")
    ingest_volumes(files, tmp_path / "o.zarr", annotation=tmp_path / "in" / "ccf.nii.gz")
    table = spatialdata.read_zarr(tmp_path / "o.zarr").tables["volume"]
    assert len(table) == brain.mask.sum()
    assert sorted(table.obs["region"].cat.categories) == ["10", "21", "22"]


def test_negative_values_become_zero_and_blocks_and_threads_change_nothing(tmp_path, brain, monkeypatch):
    images = brain.nifti(tmp_path / "in")
    mask = tmp_path / "in" / "mask.nii.gz"
    image = brain.images["Gad1"].copy()
    place = tuple(np.argwhere(brain.mask)[11])
    image[place] = -0.25
    nibabel.save(nibabel.Nifti1Image(image, AFFINE), images[0])
    ingest_volumes(images, tmp_path / "a.zarr", mask=mask, options=VolumeOptions(workers=1))
    monkeypatch.setattr("atlasnmf.pipeline.volumes._BLOCK_BYTES", 16 * 13)
    ingest_volumes(images, tmp_path / "b.zarr", mask=mask, options=VolumeOptions(workers=3))
    first, second = (spatialdata.read_zarr(tmp_path / f"{n}.zarr").tables["volume"] for n in "ab")
    assert first["v{}_{}_{}".format(*place), "Gad1"].X.item() == 0
    np.testing.assert_array_equal(np.asarray(first.X), np.asarray(second.X))
    np.testing.assert_array_equal(first.obsm["spatial"], second.obsm["spatial"])
    np.testing.assert_array_equal(first.var["fill_r2"], second.var["fill_r2"])
    assert first.uns["volume"]["fill"]["r2"] == second.uns["volume"]["fill"]["r2"]


def _refusals(folder, brain):
    small = nibabel.Nifti1Image(np.ones((9, 7, 7), np.float32), AFFINE)
    nibabel.save(small, folder / "small.nii.gz")
    moved = nibabel.Nifti1Image(brain.images["Gad1"], AFFINE + np.eye(4, k=3) * 3)
    moved.header.set_xyzt_units("mm")
    nibabel.save(moved, folder / "moved.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.zeros(SHAPE, np.uint8), AFFINE), folder / "empty.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.full(SHAPE, 1.5, np.float32), AFFINE), folder / "half.nii.gz")
    infinite = brain.images["Gad1"].copy()
    infinite[4, 3, 4] = np.inf
    nibabel.save(nibabel.Nifti1Image(infinite, AFFINE), folder / "infinite.nii.gz")
    four = np.ones((*SHAPE, 3), np.float32)
    nibabel.save(nibabel.Nifti1Image(four, AFFINE), folder / "four.nii.gz")
    (folder / "broken.nii").write_bytes(b"no image")
    (folder / "two.txt").write_text("a\nb\n")
    gad, mask = folder / "Gad1.nii.gz", {"mask": folder / "mask.nii.gz"}
    return [
        ([gad], {}, "give --mask FILE"),
        ([gad, folder / "small.nii.gz"], mask, "9 x 7 x 7 voxels but"),
        ([gad, folder / "moved.nii.gz"], mask, "different places"),
        ([gad], {"mask": folder / "small.nii.gz"}, "the mask .* has 9 x 7 x 7 voxels"),
        ([gad], {**mask, "annotation": folder / "small.nii.gz"}, "the annotation .* has 9 x 7 x 7"),
        ([gad], {**mask, "annotation": folder / "half.nii.gz"}, "no whole numbers"),
        ([gad], {**mask, "annotation": folder / "empty.nii.gz"}, "annotation .* is empty"),
        ([gad], {"mask": folder / "empty.nii.gz"}, "mask .* is empty"),
        ([folder / "infinite.nii.gz"], mask, "infinite values inside"),
        ([folder / "four.nii.gz"], mask, "no names for them"),
        ([folder / "four.nii.gz"], {**mask, "gene_names": folder / "two.txt"}, "do not fit"),
        ([gad, folder / "four.nii.gz"], mask, "ingest it alone"),
        ([gad], {**mask, "gene_names": folder / "two.txt"}, "2 gene names for 1 images"),
        ([gad, gad], mask, "two images are named 'Gad1'"),
        ([folder / "broken.nii"], mask, "cannot be read"),
        ([folder / "none.nii"], mask, "there is no image"),
        ([gad], {**mask, "spacing": (1.0, 2.0)}, "one or three positive"),
        ([gad], {**mask, "ontology": folder / "two.txt"}, "no column|--annotation"),
    ]


@pytest.mark.parametrize("case", range(18))
def test_what_cannot_be_used_is_refused_and_nothing_left_behind(tmp_path, brain, case):
    folder = tmp_path / "in"
    brain.nifti(folder)
    files, options, message = _refusals(folder, brain)[case]
    with pytest.raises((BadInput, BadOption), match=message):
        ingest_volumes(files, tmp_path / "o.zarr", **options)
    assert [entry.name for entry in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("options", [{"n_neighbors": 0}, {"drop_share": 0}, {"holdout": 1.0}])
def test_options_are_checked(options):
    with pytest.raises(BadOption):
        VolumeOptions(**options)


def test_the_command_line_reads_volumes(tmp_path, brain, ontology, capsys):
    files = [str(file) for file in brain.nifti(tmp_path / "in")]
    flags = [
        "--mask",
        str(tmp_path / "in" / "mask.nii.gz"),
        "--annotation",
        str(tmp_path / "in" / "ccf.nii.gz"),
    ]
    with pytest.raises(SystemExit) as stopped:
        main(
            ["ingest", *files, *flags, "--ontology", str(ontology), "--spacing", "200", "--unit", "um"]
            + ["--out", str(tmp_path / "o.zarr"), "--json"]
        )
    assert stopped.value.code == 0
    record = json.loads(capsys.readouterr().out)
    assert record["n_voxels"] == brain.mask.sum()
    assert record["quality"]["r2"] > 0.5
    table = spatialdata.read_zarr(tmp_path / "o.zarr").tables["volume"]
    assert table.uns["volume"]["unit"] == "micrometre"
    np.testing.assert_allclose(table.obsm["spatial"], 200.0 * table.obsm["voxel"])
    assert isinstance(table.obs["region"].dtype, pd.CategoricalDtype)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.h5ad", "--mask", "m.nii"], "--mask is for images"),
        (["a.h5ad", "b.nii"], "ingest them apart"),
        (["b.nii", "--spacing", "1,2"], "--spacing takes 1 or 3"),
    ],
)
def test_the_command_line_refuses(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        main(["ingest", *arguments, "--out", str(tmp_path / "o.zarr")])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("space", "signs"),
    [
        ("left-posterior-superior", [-1, -1, 1]),
        ("LAS", [-1, 1, 1]),
        ("right-anterior-inferior", [1, 1, -1]),
        ("3D-left-handed", [1, 1, 1]),
        ("scanner-xyz", [1, 1, 1]),
        ("", [1, 1, 1]),
    ],
)
def test_names_of_spaces(space, signs):
    assert _nrrd_signs(space).tolist() == signs


def test_equal_distances_are_equal_whatever_the_affine():
    turn = np.deg2rad(30)
    rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([0.1, 0.1, 0.3])
    voxels = np.array([[0, 0, 0], [5, 0, 0], [3, 4, 0], [0, 5, 0], [0, 0, 2]])
    grid = Grid((6, 6, 6), affine.astype(np.float32).astype(np.float64), "millimetre")
    np.testing.assert_array_equal(grid.lattice(voxels), voxels * [1, 1, 3])
    sheared = np.array([[1, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    distances = np.linalg.norm(Grid((6, 6, 6), sheared, "voxel").lattice(voxels), axis=1)
    np.testing.assert_allclose(distances, np.linalg.norm(voxels @ sheared[:3, :3].T, axis=1), rtol=1e-3)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are counted on Linux")
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_files_are_not_kept_open(tmp_path, brain, suffix):
    volumes = open_volumes(brain.nifti(tmp_path / "in", suffix))
    before = len(list(Path("/proc/self/fd").iterdir()))
    images = [volumes.image(gene) for gene in range(4)]
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    np.testing.assert_array_equal(images[3], brain.images["Rorb"])
