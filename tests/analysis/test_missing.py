"""What is not there is said with what makes it, and the store stays as it was."""

from __future__ import annotations

import pytest

import atlasnmf as an
from atlasnmf.errors import BadInput, BadOption


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda store: an.tl.markers(store), r"no result 'stanmf' in .*; fit it first: atlasnmf fit stanmf"),
        (lambda store: an.tl.factor_genes(store, "inspyre"), "did you mean 'inspire'"),
        (lambda store: an.tl.proportions(store), "no obs column 'domains' .* atlasnmf.tl.domains"),
        (lambda store: an.tl.domains(store, "X_spatialfuser"), "atlasnmf fit spatialfuser"),
        (lambda store: an.tl.match_summary(store), "atlasnmf fit spatialfuser"),
        (lambda store: an.pl.factors(store, "stanmf"), "atlasnmf fit stanmf"),
        (lambda store: an.pl.history(store, "stanmf"), "atlasnmf fit stanmf"),
        (lambda store: an.load_fit(str(store)), "no finished fit .* atlasnmf fit inspire"),
    ],
)
def test_missing_results_name_the_fit(untouched, call, said):
    with pytest.raises(BadInput, match=said):
        call(untouched)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda store: an.load_fit(str(store), "inspyre"), "no model named 'inspyre'"),
        (lambda store: an.tl.domains(store, n_domains=0), "one domain or more"),
        (lambda store: an.StaNMF(replicate=3), "did you mean --replicates"),
        (lambda store: an.open_atlas(store, slices=["slize_1"]), "did you mean 'slice_1'"),
    ],
)
def test_names_that_are_none_suggest_the_nearest(untouched, call, said):
    with pytest.raises(BadOption, match=said):
        call(untouched)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda store: an.tl.factor_genes(store, n_top=0), "n_top must be 1 or more, got 0"),
        (lambda store: an.tl.enrichment(store, {"a": ["g00"]}, n_permutations=0), "n_permutations"),
        (lambda store: an.tl.markers(store, "inspire", n_top=-1), "n_top"),
        (lambda store: an.tl.gene_networks(store, "inspire", n_top=0), "n_top"),
        (lambda store: an.tl.impute(store, n_neighbors=0), "n_neighbors"),
        (lambda store: an.tl.impute(store, hidden=-1), "hidden must be 0 or more"),
        (lambda store: an.tl.reconstruct_3d(store, n_neighbors=0), "n_neighbors"),
        (lambda store: an.tl.baseline(store, n_components=0), "n_components"),
        (lambda store: an.tl.reconstruction(store, "inspire", transform="sqrt"), "choose log or none"),
        (lambda store: an.pl.factors(store, factors=[]), "nothing to draw"),
        (lambda store: an.pl.factors(store, slices=[]), "no slice is named"),
        (lambda store: an.pl.genes(store, []), "nothing to draw"),
        (lambda store: an.pl.embedding(store, color=[]), "nothing to draw"),
        (lambda store: an.pl.domains(store, "region", n_columns=0), "n_columns must be 1 or more"),
        (lambda store: an.pl.projections(store, "inspire", reduce="median"), "choose max or mean"),
    ],
)
def test_numbers_and_words_without_a_meaning_are_refused(untouched, call, said):
    with pytest.raises(BadOption, match=said):
        call(untouched)
