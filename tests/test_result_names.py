"""A model says in its own folder what it writes; figures and analyses find it by that."""

from __future__ import annotations

import anndata
import numpy as np
import pytest

from atlasnmf import models, pl, result_names
from atlasnmf.analysis.stored_patterns import stored_patterns
from atlasnmf.errors import BadInput

FIFTH = """
RESULTS = {"obsm": ("X_fifth", "fifth_topics"), "varm": ("fifth_words",)}
SHARES = ("fifth_topics",)
"""


@pytest.fixture
def a_fifth_model(tmp_path, monkeypatch):
    folder = tmp_path / "fifth"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "params.py").write_text(FIFTH)
    caches = models.available, result_names.factor_ends, result_names.weight_ends
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path)])
    for cache in caches:
        cache.cache_clear()
    yield
    monkeypatch.undo()
    for cache in caches:
        cache.cache_clear()


@pytest.fixture
def fitted():
    rng = np.random.default_rng(0)
    topics = rng.dirichlet(np.ones(3), 20)
    words = rng.dirichlet(np.ones(12), 3).T
    return anndata.AnnData(
        rng.poisson(2.0, (20, 12)).astype(np.float32),
        obsm={"spatial": rng.uniform(size=(20, 2)), "run_topics": topics},
        varm={"run_words": words},
    )


@pytest.mark.usefixtures("a_fifth_model")
def test_results_of_a_new_model_are_read_by_its_folder_alone(fitted):
    assert stored_patterns(fitted, "run").n_patterns == 3
    assert stored_patterns(fitted, "run").coefficients.shape == (12, 3)
    assert pl.factors(fitted, "run").shape == (3, 1)
    assert result_names.are_shares("run_topics")
    with pytest.raises(BadInput, match="fit it first: atlasnmf fit fifth"):
        stored_patterns(fitted, "my_fifth")


def test_without_its_folder_they_are_not(fitted):
    with pytest.raises(BadInput, match="no result 'run'"):
        stored_patterns(fitted, "run")
