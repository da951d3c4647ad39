from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from atlasnmf.analysis.region_unions import link_regions, search_unions
from atlasnmf.analysis.regions import regions_of
from atlasnmf.errors import BadInput, BadOption
from atlasnmf.graph.grid import grid_graph
from atlasnmf.metrics.regions import adjacency_on_grid
from atlasnmf.simulate.volume import made_grid


class Brain:
    """A made grid of a dozen regions in a few divisions, and some noisy patterns."""

    def __init__(self, n_regions=12, n_patterns=4, seed=0):
        painted = made_grid((16, 14, 12), n_regions, seed=seed)
        mask = painted.regions > 0
        self.ontology = painted.ontology
        self.numbers = painted.regions[mask]
        self.names = np.array([self.ontology.acronym(n) for n in self.numbers])
        self.graph = grid_graph(np.argwhere(mask))
        rng = np.random.default_rng(seed)
        self.patterns = rng.gamma(1.0, size=(len(self.names), n_patterns))
        leaves = np.unique(self.names)
        for k in range(n_patterns):
            self.patterns[:, k] += 3.0 * np.isin(self.names, rng.choice(leaves, 3, replace=False))

    def regions(self, flat=False):
        return regions_of(self.names, self.graph, ontology=None if flat else self.ontology)


@pytest.fixture(scope="module")
def brain():
    return Brain()


def brute_unions(regions, size):
    """Every union of a size, by sets of spots and a walk from region to region."""
    members = [regions.inside(name) for name in regions.names]
    found = []
    for union in combinations(range(len(members)), size):
        if any((members[a] & members[b]).any() for a, b in combinations(union, 2)):
            continue
        reached, waiting = {union[0]}, [union[0]]
        while waiting:
            a = waiting.pop()
            for b in union:
                if b not in reached and regions.adjacent[a, b]:
                    reached.add(b)
                    waiting.append(b)
        if len(reached) == size:
            found.append(union)
    return found


def test_regions_of_all_levels(brain):
    regions = brain.regions()
    assert "root" in regions.names
    for place, name in enumerate(regions.names):
        number = int(brain.ontology.ids[brain.ontology.acronyms.index(name)])
        expected = [number in brain.ontology.lineage(int(n)) for n in brain.numbers]
        np.testing.assert_array_equal(regions.inside(name), expected)
        assert regions.sizes[place] == np.sum(expected)
    # a division touches what any of its regions touches
    for a, b in combinations(range(len(regions.names)), 2):
        inside_a, inside_b = regions.inside(regions.names[a]), regions.inside(regions.names[b])
        edges = brain.graph.to_scipy()
        touching = edges[inside_a][:, inside_b].nnz > 0
        if not (inside_a & inside_b).any():
            assert regions.adjacent[a, b] == touching
        assert regions.disjoint[a, b] == (not (inside_a & inside_b).any())
    with pytest.raises(BadInput, match="no region 'rooot'"):
        regions.inside("rooot")


def test_labels_without_an_ontology_or_outside_it(brain):
    flat = brain.regions(flat=True)
    assert set(flat.names) == set(brain.names)
    labels = brain.names.astype(object).copy()
    labels[labels == labels[0]] = "strange"
    labels[5] = None
    regions = regions_of(labels, brain.graph, ontology=brain.ontology)
    assert "strange" in regions.names
    assert regions.labels[5] == -1
    assert regions.inside("strange").sum() == (labels == "strange").sum()
    with pytest.raises(BadInput, match="no spot has a region"):
        regions_of([None] * len(labels), brain.graph)


@pytest.mark.parametrize("flat", [True, False])
def test_pairs_and_triples_are_those_that_hang_together(brain, flat):
    regions = brain.regions(flat)
    assert [tuple(pair) for pair in regions.pairs()] == brute_unions(regions, 2)
    triples = np.concatenate(list(regions.triples()))
    assert [tuple(triple) for triple in triples.tolist()] == brute_unions(regions, 3)


@pytest.mark.parametrize("score", ["pearson", "dice"])
def test_the_best_unions_are_those_of_the_plain_search(brain, score):
    regions = brain.regions()
    links = link_regions(brain.patterns, regions, n_top=4)
    assert links.n_unions == tuple(len(brute_unions(regions, size)) for size in (1, 2, 3))
    for size in (1, 2, 3):
        unions = brute_unions(regions, size)
        inside = np.array([regions.inside([regions.names[r] for r in union]) for union in unions]).T
        for k in range(brain.patterns.shape[1]):
            rows = links.unions.query(f"pattern == {k} and score == {score!r} and size == {size}")
            values = rows[score].to_numpy()
            if score == "pearson":
                with np.errstate(invalid="ignore"):
                    every = np.array(
                        [
                            np.corrcoef(brain.patterns[:, k], one)[0, 1] if not one.all() else -1
                            for one in inside.T
                        ]
                    )
                np.testing.assert_allclose(values, np.sort(every)[::-1][: len(values)], atol=1e-12)
                best = unions[int(every.argmax())]
                assert rows.iloc[0]["regions"] == "+".join(regions.names[r] for r in best)
                assert rows.iloc[0]["n_spots"] == inside[:, int(every.argmax())].sum()
            assert (np.diff(values) <= 0).all()
            assert rows["rank"].tolist() == list(range(len(values)))
    best = links.best(score)
    assert best["pattern"].tolist() == list(range(brain.patterns.shape[1]))
    assert (
        best[score].to_numpy() == links.unions.query(f"score == {score!r}").groupby("pattern")[score].max()
    ).all()


def test_chunks_change_nothing(brain, monkeypatch):
    whole = link_regions(brain.patterns, brain.regions())
    monkeypatch.setattr("atlasnmf.analysis.region_unions._CHUNK_ROWS", 7)
    again = link_regions(brain.patterns, brain.regions())
    assert whole.unions.equals(again.unions)


def test_planted_unions_are_found(brain):
    regions = brain.regions(flat=True)
    for size, n_patterns in ((1, 2), (2, 2), (3, 2)):
        unions = brute_unions(regions, size)
        chosen = [unions[i] for i in np.random.default_rng(size).choice(len(unions), n_patterns)]
        planted = np.array([regions.inside([regions.names[r] for r in union]) for union in chosen]).T
        noise = np.random.default_rng(0).gamma(20.0, 0.05, planted.shape)
        best = link_regions(planted * noise, regions).best()
        assert best["regions"].tolist() == ["+".join(regions.names[r] for r in union) for union in chosen]
        assert (best["pearson"] > 0.9).all()


@pytest.mark.parametrize("score", ["pearson", "dice"])
def test_larger_unions_are_searched(brain, score):
    regions = brain.regions(flat=True)
    unions = brute_unions(regions, 5)
    chosen = [unions[3], unions[-2]]
    planted = np.array([regions.inside([regions.names[r] for r in union]) for union in chosen]).T.astype(
        float
    )
    found = search_unions(planted, regions, score=score)
    assert found["regions"].tolist() == ["+".join(regions.names[r] for r in union) for union in chosen]
    np.testing.assert_allclose(found[score], 1.0)
    assert found["size"].tolist() == [5, 5]
    # never worse than what is found exhaustively up to three, with a beam as wide as there are regions
    noisy = search_unions(brain.patterns, regions, score=score)
    exact = link_regions(brain.patterns, regions, max_size=2).best(score)
    assert (noisy[score].to_numpy() >= exact[score].to_numpy() - 1e-12).all()


def test_a_region_is_named_before_its_parts(brain):
    regions = brain.regions()
    divisions = [r for r, leaves in enumerate(regions.contains.sum(axis=1)) if leaves in (2, 3)]
    assert divisions
    for place in divisions:
        inside = regions.inside(regions.names[place])
        rng = np.random.default_rng(place)
        pattern = inside[:, None] * rng.gamma(10, 0.1, (len(inside), 6)) + 0.1 * rng.gamma(
            1.0, size=(len(inside), 6)
        )
        assert set(link_regions(pattern, regions).best()["regions"]) == {regions.names[place]}
        assert set(search_unions(pattern, regions)["regions"]) == {regions.names[place]}


def test_rounding_does_not_decide_between_a_region_and_its_parts(brain):
    links = link_regions(brain.patterns[:, :1], brain.regions(), n_top=1)
    rows = links.unions.query("score == 'pearson' and size <= 2").copy()
    rows["pearson"] = [0.9, 0.9 + 1e-14]
    assert replace(links, unions=rows).best()["size"].tolist() == [1]
    rows["pearson"] = [0.9, 0.901]
    assert replace(links, unions=rows).best()["size"].tolist() == [2]


def test_bad_options_are_refused(brain):
    with pytest.raises(BadOption, match="take 1, 2 or 3"):
        link_regions(brain.patterns, brain.regions(), max_size=4)
    with pytest.raises(BadOption, match="pearson or dice"):
        search_unions(brain.patterns, brain.regions(), score="jaccard")
    with pytest.raises(BadInput, match="no region has"):
        link_regions(brain.patterns, brain.regions(), min_spots=10**6)


def test_adjacency_from_the_graph_is_that_of_the_grid():
    painted = made_grid((16, 14, 12), 12, seed=2)
    mask = painted.regions > 0
    names, codes = np.unique(painted.regions[mask], return_inverse=True)
    labels = np.full(mask.shape, -1)
    labels[mask] = codes
    regions = regions_of([str(n) for n in painted.regions[mask]], grid_graph(np.argwhere(mask)))
    order = [regions.names.index(str(name)) for name in names]
    np.testing.assert_array_equal(regions.adjacent[np.ix_(order, order)], adjacency_on_grid(labels))
