"""A whole study: curve, choice of rank, perturbations, forms, against plain computations."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest
from sklearn.decomposition import PCA
from small_studies import counts_of, log_values, study

from atlasnmf.errors import BadOption
from atlasnmf.models.stanmf import method
from atlasnmf.models.stanmf.anchored import iterate_on_sketch
from atlasnmf.models.stanmf.instability import amari, choose_rank, hungarian, instability
from atlasnmf.models.stanmf.memory import holds_gene_gram, settle, step_bytes
from atlasnmf.models.stanmf.params import Params, parse_ranks
from atlasnmf.models.stanmf.perturb import gene_draws, perturbed, spot_draws

QUICK = {"ranks": (2, 4, 6), "replicates": 4, "max_iterations": 60}


def test_matching_is_the_best_of_all_permutations():
    similarity = np.random.default_rng(0).random((4, 4))
    best = max(similarity[range(4), list(order)].mean() for order in permutations(range(4)))
    assert hungarian(similarity) == pytest.approx(1 - best)
    ups = similarity.max(axis=0).sum() + similarity.max(axis=1).sum()
    assert amari(similarity) == pytest.approx((8 - ups) / 8)


def test_instability_is_over_pairs_whatever_the_scales():
    rng = np.random.default_rng(1)
    patterns = [rng.random((30, 3)) * rng.random(3) * 10 for _ in range(4)]
    stacked = np.concatenate(patterns, axis=1)
    values = []
    for a, b in combinations(patterns, 2):
        cosines = (a / np.linalg.norm(a, axis=0)).T @ (b / np.linalg.norm(b, axis=0))
        values.append(hungarian(cosines))
    found = instability(stacked.T @ stacked, 4)
    assert found.hungarian_mean == pytest.approx(np.mean(values))
    assert found.hungarian_sd == pytest.approx(np.std(values))


def test_equal_fits_are_stable_and_a_dead_pattern_is_not():
    patterns = np.random.default_rng(2).random((20, 3))
    twice = np.concatenate([patterns, patterns[:, ::-1]], axis=1)
    assert instability(twice.T @ twice, 2).hungarian_mean == pytest.approx(0, abs=1e-12)
    twice[:, 0] = 0
    assert instability(twice.T @ twice, 2).hungarian_mean > 0.1


def test_ties_go_to_the_larger_rank():
    assert choose_rank([8, 9, 10], [0.0500, 0.0505, 0.06]) == 9
    assert choose_rank([8, 9, 10], [0.05, 0.06, 0.07]) == 8


@pytest.mark.parametrize("path", ["compressed", "exact"])
def test_the_planted_rank_is_chosen(path):
    """Four patterns of few spots each, well separated: more or fewer are less stable."""
    _, state = study(separate(), path=path, precision="double", **QUICK)
    assert state.rank == 4
    assert [entry["rank"] for entry in state.curve] == [2, 4, 6]
    assert state.patterns.shape == (180, 4)


def separate():
    rng = np.random.default_rng(3)
    owner = np.arange(180) % 4
    programmes = np.where(np.arange(48) // 12 == np.arange(4)[:, None], 6.0, 0.15)
    return rng.poisson(programmes[owner] * rng.uniform(0.6, 1.4, (180, 1))).astype(np.uint16)


def test_both_paths_and_any_stacking_tell_the_same():
    counts = separate()
    curves = {}
    for name, params in {
        "exact": {"path": "exact"},
        "stacked": {"path": "exact", "ranks_together": 3},
        "compressed": {"path": "compressed"},
    }.items():
        _, state = study(counts, precision="double", **params, **QUICK)
        curves[name] = np.array([entry["hungarian_mean"] for entry in state.curve])
        losses = np.array([entry["losses"] for entry in state.curve])
        if name == "exact":
            expected = losses
        np.testing.assert_allclose(losses, expected, rtol=5e-3, err_msg=name)
    np.testing.assert_allclose(curves["stacked"], curves["exact"], atol=1e-9)
    np.testing.assert_allclose(curves["compressed"], curves["exact"], atol=0.01)


@pytest.mark.parametrize(("trusted", "on_sketch"), [(0.0, 4), (1.0, 17)])
def test_a_sketch_that_is_off_is_left(monkeypatch, trusted, on_sketch):
    """The first anchor after the sketch was used finds its error; from then on the data are read."""
    calls = []

    def counted(*arguments):
        calls.append(1)
        return iterate_on_sketch(*arguments)

    monkeypatch.setattr(method, "iterate_on_sketch", counted)
    monkeypatch.setattr(method, "_TRUSTED", trusted)
    monkeypatch.setattr(method, "_AIM", 1.0)  # gaps of 5, 7 and 10 iterations where the sketch is trusted
    params = {"ranks": (4,), "replicates": 2, "max_iterations": 21, "tol": 0.0}
    _, state = study(separate(), exact_iterations=1, anchor_every=5, sketch_width=5, **params)
    assert len(calls) == 2 * on_sketch  # once for the rank's fits, once for the last fit
    assert state.curve[0]["sketch_error"] > 0


def test_anchors_are_as_far_apart_as_keeps_the_sketch_near():
    aim = method._AIM
    assert method._next_gap(8, aim) == 8
    assert method._next_gap(8, aim / 1.44) == 9  # the error grows with the square of the gap
    assert method._next_gap(8, 0.0) == 12
    assert method._next_gap(8, method._TRUSTED) == 4
    assert method._next_gap(3, method._TRUSTED) == 2
    assert method._next_gap(14, 0.0) == 16
    assert method._next_gap(8, method._TRUSTED * 1.01) == 1
    assert method._next_gap(1, aim / 2) == 1
    assert method._next_gap(1, aim / 4) == 2


def test_the_last_fit_is_of_all_genes_and_its_loss_is_its_own():
    counts = separate()
    model, state = study(counts, precision="double", **QUICK)
    x = log_values(counts)
    coefficients = model.result(state).varm["stanmf_coefficients"].astype(float)
    left = ((x - state.patterns @ coefficients.T) ** 2).sum() / (x**2).sum()
    assert model.result(state).uns["loss"] == pytest.approx(left, rel=1e-5)


@pytest.mark.parametrize(
    "params", [{"perturbation": "spots"}, {"perturbation": "seeds"}, {"warm_ranks": True}]
)
def test_other_perturbations_choose_the_planted_rank(params):
    _, state = study(separate(), precision="double", **QUICK, **params)
    found = {entry["rank"]: entry["hungarian_mean"] for entry in state.curve}
    assert state.rank in (2, 4)
    assert found[4] < found[6]
    assert found[4] < 0.02


def test_patterns_need_not_be_kept():
    _, state = study(separate(), keep_patterns="recompute", path="exact", **QUICK)
    found = {entry["rank"]: entry["hungarian_mean"] for entry in state.curve}
    assert found[4] < min(0.02, found[6])
    assert state.patterns.shape[1] == state.rank


def test_single_precision_says_the_same():
    counts = separate()
    curves = []
    for precision in ("single", "double"):
        _, state = study(counts, precision=precision, **QUICK)
        curves.append([entry["hungarian_mean"] for entry in state.curve])
    np.testing.assert_allclose(curves[0], curves[1], atol=5e-3)


def test_the_components_are_those_of_principal_component_analysis():
    counts = counts_of()
    x = log_values(counts)
    _, state = study(counts, precision="double", ranks=(3,), replicates=3, max_iterations=4, sketch_width=50)
    scores = []
    for fit in range(3):
        drawn = np.repeat(np.arange(50), gene_draws(0, 3, fit, 50).astype(int))
        scores.append(PCA(3, svd_solver="full").fit_transform(x[:, drawn]))
    stacked = np.concatenate(scores, axis=1)
    expected = instability(np.abs(stacked.T @ stacked), 3)
    assert state.curve[0]["pca_mean"] == pytest.approx(expected.hungarian_mean, abs=1e-6)


def test_draws_are_those_of_their_rank_and_fit_alone():
    together = perturbed("genes", 5, (3, 4), 2, 40, 30)
    alone = perturbed("genes", 5, (4,), 2, 40, 30)
    np.testing.assert_array_equal(together.gene_weights[:, 2:], alone.gene_weights)
    assert (together.gene_weights.sum(axis=0) == 30).all()
    assert spot_draws(5, 3, 0, 40).sum() == 40


@pytest.mark.parametrize(
    ("text", "ranks"),
    [("8-10", (8, 9, 10)), ("4,12, 6", (4, 6, 12)), (range(3, 5), (3, 4)), ([7], (7,)), (5, (5,))],
)
def test_ranks(text, ranks):
    assert parse_ranks(text) == ranks
    assert Params(ranks=text).ranks == ranks


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"ranks": "1-4"}, "rank below 2"),
        ({"ranks": "four"}, "write ranks like 8-30"),
        ({"ranks": "9-8"}, "no rank is left"),
        ({"replicates": 1}, "greater than or equal to 2"),
        ({"warm_ranks": True, "perturbation": "seeds"}, "start by chance"),
    ],
)
def test_what_cannot_be_studied_is_refused(params, message):
    with pytest.raises(BadOption, match=message):
        Params(**params)


def test_the_form_follows_the_budget():
    params = Params(ranks="8-10", replicates=10)
    sizes = {"n_spots": 10**6, "n_genes": 2000}
    rooms = (10**11, 10**9, 5 * 10**8)
    forms = [settle(params, **sizes, nnz=900.0, array_bytes=n_bytes)[0] for n_bytes in rooms]
    assert [(form.path, form.keep_patterns) for form in forms] == [
        ("compressed", "keep"),
        ("exact", "keep"),
        ("exact", "recompute"),
    ]
    assert [step_bytes(form, **sizes) for form in forms] == sorted(
        (step_bytes(form, **sizes) for form in forms), reverse=True
    )
    # values are kept where they fit beside the same form
    rich = settle(params, **sizes, nnz=900.0, array_bytes=10**11)[0]
    beside = step_bytes(rich, **sizes, nnz=900.0) - 1
    poor = settle(params, **sizes, nnz=900.0, array_bytes=int(beside / 0.75))[0]
    assert (rich.keep_values, poor.keep_values, poor.path) == ("keep", "reread", "compressed")
    # with them the products of the genes that the starts are found from
    more = 65_536 * 900 * 16 + 4 * 8 * 2000**2
    assert step_bytes(rich, **sizes, nnz=900.0) - step_bytes(poor, **sizes, nnz=900.0) == more


@pytest.mark.parametrize(
    ("change", "nnz", "n_genes", "held"),
    [
        ({}, 264.0, 2000, True),
        ({}, 264.0, 8500, False),  # the products would be more than the values
        ({"learn_spots": 0, "replicates": 100}, 1500.0, 20_000, False),  # however many fits there are
        ({}, 20.0, 2000, False),  # the values are few
        ({"replicates": 2, "ranks": "8"}, 264.0, 2000, False),  # and so are the fits
        ({"perturbation": "seeds"}, 264.0, 2000, False),  # starts by chance
        ({"keep_values": "reread"}, 264.0, 2000, False),  # no memory to spare
    ],
)
def test_starts_hold_the_products_of_genes_where_that_is_less_work(change, nnz, n_genes, held):
    params = Params(**{"ranks": "8,16,30", "replicates": 10} | change)
    assert holds_gene_gram(params, n_spots=20_000, n_genes=n_genes, nnz=nnz) is held


def test_a_larger_study_takes_the_exact_path_where_values_are_few():
    params = Params(ranks="8-10", replicates=10)
    sizes = {"n_spots": 10**6, "n_genes": 2000}
    sparse = settle(params, **sizes, nnz=100.0, array_bytes=10**11)[0]
    assert (sparse.path, sparse.ranks_together) == ("exact", 3)
    given = Params(ranks="8-10", replicates=10, path="exact")
    asked = settle(given, **sizes, nnz=900.0, array_bytes=10**11)[0]
    assert (asked.path, asked.ranks_together) == ("exact", 3)


def test_coefficients_learned_from_some_spots_serve_all():
    counts = separate()
    _, some = study(counts, precision="double", learn_spots=90, **QUICK)
    _, every = study(counts, precision="double", **QUICK)
    assert some.rank == every.rank == 4
    for one, other in zip(some.curve, every.curve, strict=True):
        assert one["loss"] < 1.01 * other["loss"]  # half of so few spots
        assert one["hungarian_mean"] == pytest.approx(other["hungarian_mean"], abs=0.03)
    x = log_values(counts)
    coefficients = some.coefficients.astype(float)
    left = ((x - some.patterns @ coefficients.T) ** 2).sum() / (x**2).sum()
    assert some.last_loss[0] == pytest.approx(left, rel=1e-6)


@pytest.mark.parametrize("path", ["compressed", "exact"])
def test_spots_whose_values_are_kept_are_gone_over_here(path):
    """Whatever is asked of this client is an error."""
    counts, options = separate(), {**QUICK, "path": path}
    model, alone = study(counts, **options)
    _, beside = study(counts, client=object(), **options)
    np.testing.assert_array_equal(beside.patterns, alone.patterns)
    np.testing.assert_array_equal(beside.coefficients, alone.coefficients)
    for more in ({"keep_values": "reread"}, {"learn_spots": 90}):
        with pytest.raises(AttributeError):
            study(counts, client=object(), **options, **more)
    # a fit may stay with the user for long, and its values need not
    assert not model.method._kept._tiles
