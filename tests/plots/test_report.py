from __future__ import annotations

import numpy as np
import pytest

from atlasnmf import tl
from atlasnmf.pipeline.volumes import simulate_volume
from atlasnmf.plots.report import write_report
from atlasnmf.store.atlas import open_atlas
from atlasnmf.store.results import ResultWriter

CURVE = {
    "ranks": np.array([2, 3, 4]),
    "instability_hungarian_mean": np.array([0.2, 0.05, 0.1]),
    "instability_hungarian_sd": np.array([0.02, 0.01, 0.03]),
    "rank": 3,
}


@pytest.mark.parametrize("curve", [CURVE, {"ranks": np.array([3]), "rank": 3}])
def test_a_page_about_patterns_of_a_volume(tmp_path, curve):
    path = tmp_path / "brain.zarr"
    simulate_volume(path, shape=(14, 12, 13), n_regions=10, n_genes=30, n_patterns=3)
    atlas = open_atlas(path)
    (table,) = atlas.tables
    with ResultWriter(atlas) as writer:
        writer.per_spot("stanmf_patterns", 3)
        writer.put_spots("stanmf_patterns", np.arange(table.n_spots), table.obsm("true_patterns"))
        writer.varm("stanmf_coefficients", table.varm("true_coefficients"), table.var_names())
        quality = {"quality": {"rank": 3, "instability": {"3": 0.05}}}
        writer.uns("stanmf", {"status": "done", "seed": 0, "params": {"ranks": [2, 3]}, **quality, **curve})
    page = write_report(str(path), tmp_path / "a.html").read_text()
    assert ("Number of patterns" in page) is (len(curve["ranks"]) > 1)
    assert "Patterns and regions" not in page
    assert "smoothed PCA" not in page  # no labels, no comparison
    assert page.count('alt="Map of factor') == 3
    genes = np.array(table.var_names())
    best = genes[np.argmax(table.varm("true_coefficients"), axis=0)]
    assert any(gene in page for gene in best)
    tl.link_regions(str(path))
    page = write_report(str(path), tmp_path / "b.html").read_text()
    assert "Patterns and regions" in page
