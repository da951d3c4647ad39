import numpy as np
import pytest

from atlasnmf.analysis.gene_networks import gene_networks
from atlasnmf.errors import BadInput, BadOption


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    patterns = rng.gamma(1.0, size=(150, 3))
    coefficients = rng.gamma(0.4, size=(120, 3))
    sums = {"gram": patterns.T @ patterns, "sums": patterns.sum(axis=0), "n_spots": 150}
    return patterns, coefficients, sums, [f"G{g}" for g in range(120)]


def test_networks_are_those_of_the_plain_formula(case):
    patterns, coefficients, sums, genes = case
    networks = gene_networks(coefficients, **sums, genes=genes, top_share=0.1, edge_share=0.2)
    importance = coefficients.max(axis=1) / coefficients.sum(axis=1)
    for k, network in enumerate(networks):
        own = np.flatnonzero(coefficients.argmax(axis=1) == k)
        top = own[np.argsort(-importance[own])][:12]
        assert list(network) == [genes[g] for g in top]
        assert network.graph["pattern"] == k
        for g in top:
            assert network.nodes[genes[g]]["importance"] == pytest.approx(importance[g])
        fitted = patterns @ coefficients[top].T
        similarity = np.corrcoef(fitted.T)
        a, b = np.triu_indices(12, 1)
        strongest = np.argsort(-similarity[a, b])[: int(np.ceil(0.2 * 66))]
        expected = {frozenset((genes[top[a[i]]], genes[top[b[i]]])) for i in strongest}
        assert {frozenset(edge) for edge in network.edges} == expected
        for one, other, data in network.edges(data=True):
            i, j = (top.tolist().index(genes.index(name)) for name in (one, other))
            assert data["correlation"] == pytest.approx(similarity[i, j])


def test_published_shares_and_small_panels(case):
    _, coefficients, sums, _ = case
    networks = gene_networks(coefficients, **sums)
    assert [len(network) for network in networks] == [2, 2, 2]
    assert [network.number_of_edges() for network in networks] == [1, 1, 1]
    assert [len(n) for n in gene_networks(coefficients, **sums, n_top=5)] == [5, 5, 5]
    lonely = np.zeros((4, 3))
    lonely[:, 0] = 1.0
    assert [len(n) for n in gene_networks(lonely, **sums, n_top=5)] == [4, 0, 0]


def test_bad_input_is_refused(case):
    _, coefficients, sums, genes = case
    with pytest.raises(BadInput, match="names for"):
        gene_networks(coefficients, **sums, genes=genes[1:])
    with pytest.raises(BadOption, match="edge_share"):
        gene_networks(coefficients, **sums, edge_share=0)
