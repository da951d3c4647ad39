import numpy as np
import pytest

from atlasnmf.errors import BadInput
from atlasnmf.store.ontology import Ontology, read_ontology

ALLEN = """id,acronym,name,parent_structure_id,structure_id_path
997,root,root,,/997/
8,grey,"Basic cell groups, and regions",997,/997/8/
512,CB,Cerebellum,8,/997/8/512/
567,CH,Cerebrum,8,/997/8/567/
688,CTX,Cerebral cortex,567,/997/8/567/688/
"""


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "o.csv").write_text(ALLEN)
    return read_ontology(tmp_path / "o.csv")


def test_the_allen_table_is_read(tree):
    assert tree.acronyms == ("root", "grey", "CB", "CH", "CTX")
    assert tree.names[1] == "Basic cell groups, and regions"
    assert tree.parents.tolist() == [-1, 997, 8, 8, 567]
    assert tree.lineage(688) == [688, 567, 8, 997]
    assert tree.lineage(5) == []
    assert tree.acronym(512) == "CB"
    assert tree.acronym(5) == "5"
    assert 688 in tree
    assert 5 not in tree


def test_parents_come_from_paths_too(tmp_path, tree):
    rows = [
        line.split(",") for line in ALLEN.replace('"Basic cell groups, and regions"', "grey").splitlines()
    ]
    (tmp_path / "p.tsv").write_text("\n".join("\t".join([r[1], r[0], r[4]]) for r in rows))
    found = read_ontology(tmp_path / "p.tsv")
    np.testing.assert_array_equal(found.parents, tree.parents)
    assert found.names == found.acronyms


def test_parquet_is_read_alike(tmp_path, tree):
    import pandas as pd

    pd.read_csv(tmp_path / "o.csv").to_parquet(tmp_path / "o.parquet")
    found = read_ontology(tmp_path / "o.parquet")
    assert found.acronyms == tree.acronyms
    np.testing.assert_array_equal(found.parents, tree.parents)
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(BadInput, match="cannot be read as a table"):
        read_ontology(tmp_path / "torn.parquet")


def test_it_goes_through_plain_arrays(tree):
    again = Ontology.of(tree.record())
    assert again.acronyms == tree.acronyms
    np.testing.assert_array_equal(again.ids, tree.ids)
    np.testing.assert_array_equal(again.parents, tree.parents)


def test_membership_holds_regions_of_all_levels_once(tree):
    regions, contains = tree.membership(np.array([512, 688, 31]))
    # 567 holds what 688 holds, 997 what 8 holds: the finest stands for both; 31 is not in the table
    assert regions.tolist() == [8, 31, 512, 688]
    assert contains.astype(int).tolist() == [[1, 1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,name\n1,a\n", "no column acronym"),
        ("id,acronym\n1,a\n", "no column structure_id_path"),
        ("id,acronym,parent\n1,a,\n1,b,\n", "id 1 occurs twice"),
        ("id,acronym,parent\n1,a,\n2,a,1\n", "acronym 'a' occurs twice"),
        ("id,acronym,parent\nx,a,\n", "row 1 .* has 'x' for id"),
    ],
)
def test_bad_tables_are_refused(tmp_path, text, message):
    (tmp_path / "o.csv").write_text(text)
    with pytest.raises(BadInput, match=message):
        read_ontology(tmp_path / "o.csv")


def test_no_table_and_circles(tmp_path):
    with pytest.raises(BadInput, match="no ontology table"):
        read_ontology(tmp_path / "none.csv")
    circle = Ontology(np.array([1, 2]), ("a", "b"), ("a", "b"), np.array([2, 1]))
    with pytest.raises(BadInput, match="part of itself"):
        circle.lineage(1)
