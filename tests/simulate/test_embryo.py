import numpy as np
import pytest
import scipy.sparse

from atlasnmf.errors import BadOption
from atlasnmf.simulate import plan_embryo, slice_blocks
from atlasnmf.simulate.anatomy import PITCH_UM

SMALL = {"n_spots": 3000, "n_slices": 3, "n_genes": 200, "n_factors": 8}


def whole_slice(embryo, slice_index, **options):
    blocks = list(slice_blocks(embryo, slice_index, **options))
    counts = scipy.sparse.vstack([block.counts.to_scipy() for block in blocks]).tocsr()
    parts = {
        name: np.concatenate([getattr(block, name) for block in blocks])
        for name in ("names", "domain", "factors", "spatial")
    }
    assert [block.start for block in blocks] == np.cumsum([0, *(len(b.domain) for b in blocks[:-1])]).tolist()
    return counts, parts


def test_same_seed_same_spots_whatever_the_block_size():
    embryo = plan_embryo(**SMALL, seed=4)
    counts, parts = whole_slice(embryo, 1)
    for block_spots in (7, 500):
        again, other = whole_slice(plan_embryo(**SMALL, seed=4), 1, block_spots=block_spots)
        assert (again != counts).nnz == 0
        for name, part in parts.items():
            np.testing.assert_array_equal(other[name], part)
    different, _ = whole_slice(plan_embryo(**SMALL, seed=5), 1)
    assert different.shape == counts.shape
    assert (different != counts).nnz > 0


def test_slices_grow_and_add_up():
    embryo = plan_embryo(n_spots=20_001, n_slices=7)
    assert embryo.n_spots.sum() == 20_001
    assert (np.diff(embryo.n_spots) > 0).all()
    assert embryo.n_spots[-1] == pytest.approx(2 * embryo.n_spots[0], rel=0.01)
    assert plan_embryo(n_spots=500, n_slices=1).n_spots.tolist() == [500]
    assert sorted(plan_embryo(n_spots=4000, n_slices=12).slices)[-1] == "slice_12"


def test_coordinates_are_a_raster_of_distinct_bins():
    embryo = plan_embryo(**SMALL)
    for s in range(3):
        _, parts = whole_slice(embryo, s)
        x, y = (parts["spatial"] / PITCH_UM).T
        assert parts["spatial"].min() == 0
        assert (x == np.rint(x)).all()
        assert (np.diff(y * 10_000 + x) > 0).all()
        assert len(set(parts["names"])) == embryo.n_spots[s]
    assert parts["names"][0] == f"slice_3_{x[0]:.0f}_0"


def test_outline_changes_between_slices():
    outlines = [section.outline for section in plan_embryo(**SMALL).anatomy.sections]
    assert not np.allclose(outlines[0], outlines[1])


@pytest.mark.parametrize("n_factors", [5, 12, 40])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_domain_occurs_where_it_should(n_factors, seed):
    embryo = plan_embryo(n_spots=40_000, n_slices=4, n_genes=100, n_factors=n_factors, seed=seed)
    anatomy = embryo.anatomy
    assert len(anatomy.names) == len(set(anatomy.names)) == n_factors
    assert (anatomy.only_slice >= 0).any()
    for s in range(4):
        _, parts = whole_slice(embryo, s)
        here = np.flatnonzero((anatomy.only_slice < 0) | (anatomy.only_slice == s))
        found = np.unique(parts["domain"])
        assert set(found) <= set(here)
        assert len(found) >= 0.9 * len(here)
        # Domain d is where factor d is strongest; a unique organ's factor is nowhere else.
        own = parts["factors"][np.arange(len(parts["domain"])), parts["domain"]]
        assert own.mean() > 0.6
        absent = np.setdiff1d(np.arange(n_factors), here)
        assert (parts["factors"][:, absent] == 0).all()
        np.testing.assert_allclose(parts["factors"].sum(axis=1), 1, atol=1e-5)


def test_a_core_lies_in_its_organ_and_a_unique_organ_has_none():
    anatomy = plan_embryo(n_factors=20, n_slices=3).anatomy
    cores = np.flatnonzero(anatomy.parents > 0)
    assert len(cores) == 6
    assert (anatomy.only_slice[anatomy.parents[cores]] == -1).all()
    for section in anatomy.sections:
        gap = section.organs[cores, 1:3] - section.organs[anatomy.parents[cores], 1:3]
        radius = section.organs[:, 3]
        assert (np.linalg.norm(gap, axis=1) + radius[cores] < 1.1 * radius[anatomy.parents[cores]]).all()


def test_density_is_that_of_real_atlases():
    embryo = plan_embryo(n_spots=4000, n_slices=2, n_genes=2000, n_factors=20)
    for s in range(2):
        counts, _ = whole_slice(embryo, s)
        genes_per_spot = np.diff(counts.indptr)
        low, middle, high = np.percentile(genes_per_spot, [10, 50, 90])
        assert 100 <= low < middle < high <= 400
        assert counts.min() >= 0
        assert counts.dtype == np.int32
        # Gamma-Poisson totals: variance m + m^2 / 6.
        totals = np.asarray(counts.sum(axis=1)).ravel()
        mean = totals.mean()
        assert totals.var() == pytest.approx(mean + mean**2 / 6, rel=0.25)


def test_counts_follow_the_truth():
    embryo = plan_embryo(n_spots=3000, n_slices=1, n_genes=60, n_factors=3)
    counts, parts = whole_slice(embryo, 0)
    profiles = embryo.loadings.T * np.exp(embryo.effects[0])
    share = parts["factors"] @ (profiles / profiles.sum(axis=1, keepdims=True))
    totals = np.asarray(counts.sum(axis=1)).ravel()
    mean = totals @ share
    # Sums of multinomials: four standard errors.
    assert (np.abs(np.asarray(counts.sum(axis=0)).ravel() - mean) < 4.5 * np.sqrt(mean) + 1).all()


def test_programmes_are_sparse_and_sum_to_one():
    loadings = plan_embryo(n_genes=500, n_factors=10).loadings
    np.testing.assert_allclose(loadings.sum(axis=0), 1)
    assert 0.15 < (loadings > 0).mean() < 0.35
    overlap = np.corrcoef(loadings.T)[np.triu_indices(10, 1)]
    assert overlap.max() < 0.5


@pytest.mark.parametrize(
    "options, mend",
    [
        ({"n_spots": 70}, "at least 80"),
        ({"n_genes": 20}, "at least 24"),
        ({"n_slices": 0}, "--n-slices: .* 1"),
        ({"n_factors": 0}, "--n-factors: .* 1"),
    ],
)
def test_impossible_embryos_are_refused(options, mend):
    with pytest.raises(BadOption, match=mend):
        plan_embryo(**options)


@pytest.mark.parametrize("n_factors", [1, 2, 3])
def test_the_smallest_embryos_work(n_factors):
    embryo = plan_embryo(n_spots=60, n_slices=2, n_genes=6, n_factors=n_factors)
    for s in range(2):
        counts, parts = whole_slice(embryo, s)
        assert counts.shape == (embryo.n_spots[s], 6)
        assert parts["factors"].shape[1] == n_factors
