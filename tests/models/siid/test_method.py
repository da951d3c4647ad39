import dataclasses
import json
import pickle

import numpy as np
import pytest
from small_pairs import small_pair

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.metrics import hungarian_match, jensen_shannon, poisson_ceiling, r_squared
from atlasnmf.models.siid.holdout import held_out
from atlasnmf.models.siid.method import Model, build
from atlasnmf.models.siid.params import PRESETS, Params
from atlasnmf.models.siid.passes import CoarseTask, FineTask, Thinning
from atlasnmf.models.siid.published import fit_published


def same(left, right):
    arrays, scalars = left
    others, more = right
    assert scalars == more
    assert arrays.keys() == others.keys()
    for name, values in arrays.items():
        np.testing.assert_array_equal(values, others[name])


def test_the_planted_types_are_found():
    pair = small_pair(0, n_fine=1500, n_coarse=60, n_genes=60, n_panel=30, depth=150.0)
    model, state, _ = pair.fit(n_factors=3, holdout="g0,g10,g20")
    unit = pair.unit()
    parts = [model.infer(state, batch) for batch in batches(pair)]
    factors = np.concatenate([part["siid_factors"] for part in parts if "siid_factors" in part])
    proportions = np.concatenate([part["siid_proportions"] for part in parts if "siid_proportions" in part])
    assert unit.n_rows == len(factors) + len(proportions)
    np.testing.assert_allclose(factors.sum(1), 1, atol=1e-5)
    truth = np.eye(3)[pair.types]
    _, columns = hungarian_match(truth.T @ factors)
    assert (factors.argmax(1) == columns[pair.types]).mean() > 0.97
    known = np.isfinite(proportions).all(1) & np.isfinite(pair.proportions).all(1)
    assert known.sum() == 59
    found = proportions[known][:, columns]
    assert jensen_shannon(found, pair.proportions[known]).mean() < 0.02
    genes = np.array([0, 10, 20])
    means = pair.depths[:, None] * pair.profiles[pair.types][:, genes]
    imputed = model.impute(state, np.arange(1500), genes)
    scores, ceiling = r_squared(pair.fine[:, genes], imputed), r_squared(pair.fine[:, genes], means)
    assert (scores > 0.9 * ceiling).all()
    np.testing.assert_allclose(ceiling, poisson_ceiling(means), atol=0.1)
    loadings, _ = model.loadings(state)
    assert loadings.shape == (60, 3)


def batches(pair, tile_spots=100):
    source, unit = pair.source(), pair.unit(tile_spots=tile_spots)
    for tile in unit.tiles:
        yield source.batch(tile.slice_index, source.read(tile.start, tile.stop))


@pytest.mark.parametrize("more", [{}, {"coarse_counts": "negative-binomial"}, {"n_factors": "auto"}])
def test_the_same_bits_for_one_and_two_workers(more):
    pair = small_pair(1)
    options = {"n_factors": 3, "passes": 12, "restart_passes": 4, **more}
    one, two = (pair.fit(n_workers=n, **options) for n in (1, 2))
    same(one[0].method.pack(one[1]), two[0].method.pack(two[1]))


def test_tasks_on_other_workers_give_the_same_bits():
    from distributed import Client, LocalCluster

    pair = small_pair(1)
    options = {"n_factors": 3, "passes": 6, "restarts": 2, "restart_passes": 3, "out_of_panel": "none"}
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as client,
    ):
        far = pair.fit(client=client, **options)
    here = pair.fit(**options)
    same(here[0].method.pack(here[1]), far[0].method.pack(far[1]))
    tasks = [FineTask(*(np.zeros(1) for _ in range(6)), 1, 0.0, "cpu", Thinning(0.1, 0))]
    tasks.append(CoarseTask(3, np.zeros(1), np.zeros(1), None, None, "cpu"))
    for task in tasks:
        assert type(pickle.loads(pickle.dumps(task))) is type(task)


@pytest.mark.parametrize("at", [2, 9, 20])
def test_a_restored_state_goes_on_with_the_same_bits(at):
    pair = small_pair(2)
    method = build(Params(n_factors=3, passes=14, restart_passes=5), pair.facts(), "cpu", 0).method
    state, unit = method.init(pair.sample()), pair.unit()
    for _ in range(at):
        state, _ = method.step(state, unit)
    arrays, scalars = method.pack(state)
    restored = method.unpack(
        {name: values.copy() for name, values in arrays.items()}, json.loads(json.dumps(scalars))
    )
    while not method.done(state):
        state, _ = method.step(state, unit)
    again = build(Params(n_factors=3, passes=14, restart_passes=5), pair.facts(), "cpu", 0).method
    while not again.done(restored):
        restored, _ = again.step(restored, unit)
    same(method.pack(state), again.pack(restored))


def test_restarts_share_passes_and_the_best_goes_on():
    pair = small_pair(3)
    params = Params(n_factors=3, restarts=3, restart_passes=5, out_of_panel="none")
    method = build(params, pair.facts(), "cpu", 0).method
    state, unit = method.init(pair.sample()), pair.unit()
    for _ in range(4):
        state, _ = method.step(state, unit)
    assert state.factors.shape[1] == 3
    alone, _ = method.step(dataclasses.replace(state, factors=state.factors.copy()), unit)
    assert alone.factors.shape[1] == 1
    assert alone.lanes.tolist() == [int(alone.lanes[0])]


def test_every_fold_hides_its_genes_from_the_fine_slice():
    pair = small_pair(4)
    model, state, _ = pair.fit(n_factors=3, holdout="4fold", passes=8)
    folds = model.folds(state)
    assert len(folds) == 4
    assert state.factors.shape[1] == 5
    assert sorted(np.concatenate([genes for _, genes in folds]).tolist()) == list(range(20))
    # the counts of a hidden gene decide nothing
    lane, genes = folds[2]
    changed = dataclasses.replace(pair, fine=pair.fine.copy())
    changed.fine[:, genes] = np.random.default_rng(0).permutation(changed.fine[:, genes])
    other, again, _ = changed.fit(n_factors=3, holdout="4fold", passes=8)
    rows = np.arange(pair.n_fine)
    np.testing.assert_array_equal(
        model.impute(state, rows, genes, lane), other.impute(again, rows, genes, lane)
    )


def test_unlinked_cells_and_empty_spots():
    pair = small_pair(5)
    model, state, _ = pair.fit(n_factors=3, passes=20)
    assert (state.shares[294:300, 0] == 0).all()
    assert np.isfinite(model.impute(state, np.arange(294, 300), np.arange(20))).all()
    last = list(batches(pair))[-1]
    proportions = model.infer(state, last)["siid_proportions"]
    assert np.isnan(proportions[-1]).all()
    assert np.isfinite(proportions[:-1]).all()


def test_the_number_of_factors_is_chosen_on_molecules_set_aside():
    pair = small_pair(6, n_fine=2000, n_coarse=40, n_genes=60, n_panel=50, n_types=8, depth=300.0)
    model, state, _ = pair.fit(n_factors="auto", passes=6, restarts=1, out_of_panel="none")
    assert state.n_factors == 8
    assert isinstance(model, Model)


def test_holdouts_from_text():
    panel = [f"g{i}" for i in range(20)]
    (share,), crossed = held_out("0.1", panel, seed=3)
    assert len(share) == 2
    assert not crossed
    np.testing.assert_array_equal(share, held_out("0.1", panel, seed=3)[0][0])
    assert held_out(None, panel, seed=0) == ([], False)
    folds, crossed = held_out("10fold", panel, seed=0)
    assert crossed
    assert sorted(np.concatenate(folds).tolist()) == list(range(20))
    with pytest.raises(BadInput, match="'nope'"):
        held_out("g1,nope", panel, seed=0)
    for wrong in "1.5", "0", "30fold", "1fold", ",".join(panel):
        with pytest.raises(BadOption, match="--holdout"):
            held_out(wrong, panel, seed=0)


def test_presets_are_valid_and_wrong_values_are_said():
    for preset in PRESETS.values():
        Params(**preset)
    with pytest.raises(BadOption, match="at least 2 factors"):
        Params(n_factors=1)
    with pytest.raises(BadOption, match="--max-distance"):
        Params(max_distance=-1.0)


def test_the_published_optimiser_reaches_the_loss_of_em():
    pair = small_pair(7, depth=80.0)
    spot_of = pair.spots[:, 0]
    measured = np.arange(20) < 18
    found = fit_published(
        pair.fine[:, :18], pair.coarse[:, :20], measured, spot_of, n_factors=3, epochs=600, learning_rate=0.05
    )
    holdout = "g18,g19"
    _, _, losses = pair.fit(n_factors=3, holdout=holdout, out_of_panel="none", tol=1e-6)
    assert found.losses[-1] < found.losses[0]
    assert losses[-1] < found.losses[-1] + 0.02 * abs(found.losses[-1])
    np.testing.assert_allclose(found.factors.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(found.loadings.sum(0), 1, rtol=1e-5)
    assert (found.scaling[18:] == 1).all()
