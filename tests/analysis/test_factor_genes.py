from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import spatialdata
from small_results import GENES, SETS

from atlasnmf import tl
from atlasnmf.errors import BadInput, BadOption


def loadings_of(store):
    return spatialdata.read_zarr(store).tables["slice_1"].varm["inspire_loadings"]


def test_own_genes_are_the_top_ones_larger_than_elsewhere(small):
    found = tl.factor_genes(str(small), n_top=20)
    loadings = loadings_of(small)
    for k in range(3):
        top = np.argsort(-loadings[:, k], kind="stable")[:20]
        own = [GENES[g] for g in top if all(loadings[g, k] > loadings[g, j] for j in range(3) if j != k)]
        rows = found.query(f"factor == {k}")
        assert rows["gene"].tolist() == [GENES[g] for g in top]
        assert rows.loc[rows["specific"], "gene"].tolist() == own
        g = top[0]
        assert rows["fold"].iloc[0] == pytest.approx(loadings[g, k] / np.delete(loadings[g], k).max())
    stored = spatialdata.read_zarr(small).tables["slice_2"].uns["inspire_genes"]
    assert stored["gene"].tolist() == found["gene"].tolist()


def test_markers_rank_first_in_their_factor(small):
    found = tl.marker_ranks(str(small), SETS)
    loadings = loadings_of(small)
    for r in range(3):
        first = found.query(f"gene_set == 'region_{r}'").iloc[0]
        assert first["factor"] == r
        ranks = np.argsort(np.argsort(-loadings[:, r], kind="stable"))
        own = ranks[[GENES.index(gene) for gene in SETS[f"region_{r}"]]]
        others = np.setdiff1d(ranks, own)
        assert first["auc"] == pytest.approx(np.mean([(rank < others).mean() for rank in own]))
        assert first["median_rank"] == np.median(own)
        assert first["best_rank"] == own.min()


def test_enriched_sets_are_those_planted(small):
    sets = SETS | {"spread": GENES[:12], "large": GENES}
    found = tl.enrichment(str(small), sets, n_permutations=300)
    # a set of all genes says nothing and is left out
    assert set(found["gene_set"]) == {"region_0", "region_1", "region_2", "spread"}
    for k in range(3):
        first = found.query(f"factor == {k}").iloc[0]
        assert first["gene_set"] == f"region_{k}"
        assert first["q"] < 1e-3
        assert first["gsea_q"] < 0.02
        assert sorted(first["genes"].split(",")) == sorted(SETS[f"region_{k}"])
    stored = spatialdata.read_zarr(small).tables["slice_1"].uns["inspire_enrichment"]
    names = stored["gene_sets"].tolist()
    expected = found.query("factor == 1 and gene_set == 'spread'").iloc[0]
    assert stored["gsea"]["score"][1, names.index("spread")] == expected["score"]
    assert stored["over_representation"]["p"][1, names.index("spread")] == expected["p"]


def test_the_same_seed_gives_the_same_scores(small):
    first = tl.enrichment(str(small), SETS, method="gsea", n_permutations=50, key_added="one")
    again = tl.enrichment(str(small), SETS, method="gsea", n_permutations=50, key_added="two")
    pd.testing.assert_frame_equal(first, again)
    assert "q" not in first


@pytest.mark.parametrize("ending", ["gmt", "csv", "tsv", "parquet"])
def test_sets_go_out_and_come_back(tmp_path, ending):
    path = tl.write_gene_sets(SETS, tmp_path / f"sets.{ending}")
    assert tl.read_gene_sets(path) == SETS


def test_own_genes_can_be_written_as_sets(small, tmp_path):
    genes = tl.factor_genes(str(small), n_top=5)
    sets = tl.read_gene_sets(tl.write_gene_sets(genes, tmp_path / "own.gmt"))
    assert sets["factor_2"] == genes.query("factor == 2 and specific")["gene"].tolist()


def test_decouplers_columns_are_known():
    frame = pd.DataFrame({"source": ["a", "a"], "target": ["x", "y"], "weight": [1, 1]})
    assert tl.read_gene_sets(frame) == {"a": ["x", "y"]}


def test_sets_that_share_no_gene_are_shown_beside_the_genes(untouched):
    with pytest.raises(BadInput, match=r"share no gene .*Alb, Afp.* the model g00, g01.* same species"):
        tl.enrichment(str(untouched), {"liver": ["Alb", "Afp"]})
    with pytest.raises(BadInput, match="ignore_case=True"):
        tl.marker_ranks(str(untouched), {"upper": ["G00", "G01"]})


def test_upper_case_is_taken_when_asked(small):
    upper = {name: [gene.upper() for gene in genes] for name, genes in SETS.items()}
    found = tl.marker_ranks(str(small), upper, ignore_case=True)
    assert found["n_genes"].eq(8).all()


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda s: tl.factor_genes(s, "inspyre"), BadInput, "did you mean"),
        (lambda s: tl.factor_genes(s, "stanmf"), BadInput, "atlasnmf fit stanmf"),
        (lambda s: tl.enrichment(s, SETS, method="magic"), BadOption, "gsea or both"),
        (lambda s: tl.enrichment(s, SETS, min_genes=30, max_genes=35), BadInput, "lower min_genes"),
        (lambda s: tl.enrichment(s, {}), BadInput, "no gene sets"),
        (lambda s: tl.enrichment(s, "nowhere.gmt"), BadInput, "no file nowhere.gmt"),
        (lambda s: tl.enrichment(s, 7), BadOption, "mapping or a file"),
        (lambda s: tl.enrichment(s, pd.DataFrame({"a": [1]})), BadInput, "gene_set and gene"),
    ],
)
def test_what_cannot_be_done_is_said_and_leaves_the_store(untouched, call, error, words):
    with pytest.raises(error, match=words):
        call(str(untouched))


def test_an_older_result_is_kept(small):
    tl.factor_genes(str(small))
    with pytest.raises(BadOption, match="overwrite"):
        tl.factor_genes(str(small))
    tl.factor_genes(str(small), overwrite=True)
