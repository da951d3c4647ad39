"""The streamed components are those of the dense smoothed, centred matrix."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sp

from atlasnmf.errors import BadOption
from atlasnmf.features.components import Components, find_components, sample_tiles, slice_means, write_scores
from atlasnmf.features.libraries import LogCounts
from atlasnmf.store.parts import PartedDense, plan_parts
from tests.features.sources import any_rows, mean_matrix, neighbour_graph


def structured(sizes: tuple[int, ...], n_genes: int, n_factors: int = 6, seed: int = 0) -> np.ndarray:
    """Log counts with a few strong directions, smooth along the spots, sparse, each slice shifted."""
    rng = np.random.default_rng(seed)
    n_spots = sum(sizes)
    along = np.concatenate([np.arange(size) / size for size in sizes])
    waves = 2 * np.pi * (np.outer(along, np.arange(1, n_factors + 1)) + rng.random(n_factors))
    factors = (1 + np.cos(waves)) * np.linspace(3, 1, n_factors)
    values = factors @ (rng.exponential(1.0, (n_factors, n_genes)) * (rng.random((n_factors, n_genes)) < 0.3))
    values *= rng.random((n_spots, n_genes)) < 0.4
    values += np.repeat(rng.random((len(sizes), n_genes)), sizes, axis=0) * (values > 0)
    return values.astype(np.float32)


def dense_reference(
    x: np.ndarray, m: np.ndarray | sp.csr_matrix, offsets: np.ndarray, hops: int, n_components: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    smoothed = x.astype(np.float64)
    for _ in range(hops):
        smoothed = m @ smoothed
    covariance = np.zeros((x.shape[1], x.shape[1]))
    means = []
    for start, stop in pairwise(offsets):
        own = smoothed[start:stop]
        means.append(own.mean(axis=0))
        covariance += (own - means[-1]).T @ (own - means[-1]) / len(own)
    values, vectors = np.linalg.eigh(covariance)
    return vectors[:, ::-1][:, :n_components], values[::-1][:n_components], np.array(means)


@pytest.mark.parametrize("sizes", [(80,), (120, 70, 31)])
@pytest.mark.parametrize(("hops", "fit_hops"), [(0, None), (1, None), (2, None), (2, 0)])
@pytest.mark.parametrize("n_workers", [1, 3])
def test_equals_dense_pca(
    tmp_path: Path, sizes: tuple[int, ...], hops: int, fit_hops: int | None, n_workers: int
) -> None:
    x = structured(sizes, 60)
    x[: sizes[0], 5:9] = 0  # genes the first slice did not measure
    graph = neighbour_graph(sizes)
    m = mean_matrix(graph)
    offsets = np.array([0, *np.cumsum(sizes)])
    found = find_components(
        any_rows(x),
        any_rows(graph),
        offsets,
        60,
        n_components=6,
        hops=hops,
        fit_hops=fit_hops,
        tolerance=1e-6,
        n_workers=n_workers,
    )
    vectors, values, _ = dense_reference(x, m, offsets, hops if fit_hops is None else fit_hops, 6)
    assert found.residual <= 1e-6
    np.testing.assert_allclose(found.variances, values, rtol=1e-5)
    assert scipy.linalg.subspace_angles(found.loadings, vectors).max() < 1e-4
    np.testing.assert_allclose(found.loadings.T @ found.loadings, np.eye(6), atol=1e-5)
    np.testing.assert_allclose(found.centres, dense_reference(x, m, offsets, hops, 6)[2], atol=1e-5)

    target = PartedDense.create(tmp_path / "scores", plan_parts(offsets, 33), row_shape=(hops + 1, 6))
    scale = write_scores(any_rows(x), any_rows(graph), found, target, n_workers=n_workers)
    scores = target.read(0, len(x))
    assert scores.dtype == np.float32
    for hop in range(hops + 1):
        dense = np.linalg.matrix_power(m, hop) @ x @ found.loadings
        for start, stop in pairwise(offsets):
            own = dense[start:stop]
            np.testing.assert_allclose(scores[start:stop, hop], own - own.mean(axis=0), atol=2e-4)
    np.testing.assert_allclose(scale, np.sqrt((scores[:, -1].astype(float) ** 2).mean(axis=0)), rtol=1e-5)
    again = write_scores(any_rows(x), any_rows(graph), found, target)
    np.testing.assert_array_equal(again, scale)  # from the parts that are there


def test_bits_do_not_depend_on_the_number_of_workers() -> None:
    x, graph = structured((150, 90), 50), neighbour_graph((150, 90))

    def run(n_workers: int) -> Components:
        offsets = np.array([0, 150, 240])
        return find_components(
            any_rows(x), any_rows(graph), offsets, 50, n_components=5, n_workers=n_workers, n_sample=120
        )

    alone, together = run(1), run(4)
    assert alone.loadings.tobytes() == together.loadings.tobytes()
    assert alone.means.tobytes() == together.means.tobytes()


def test_few_genes_and_few_spots() -> None:
    x, graph = structured((7,), 12), neighbour_graph((7,))
    found = find_components(any_rows(x), any_rows(graph), np.array([0, 7]), 12, n_components=11, hops=1)
    assert np.isfinite(found.loadings).all()
    np.testing.assert_allclose(found.loadings.T @ found.loadings, np.eye(11), atol=1e-5)
    with pytest.raises(BadOption, match="12 components cannot be found among 12 genes"):
        find_components(any_rows(x), any_rows(graph), np.array([0, 7]), 12, n_components=12)


def test_sample_is_balanced_and_spread_out() -> None:
    offsets = np.array([0, 100_000, 103_000, 500_000])
    tiles = sample_tiles(offsets, 60_000, 500)
    rows = np.bincount([tile.slice_index for tile in tiles], weights=[tile.n_rows for tile in tiles])
    np.testing.assert_allclose(rows, [20_000, 3_000, 20_000], rtol=0.03)
    starts = np.array([tile.start for tile in tiles if tile.slice_index == 2])
    assert np.diff(starts).max() < 1.2 * np.diff(starts).mean()
    assert sum(tile.n_rows for tile in sample_tiles(offsets, 500_000)) == 500_000


def test_sample_finds_nearly_the_same_components() -> None:
    sizes = (9000, 7000)
    x, graph = structured(sizes, 80), neighbour_graph(sizes)
    offsets = np.array([0, 9000, 16000])
    whole = find_components(any_rows(x), any_rows(graph), offsets, 80, n_components=4)
    part = find_components(any_rows(x), any_rows(graph), offsets, 80, n_components=4, n_sample=8000)
    assert np.degrees(scipy.linalg.subspace_angles(whole.loadings, part.loadings)).max() < 10
    np.testing.assert_array_equal(whole.centres, part.centres)  # these are exact


@pytest.mark.data
def test_equals_dense_pca_on_real_slices(real_data: Path) -> None:
    from scipy.spatial import cKDTree

    tables = [ad.read_h5ad(real_data / f"dlpfc_{number}.h5ad") for number in (151673, 151674)]
    shared = sorted(set(tables[0].var_names) & set(tables[1].var_names))[:1200]
    counts = sp.csr_matrix(sp.vstack([table[:, shared].X for table in tables]))
    offsets = np.array([0, tables[0].n_obs, tables[0].n_obs + tables[1].n_obs])
    blocks = []
    for table in tables:
        points = table.obsm["spatial"]
        found = cKDTree(points).query(points, 7)[1]
        blocks.append(
            sp.csr_matrix((np.ones(found.size), (np.repeat(np.arange(len(points)), 7), found.ravel())))
        )
    graph = sp.csr_matrix(sp.block_diag(blocks))
    totals = np.asarray(counts.sum(axis=1)).ravel()
    logs = LogCounts(any_rows(counts), totals)
    components = find_components(
        logs, any_rows(graph), offsets, 1200, n_components=20, tolerance=1e-3, n_workers=2
    )
    x = np.log1p(1e4 * counts.toarray() / np.maximum(totals, 1)[:, None])
    vectors, values, means = dense_reference(x, graph / 7, offsets, 2, 20)
    np.testing.assert_allclose(components.variances, values, rtol=1e-3)
    np.testing.assert_allclose(components.centres, means, atol=1e-4)
    assert components.residual <= 1e-3
    # the 20th and 21st variance are close, so the last direction is the least certain
    assert np.degrees(scipy.linalg.subspace_angles(components.loadings[:, :19], vectors)).max() < 1


def test_means_are_those_of_every_hop() -> None:
    x, graph = structured((90, 41), 30), neighbour_graph((90, 41))
    means = slice_means(any_rows(x), any_rows(graph), np.array([0, 90, 131]), 30, 2)
    m = mean_matrix(graph)
    for hop in range(3):
        smoothed = np.linalg.matrix_power(m, hop) @ x
        expected = [smoothed[:90].mean(axis=0), smoothed[90:].mean(axis=0)]
        np.testing.assert_allclose(means[:, hop], expected, atol=1e-6)


@pytest.mark.parametrize("hops", [0, 2])
def test_standardised_components_are_those_of_the_correlation_matrix(hops: int) -> None:
    sizes = (120, 70)
    x, graph = structured(sizes, 60), neighbour_graph(sizes)
    offsets = np.array([0, *np.cumsum(sizes)])
    found = find_components(
        any_rows(x), any_rows(graph), offsets, 60, n_components=6, hops=hops, standardise=True, tolerance=1e-6
    )
    smoothed = np.linalg.matrix_power(mean_matrix(graph), hops) @ x.astype(np.float64)
    own = [smoothed[start:stop] for start, stop in pairwise(offsets)]
    covariance = sum(np.cov(rows, rowvar=False, bias=True) for rows in own)
    spread = np.sqrt(np.diag(covariance) / len(sizes))
    spread = np.maximum(spread, 0.01 * spread.max())
    values, vectors = np.linalg.eigh(covariance / np.outer(spread, spread))
    expected = vectors[:, ::-1][:, :6] / spread[:, None]
    np.testing.assert_allclose(found.variances, values[::-1][:6], rtol=1e-4)
    assert scipy.linalg.subspace_angles(found.loadings, expected).max() < 1e-3
