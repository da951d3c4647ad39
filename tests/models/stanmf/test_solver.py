"""The tiled iterations against scikit-learn and the plain formulas, in float64."""

from __future__ import annotations

import pickle
import warnings
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse
from sklearn.decomposition import NMF, non_negative_factorization
from sklearn.decomposition._nmf import _initialize_nmf
from small_studies import OFFSETS, counts_of, log_values, passes_of

from atlasnmf.models.stanmf import anchored as anchored_module
from atlasnmf.models.stanmf.anchored import Anchors, Sketch, anchor, iterate_on_sketch
from atlasnmf.models.stanmf.perturb import gene_draws, perturbed, whole
from atlasnmf.models.stanmf.sketch import first_directions, moments_and_range, project, turn, widen
from atlasnmf.models.stanmf.solver import Fits, iterate
from atlasnmf.models.stanmf.start import (
    Genes,
    Spots,
    first_right,
    gene_gram,
    is_tall,
    n_sharpenings,
    nndsvda,
    sharpen,
    triplets,
)
from atlasnmf.models.stanmf.values import KeptValues, ReadyValues, Transform
from atlasnmf.schema import Csr

LOG = Transform("log", 1e4, np.float64)


def random_start(n_genes, n_columns, seed=1):
    rng = np.random.default_rng(seed)
    return rng.random((OFFSETS[-1], n_columns)), rng.random((n_genes, n_columns))


def run(counts, fits, patterns, coefficients, n_iterations, **passes):
    unit, squares = passes_of(counts, **passes).whole(), (log_values(counts) ** 2).sum(axis=0)
    for _ in range(n_iterations):
        found = iterate(unit, LOG, fits, coefficients, patterns, squares, range(fits.n_fits))
        coefficients = found.coefficients
    return patterns, coefficients, found


@pytest.mark.parametrize("tile_spots", [13, 1000])
def test_thirty_iterations_are_those_of_scikit_learn(tile_spots):
    """Fits of different rank, each with its own resampled genes, in one stack."""
    counts = counts_of()
    n_genes, widths = counts.shape[1], (3, 5)
    weights = np.stack([gene_draws(0, k, 0, n_genes) for k in widths], axis=1)
    fits = Fits(widths, weights)
    patterns, coefficients = random_start(n_genes, 8)
    first, second = patterns.copy(), coefficients.copy()
    patterns, coefficients, found = run(counts, fits, patterns, coefficients, 30, tile_spots=tile_spots)
    for fit, (a, b) in enumerate(fits.spans):
        drawn = np.repeat(np.arange(n_genes), weights[:, fit].astype(int))
        x = log_values(counts)[:, drawn]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            w, h, _ = non_negative_factorization(
                x,
                W=first[:, a:b].copy(),
                H=second[drawn, a:b].T.copy(),
                n_components=b - a,
                init="custom",
                max_iter=30,
                tol=0,
            )
        np.testing.assert_allclose(patterns[:, a:b], w, atol=1e-8)
        np.testing.assert_allclose(coefficients[drawn, a:b].T, h, atol=1e-8)
        loss = ((x - w @ h) ** 2).sum() / (x**2).sum()
        assert found.losses[fit] == pytest.approx(loss, rel=1e-9)


def test_resampled_spots_are_rows_drawn_again():
    counts = counts_of()
    fits = perturbed("spots", 0, (3,), 2, len(counts), counts.shape[1])
    patterns, coefficients = random_start(counts.shape[1], 6)
    first, second = patterns.copy(), coefficients.copy()
    patterns, coefficients, _ = run(counts, fits, patterns, coefficients, 5)
    for fit, (a, b) in enumerate(fits.spans):
        drawn = np.repeat(np.arange(len(counts)), fits.spot_weights[:, fit])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _, h, _ = non_negative_factorization(
                log_values(counts)[drawn],
                W=first[drawn, a:b].copy(),
                H=second[:, a:b].T.copy(),
                n_components=b - a,
                init="custom",
                max_iter=5,
                tol=0,
            )
        np.testing.assert_allclose(coefficients[:, a:b].T, h, atol=1e-9)


def test_only_the_fits_at_work_move():
    counts = counts_of()
    fits = perturbed("genes", 0, (2, 3), 2, len(counts), counts.shape[1])
    patterns, coefficients = random_start(counts.shape[1], fits.n_columns)
    all_patterns, some_patterns = patterns.copy(), patterns.copy()
    unit, squares = passes_of(counts).whole(), (log_values(counts) ** 2).sum(axis=0)
    whole = iterate(unit, LOG, fits, coefficients, all_patterns, squares, range(4))
    some = iterate(unit, LOG, fits, coefficients, some_patterns, squares, [1, 3])
    for fit, (a, b) in enumerate(fits.spans):
        expected = (all_patterns, whole.coefficients) if fit in (1, 3) else (patterns, coefficients)
        np.testing.assert_allclose(some_patterns[:, a:b], expected[0][:, a:b], atol=1e-13)
        np.testing.assert_allclose(some.coefficients[:, a:b], expected[1][:, a:b], atol=1e-13)
    assert np.isnan(some.losses[[0, 2]]).all()


def test_patterns_found_anew_solve_least_squares():
    counts = counts_of()
    fits = perturbed("genes", 0, (3,), 1, len(counts), counts.shape[1])
    _, coefficients = random_start(counts.shape[1], 3)
    kept = np.ones((len(counts), 3))
    squares = (log_values(counts) ** 2).sum(axis=0)
    unit = passes_of(counts).whole()
    for _ in range(40):
        iterate(unit, LOG, fits, coefficients, kept, squares, [0])
    found = iterate(unit, LOG, fits, coefficients, np.empty((len(counts), 0)), squares, [0])
    solved = iterate(unit, LOG, fits, coefficients, kept, squares, [0])
    assert found.losses[0] == pytest.approx(solved.losses[0], rel=1e-3)


def sketch_of(counts, width):
    unit = passes_of(counts).whole()
    basis = first_directions(counts.shape[1], width, 0)
    for _ in range(3):
        _, product = moments_and_range(unit, LOG, basis)
        basis = widen(product)
    rows = np.empty((len(counts), basis.shape[1]))
    gram = project(unit, LOG, basis, rows)
    return unit, basis, rows, gram


def test_the_sketch_holds_the_leading_directions():
    counts = counts_of()
    x = log_values(counts)
    unit, basis, rows, gram = sketch_of(counts, 12)
    np.testing.assert_allclose(rows, x @ basis, atol=1e-9)
    np.testing.assert_allclose(gram, rows.T @ rows, atol=1e-7)
    best = (np.linalg.svd(x, compute_uv=False)[12:] ** 2).sum()
    left = ((x - rows @ basis.T) ** 2).sum()
    assert best <= left * (1 + 1e-12) < 1.15 * best
    moments, _ = moments_and_range(unit, LOG, basis)
    np.testing.assert_allclose(moments.sums, x.sum(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.squares, (x**2).sum(axis=0), rtol=1e-12)


def test_a_turned_sketch_has_its_best_columns_first():
    counts = counts_of()
    x = log_values(counts)
    unit, basis, rows, gram = sketch_of(counts, 12)
    before = rows @ basis.T
    basis, gram = turn(unit, basis, gram, rows)
    np.testing.assert_allclose(rows @ basis.T, before, atol=1e-9)
    np.testing.assert_allclose(rows.T @ rows, gram, atol=1e-7)
    assert (np.diff(np.diag(gram)) <= 0).all()
    best = (np.linalg.svd(x, compute_uv=False)[4:] ** 2).sum()
    assert ((x - rows[:, :4] @ basis[:, :4].T) ** 2).sum() < 1.01 * best


@pytest.mark.parametrize(("n_genes", "held"), [(50, False), (50, True), (300, False)])
@pytest.mark.parametrize(("rank", "tile_spots"), [(4, 40), (8, 1000)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 2e-5)])
def test_the_start_is_scikit_learns(n_genes, held, rank, tile_spots, dtype, tolerance):
    """Of its unconverged singular vectors too: as tall as wide data, with its generator's numbers; whether
    the products of the genes are held or taken again from the spots."""
    counts = counts_of(n_genes=n_genes, depth=1.0)
    fits = perturbed("genes", 3, (rank,), 2, len(counts), n_genes)
    patterns, coefficients = started(counts, fits, 3, Transform("log", 1e4, dtype), tile_spots, held=held)
    for fit, (a, b) in enumerate(fits.spans):
        drawn = np.repeat(np.arange(n_genes), fits.gene_weights[:, fit].astype(int))
        w, h = _initialize_nmf(log_values(counts)[:, drawn], rank, init="nndsvda", random_state=3)
        np.testing.assert_allclose(patterns[:, a:b], w, atol=tolerance)
        np.testing.assert_allclose(coefficients[drawn, a:b].T, h, atol=tolerance)


@pytest.mark.parametrize("held", [False, True])
def test_a_start_of_more_patterns_than_the_data_have(held):
    """Two patterns are all there are: the others begin with the mean, as scikit-learn's do."""
    rng = np.random.default_rng(1)
    counts = (1 + rng.poisson(3.0, (OFFSETS[-1], 2))) @ (1 + rng.poisson(2.0, (2, 30)))
    raw = Transform("none", 1e4, np.float64)
    patterns, coefficients = started(counts, whole(5, 30), 0, raw, held=held, means=counts.mean(axis=0))
    w, h = _initialize_nmf(counts.astype(float), 5, init="nndsvda", random_state=0)
    np.testing.assert_allclose(patterns, w, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(coefficients.T, h, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_one_value_beyond_all_others_leaves_a_start(dtype):
    counts = counts_of(n_genes=30, depth=1.0).astype(float)
    counts[3, 5] = 2.0**33
    raw = Transform("none", 1e4, dtype)
    patterns, coefficients = started(counts, whole(5, 30), 0, raw, means=counts.mean(axis=0))
    assert np.isfinite(patterns).all()
    assert np.isfinite(coefficients).all()


def started(counts, fits, seed, transform=LOG, tile_spots=40, *, held=False, means=None):
    unit = passes_of(counts, tile_spots).whole()
    data = Genes(gene_gram(unit, transform)) if held else Spots(unit, transform)
    right = first_right(unit, transform, fits, seed)
    for _ in range(n_sharpenings(fits, *counts.shape)):
        right = sharpen(data, fits, right)
    found = triplets(data, fits, right, tall=is_tall(*counts.shape))
    patterns = np.empty((len(counts), fits.n_columns), dtype=transform.dtype)
    means = log_values(counts).mean(axis=0) if means is None else means
    return patterns, nndsvda(unit, transform, fits, found, means, patterns)


@pytest.mark.parametrize("kept", [None, KeptValues()])
def test_products_of_genes(kept):
    counts = counts_of(n_genes=50, depth=1.0)
    x = log_values(counts)
    transform = Transform("log", 1e4, np.float64, kept=kept)
    found = gene_gram(passes_of(counts, 40).whole(), transform)
    np.testing.assert_allclose(found, x.T @ x, rtol=1e-12, atol=1e-9)


def anchored(counts, width, every, n_iterations=24, n_workers=1, tile_spots=40):
    _, basis, rows, gram = sketch_of(counts, width)
    unit = passes_of(counts, tile_spots, n_workers).whole()
    fits = perturbed("genes", 0, (4,), 3, len(counts), counts.shape[1])
    sketch = Sketch.of(rows, basis, gram)
    anchors = Anchors.room_for(len(counts), counts.shape[1], basis.shape[1], fits, np.float64)
    patterns, coefficients = random_start(counts.shape[1], 12)
    squares = (log_values(counts) ** 2).sum(axis=0)
    for index in range(n_iterations):
        given = (fits, coefficients, patterns)
        if index < 6 or index % every == 0 or index == n_iterations - 1:
            found = anchor(unit, LOG, sketch, anchors, *given, squares, range(3))
        else:
            found = iterate_on_sketch(unit, sketch, anchors, *given, range(3))
        coefficients = found.coefficients
    return fits, patterns, coefficients, found


def test_a_sketch_of_full_width_loses_nothing():
    """Its iterations are the exact ones, whatever the anchors."""
    counts = counts_of(n_genes=30)
    fits, patterns, coefficients, _ = anchored(counts, 30, every=100)
    expected = run(counts, fits, *random_start(30, 12), 24)
    np.testing.assert_allclose(patterns, expected[0], atol=1e-7)
    np.testing.assert_allclose(coefficients, expected[1], atol=1e-7)


def test_fits_of_different_rank_share_a_sketch(monkeypatch):
    """Some at work and some not, with drawn spots, small blocks: still the exact iterations."""
    monkeypatch.setattr(anchored_module, "_BLOCK_ROWS", 16)
    counts, widths = counts_of(n_genes=30), (3, 5, 4)
    genes = np.stack([gene_draws(0, k, 0, 30) for k in widths], axis=1)
    spots = np.random.default_rng(3).integers(0, 3, (len(counts), 3)).astype(np.float64)
    fits = Fits(widths, genes, spots)
    unit, basis, rows, gram = sketch_of(counts, 30)
    sketch = Sketch.of(rows, basis, gram)
    anchors = Anchors.room_for(len(counts), 30, 30, fits, np.float64)
    squares = (log_values(counts) ** 2).sum(axis=0)
    (patterns, a), (expected, b) = random_start(30, 12), random_start(30, 12)
    for index, at_work in enumerate([[0, 1, 2], [0, 1, 2], [0, 2], [0, 2], [2], [2]]):
        if index % 2:
            a = iterate_on_sketch(unit, sketch, anchors, fits, a, patterns, at_work).coefficients
        else:
            a = anchor(unit, LOG, sketch, anchors, fits, a, patterns, squares, at_work).coefficients
        b = iterate(unit, LOG, fits, b, expected, squares, at_work).coefficients
    np.testing.assert_allclose(patterns, expected, atol=1e-8)
    np.testing.assert_allclose(a, b, atol=1e-8)


def test_an_anchored_sketch_stays_on_the_exact_path():
    """The more anchors the nearer, at a quarter of the directions; with an anchor every time it is exact."""
    counts = counts_of(n_genes=50, depth=1.0)
    fits, _, _, always = anchored(counts, 12, every=1)
    often, seldom = (anchored(counts, 12, every=every)[3] for every in (3, 100))
    exact = run(counts, fits, *random_start(50, 12), 24)[2]
    np.testing.assert_allclose(always.losses, exact.losses, rtol=1e-12)
    np.testing.assert_allclose(often.losses, exact.losses, rtol=5e-3)
    assert np.abs(often.losses - exact.losses).max() < 0.5 * np.abs(seldom.losses - exact.losses).max()


def test_two_anchors_foretell_a_straight_line():
    """Where coefficients move by the same step again and again, the products of the sketch are exact."""
    counts = counts_of(n_genes=50, depth=1.0)
    unit, basis, rows, gram = sketch_of(counts, 12)
    fits = perturbed("genes", 0, (4,), 3, len(counts), 50)
    sketch = Sketch.of(rows, basis, gram)
    anchors = Anchors.room_for(len(counts), 50, 12, fits, np.float64)
    patterns, coefficients = random_start(50, 12)
    step = 0.1 * random_start(50, 12, seed=2)[1]
    squares, off = (log_values(counts) ** 2).sum(axis=0), []
    for times in (0, 1, 4):
        moved = coefficients + times * step
        found = anchor(unit, LOG, sketch, anchors, fits, moved, patterns, squares, range(3))
        off.append(found.off.max())
    assert off[0] > 1e-2
    assert off[1] > 1e-3
    assert off[2] < 1e-5


def test_values_that_are_kept_are_the_same():
    """Genes of most spots as a dense block, the others by spot and by gene; also in more blocks than one."""
    rng = np.random.default_rng(5)
    often = rng.random(60) < 0.3
    counts = rng.poisson(np.where(often, 2.0, 0.1), (1300, 60)).astype(np.uint16)
    x, right, left = log_of(counts), rng.random((60, 7)), rng.random((1300, 7))
    values = ReadyValues(Csr.from_scipy(scipy.sparse.csr_matrix(x)))
    np.testing.assert_allclose(values.dot(right), x @ right, rtol=1e-12)
    np.testing.assert_allclose(values.t_dot(left), x.T @ left, rtol=1e-12)
    for mine, dense in zip(values.moments(), (x.sum(axis=0), (x**2).sum(axis=0)), strict=True):
        np.testing.assert_allclose(mine, dense, rtol=1e-12)


def log_of(counts):
    return np.log1p(counts.astype(np.float64))


def test_values_are_kept_in_this_process_alone():
    kept = KeptValues()
    here = Transform("log", 1e4, np.float32, "cpu", kept)
    source = passes_of(counts_of()).source
    batch = source.batch(0, source.read(0, 40))
    values = here(batch)
    assert here(batch) is values
    with pytest.raises(TypeError, match=r"Pass\.here"):
        pickle.dumps(here)
    # a device makes them anew where it is
    assert pickle.loads(pickle.dumps(replace(here, device="cuda"))).kept is None
    kept.forget()
    assert here(batch) is not values


@pytest.mark.parametrize("n_workers", [2, 4])
def test_workers_change_no_bit(n_workers):
    counts = counts_of()
    one, many = (anchored(counts, 12, 4, n_workers=n, tile_spots=16) for n in (1, n_workers))
    np.testing.assert_array_equal(one[1], many[1])
    np.testing.assert_array_equal(one[2], many[2])


def test_a_fit_is_as_good_as_scikit_learns():
    counts = counts_of()
    x = log_values(counts)
    fits = Fits((4,), np.ones((counts.shape[1], 1)))
    patterns, coefficients = started(counts, fits, 0)
    _, _, last = run(counts, fits, patterns, coefficients, 200)
    theirs = NMF(4, init="nndsvda", max_iter=200, tol=0, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.fit(x)
    assert last.losses[0] == pytest.approx(theirs.reconstruction_err_**2 / (x**2).sum(), rel=1e-9)
