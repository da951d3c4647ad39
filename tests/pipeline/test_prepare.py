"""Prepare: each stage once, a changed parameter redoes what depends on it, an interrupted one goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_stores import Stops, build, make_table, ok, refused, tree_hash

import atlasnmf as an
from atlasnmf.errors import BadOption, Interrupted
from atlasnmf.pipeline import resume
from atlasnmf.store.working import WorkingCopy

Copy = Callable[..., Path]
ALL = {"survey", "genes", "order", "counts", "graph", "components"}


def features(store: Path) -> dict[str, np.ndarray]:
    """Read what prepare made."""
    working = WorkingCopy.find(store)
    assert working is not None
    found = {name: working.vector(name) for name in ("order", "offsets", "totals", "components")}
    counts, graph, scores = working.csr("counts"), working.csr("graph"), working.dense("scores")
    found["counts"] = counts.read(0, counts.n_rows).data
    found["graph"] = graph.read(0, graph.n_rows).indices
    found["scores"] = scores.read(0, scores.n_rows)
    return found


def test_a_second_run_does_nothing(copy: Copy) -> None:
    store = copy()
    atlas = an.open_atlas(store)
    assert set(an.prepare(atlas, workers=1).seconds) == ALL
    before = tree_hash(store)
    again = an.prepare(an.open_atlas(store), workers=2)
    assert again.seconds == {}
    assert "all done before" in again.lines()[1]
    assert tree_hash(store) == before


@pytest.mark.parametrize(
    ("changed", "redone"),
    [
        ({"radius": 1.5}, {"graph", "components"}),
        ({"target_sum": 500.0}, {"components"}),
        ({"min_spots": 30}, {"genes", "counts", "components"}),
        ({"genes": "hvg", "n_hvgs": 40}, {"genes", "counts", "components"}),
        ({"n_components": 5}, {"components"}),
        ({"min_genes": 4}, ALL),
    ],
    ids=lambda value: ",".join(sorted(value)),
)
def test_a_changed_parameter_redoes_what_depends_on_it(
    copy: Copy, changed: dict[str, float], redone: set[str]
) -> None:
    atlas = an.open_atlas(copy())
    an.prepare(atlas, workers=1)
    assert set(an.prepare(atlas, workers=1, **changed).seconds) == redone


@pytest.mark.parametrize("stage", ["survey slice_1", "copy counts", "neighbours", "components", "scores"])
def test_an_interrupted_prepare_goes_on(copy: Copy, stage: str) -> None:
    store, whole = copy(), copy("whole.zarr")
    an.prepare(an.open_atlas(whole), workers=1)
    before = tree_hash(store)
    with pytest.raises(Interrupted) as stopped:
        an.prepare(an.open_atlas(store), workers=1, events=Stops(stage=stage))
    assert stopped.value.resume_command == f"atlasnmf resume {store}"
    resume(str(store))
    found = features(store)
    for name, value in features(whole).items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert tree_hash(store) == before
    assert "nothing to resume" in refused("resume", str(store))


def test_the_working_copy_elsewhere_is_named_in_the_resume_command(copy: Copy, tmp_path: Path) -> None:
    store, place = copy("my store.zarr"), tmp_path / "scratch"
    with pytest.raises(Interrupted) as stopped:
        an.prepare(an.open_atlas(store), work_dir=str(place), events=Stops(stage="neighbours"))
    assert stopped.value.resume_command == f"atlasnmf resume '{store}' --work-dir {place}"
    ok("resume", str(store), "--work-dir", str(place))
    assert not (tmp_path / "my store.zarr.atlasnmf" / "ledger.json").exists()


def test_a_panel_of_33_genes_and_one_of_nine(tmp_path: Path) -> None:
    for n_genes in (33, 9):
        tables = [make_table(seed, n_genes=n_genes) for seed in (0, 1)]
        store = build(tmp_path / str(n_genes), *tables)
        prepared = an.prepare(an.open_atlas(store), workers=1)
        assert prepared.facts.n_genes == n_genes
        assert prepared.settled.target_sum == 1e3
        assert prepared.facts.components.shape == (n_genes, min(32, n_genes - 1))


def test_tables_with_different_gene_orders_agree(tmp_path: Path) -> None:
    shuffled = np.random.default_rng(3).permutation(64)
    plain = build(tmp_path / "a", make_table(0), make_table(1))
    other = build(tmp_path / "b", make_table(0), make_table(1, gene_order=shuffled))
    first, second = (an.prepare(an.open_atlas(store), workers=1).facts for store in (plain, other))
    assert first.genes == second.genes
    np.testing.assert_array_equal(first.gene_sums, second.gene_sums)


def test_both_graphs_at_once_are_refused(copy: Copy) -> None:
    with pytest.raises(BadOption, match="not both"):
        an.prepare(an.open_atlas(copy()), radius=2.0, n_neighbors=4)


def test_genes_that_were_never_named_are_said(tmp_path: Path) -> None:
    tables = [make_table(seed) for seed in range(2)]
    named = an.prepare(an.open_atlas(build(tmp_path, *tables, name="named.zarr")), workers=1)
    assert not any("named by numbers" in text for text in named.warnings)
    for table in tables:
        table.var_names = [str(number) for number in range(table.n_vars)]
    prepared = an.prepare(an.open_atlas(build(tmp_path, *tables)), workers=1)
    (text,) = (text for text in prepared.warnings if "named by numbers" in text)
    assert "table 'slice_0'" in text
    assert "join tables by position" in text
