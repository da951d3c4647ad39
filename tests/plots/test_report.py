from __future__ import annotations

import base64
import io
import re
import time
from html import unescape
from html.parser import HTMLParser

import anndata
import numpy as np
import pandas as pd
import pytest
import spatialdata
from fitted_store import a_store
from PIL import Image

from atlasnmf import tl
from atlasnmf.errors import BadInput, BadOption
from atlasnmf.models import available
from atlasnmf.pipeline.volumes import simulate_volume
from atlasnmf.plots.report import write_report
from atlasnmf.plots.report.cards import telling_genes
from atlasnmf.plots.report.facts import scene_of
from atlasnmf.plots.report.mosaic import Tile, mosaic_of
from atlasnmf.plots.report.sections import _facts
from atlasnmf.plots.report.survey import commonest, survey
from atlasnmf.store.atlas import open_atlas
from atlasnmf.store.results import ResultWriter

CURVE = {
    "ranks": np.array([2, 3, 4]),
    "instability_hungarian_mean": np.array([0.2, 0.05, 0.1]),
    "instability_hungarian_sd": np.array([0.02, 0.01, 0.03]),
    "rank": 3,
}


class Page(HTMLParser):
    """What a page refers to."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.images: list[dict] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids += [found["id"]] if "id" in found else []
        self.images += [found] if tag == "img" else []
        self.links += [found["href"]] if tag == "a" else []
        self.addresses += [found[name] for name in ("src", "href", "srcset", "data") if name in found]
        assert tag not in ("script", "iframe", "object", "embed")


def read_page(path) -> tuple[str, Page]:
    """Read a page and hold it to what every report promises."""
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    for image in page.images:
        assert image["src"].startswith("data:image/")
        assert image["alt"].strip()
        with Image.open(io.BytesIO(base64.b64decode(image["src"].split(",", 1)[1]))) as picture:
            assert picture.size == (int(image["width"]), int(image["height"]))
    assert len(page.ids) == len(set(page.ids))
    assert page.links
    for link in page.links:
        assert link.startswith("#")
        assert link[1:] in page.ids
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert not re.search(r"url\(|@import|https?://", html)
    return html, page


def test_every_picture_is_inside_and_every_link_has_its_target(tmp_path):
    path = tmp_path / "<atlas>.zarr"
    a_store(path)
    html, page = read_page(write_report(str(path), tmp_path / "a.html", unit="0.5 µm"))
    alts = [image["alt"] for image in page.images]
    assert sum(alt.startswith("Map of factor") for alt in alts) == 3
    assert any(alt.startswith("Map of domains") for alt in alts)
    assert "<atlas>" not in html
    assert "atlasnmf fit inspire &lt;atlas&gt;.zarr --n-factors 3 --seed 7" in html
    for said in ("0.410", "0.520", "below that of the simple rival", "12 spots share", "1 of 700 spots"):
        assert said in html
    assert "heart &lt;1&gt;" in html  # enriched
    assert "midgut" not in html  # not
    assert re.search(r"Bar: \d+ µm", html)
    assert "<atlas>.zarr' -o a.html --unit '0.5 µm'" in unescape(html)
    assert "<td>ARI</td>" in html
    assert 'name="viewport"' in html
    assert "@media print" in html


#: What a page has after a fit of each model, beside what all have.
AFTER = {
    "inspire": ("embryo.zarr", ["Quality", "smoothed PCA", "Factor 0", "Effects of the slices"]),
    "stanmf": ("brain.zarr", ["Instability", "Pattern 0"]),
    "siid": ("pair.zarr", ["Hidden genes", "Factor 0", "best baseline"]),
    "spatialfuser": ("sections.zarr", ["Matches", "Registration", "Flow of labels"]),
}


@pytest.mark.parametrize("model", sorted(available()))
def test_a_page_after_a_real_fit_of_each_model(model, tmp_path, example_stores):
    store, sections = AFTER[model]
    example_stores.copy(store, tmp_path)
    html, page = read_page(write_report(tmp_path / store, tmp_path / "report.html"))
    assert model in page.ids
    for said in (*sections, "How to reproduce", f"atlasnmf fit {model} ", "Parameters, all of them", "torch"):
        assert said in html, said
    assert len(page.images) >= 3


def test_losses_are_told_of_steps_with_the_same_terms():
    history = {"step": [1, 2, 3, 4, 5], "loss": [0.5, 0.4, 9.0, 7.0, np.nan]}
    history["triplets"] = [np.nan, np.nan, 8.0, 6.0, np.nan]
    told = dict(_facts({"history": {name: np.array(values) for name, values in history.items()}}))
    assert told["Loss, first to last"] == "9 to 7 in 2 steps"
    assert "Loss, first to last" not in dict(_facts({"history": {"loss": np.array([np.nan])}}))


def test_means_by_slice_and_domain_are_those_of_the_spots(tmp_path):
    path = tmp_path / "atlas.zarr"
    shares = a_store(path)
    html, _ = read_page(write_report(str(path), tmp_path / "a.html"))
    known = np.isfinite(shares).all(axis=1)
    domains = np.concatenate([np.asarray(t.obs_column("domains"), str) for t in open_atlas(str(path)).tables])
    for k in range(3):
        mean = shares[known & (domains == f"d{k}"), k].mean()
        card = html.split(f'id="inspire-{k}"')[1].split("</article>")[0]
        assert f"{100 * mean:.1f} %" in card.split("Mean by domains")[1]
        assert f"mean {100 * shares[known, k].mean():.1f} %" in card


def test_a_pass_in_blocks_is_the_plain_mean_over_pixels(tmp_path, monkeypatch):
    path = tmp_path / "atlas.zarr"
    shares = a_store(path, n=(5000, 3000))
    atlas = open_atlas(str(path))
    monkeypatch.setattr("atlasnmf.store.runs.RUN_SPOTS", 700)
    scene = scene_of(atlas, list(atlas.tables), unit="", width=120)
    found = survey(atlas.tables, "inspire_factors", scene.mosaic, scene.place, [scene.slices])
    weights = np.asarray(scene.mosaic.weights.todense())[:, scene.place]
    known = np.isfinite(shares).all(axis=1)
    plain = np.where(known[:, None], shares, 0)
    covered = weights.sum(axis=1) > 0
    seen = weights @ known
    np.testing.assert_allclose(
        found.means[seen > 0], (weights @ plain)[seen > 0] / seen[seen > 0, None], rtol=2e-5
    )
    assert np.isnan(found.means[~covered]).all()
    assert found.n_missing == 1
    np.testing.assert_allclose(found.overall, shares[known].mean(axis=0, dtype=float), rtol=1e-6)
    for number, (start, stop) in enumerate(((0, 5000), (5000, 8000))):
        inside = known.copy()
        inside[:start], inside[stop:] = False, False
        np.testing.assert_allclose(
            found.by_group["slice"][number], shares[inside].mean(axis=0, dtype=float), rtol=1e-6
        )


def test_pixels_average_what_lies_in_them_and_the_commonest_group_wins():
    rng = np.random.default_rng(1)
    xy = rng.uniform(0, 10, (4000, 2))
    mosaic = mosaic_of([Tile("a", xy)], width=60)
    left, top, wide, tall = mosaic.boxes[0]
    span = np.ptp(xy, axis=0)
    assert wide / tall == pytest.approx(span[0] / span[1], rel=0.1)
    rows = np.asarray(mosaic.weights.sum(axis=1)).ravel()
    np.testing.assert_allclose(rows[rows > 0], 1.0, rtol=1e-5)
    inside = np.zeros((mosaic.size[1], mosaic.size[0]), bool)
    inside[top : top + tall, left : left + wide] = True
    assert not rows.reshape(inside.shape)[~inside].any()
    codes = (xy[:, 0] > xy[:, 0].mean()).astype(int)
    image = commonest(mosaic, np.arange(len(xy)), codes, 2).reshape(inside.shape)
    third = wide // 3
    assert set(image[top + 2 : top + tall - 2, left + 2 : left + third].ravel()) == {0}
    assert set(image[top + 2 : top + tall - 2, left + wide - third : left + wide - 2].ravel()) == {1}


@pytest.mark.parametrize("n_known", [0, 900])
def test_the_commonest_group_is_the_first_of_the_largest_sums(n_known):
    rng = np.random.default_rng(2)
    mosaic = mosaic_of([Tile("a", rng.uniform(0, 10, (900, 2)))], width=40)
    codes = rng.integers(-1, 5, 900)
    codes[n_known:] = -1
    place = rng.permutation(900)
    weights = mosaic.weights.toarray()[:, place]
    sums = np.stack([weights[:, codes == group].sum(axis=1) for group in range(5)], axis=1)
    where_none = np.where(weights.any(axis=1), -2, -1)
    expected = np.where(sums.any(axis=1), sums.argmax(axis=1), where_none)
    np.testing.assert_array_equal(commonest(mosaic, place, codes, 5), expected)


def test_sparse_spots_fill_the_pixels_around_them():
    grid = np.stack(np.meshgrid(np.arange(6.0), np.arange(5.0)), axis=-1).reshape(-1, 2)
    mosaic = mosaic_of([Tile("a", grid)], width=150)
    behind = np.asarray((mosaic.weights > 0).sum(axis=1)).ravel()
    left, top, wide, tall = mosaic.boxes[0]
    box = behind.reshape(mosaic.size[::-1])[top : top + tall, left : left + wide]
    assert box.max() == 1
    assert box.mean() > 0.85


def test_a_genes_weight_elsewhere_counts_against_it():
    weights = np.array([[0.5, 0.5, 0.5], [0.3, 0.0, 0.0], [0.2, 0.1, 0.0], [0.0, 0.4, 0.5]])
    assert telling_genes(np.array(list("abcd")), weights, 0) == ("b", "c", "a")


def test_a_result_of_another_name_and_without_figures(tmp_path):
    path = tmp_path / "atlas.zarr"
    a_store(path, quality=False)
    html, _ = read_page(write_report(str(path), tmp_path / "a.html"))
    assert "--labels COLUMN" in html
    assert "smoothed PCA</th>" not in html


def test_what_cannot_be_written_is_refused_in_one_line(tmp_path):
    path = tmp_path / "atlas.zarr"
    a_store(path)
    with pytest.raises(BadInput, match="create it first"):
        write_report(str(path), tmp_path / "nowhere" / "a.html")
    with pytest.raises(BadInput, match="is a folder"):
        write_report(str(path), tmp_path)
    (tmp_path / "a.html").write_text("mine")
    with pytest.raises(BadOption, match="exists already"):
        write_report(str(path), tmp_path / "a.html", overwrite=False)
    assert (tmp_path / "a.html").read_text() == "mine"
    for unit in ("0 µm", "-3 µm", "1e999 mm"):
        with pytest.raises(BadOption, match="size of a step must be above zero"):
            write_report(str(path), tmp_path / "b.html", unit=unit)
    bare = tmp_path / "bare.zarr"
    table = anndata.AnnData(np.ones((3, 2), np.float32), obsm={"spatial": np.eye(3)[:, :2]})
    with anndata.settings.override(auto_shard_zarr_v3=False):
        spatialdata.SpatialData(tables={"t": table}).write(bare)
    with pytest.raises(BadInput, match=r"no results yet; run: atlasnmf fit inspire"):
        write_report(str(bare), tmp_path / "b.html")
    assert not (tmp_path / "b.html").exists()


def test_matches_are_shown_with_what_found_no_partner(tmp_path):
    path = tmp_path / "atlas.zarr"
    a_store(path)
    atlas = open_atlas(str(path))
    n = 50
    frame = pd.DataFrame(
        {
            "source_table": "stage_0",
            "source": [f"s0_{i}" for i in range(n)],
            "target_table": "stage_1",
            "target": [f"s1_{i}" for i in range(n)],
            "score": np.linspace(0, 1, n),
            "passed": True,
        },
        index=[str(i) for i in range(n)],
    )
    with ResultWriter(atlas) as writer:
        writer.table("spatialfuser_matches", frame)
        writer.per_spot("spatialfuser_aligned", 2)
        writer.put_spots("spatialfuser_aligned", np.arange(atlas.n_spots), atlas.coordinates())
        links = {"source": ["stage_0"], "target": ["stage_1"], "unmatched": np.array([0.25])}
        links |= {"n_pairs": np.array([80]), "n_passed": np.array([50])}
        record = {"status": "done", "seed": 0, "model": "spatialfuser", "params": {}}
        writer.uns("spatialfuser", record | {"quality": {"links": links}})
        summary = {"slice": ["stage_0"], "label": ["d0"], "unmatched": np.array([0.37])}
        writer.uns("spatialfuser_matches_summary", summary)
    html, page = read_page(write_report(path, tmp_path / "a.html"))
    alts = [image["alt"] for image in page.images]
    assert "Matches: 50 pairs, 50 drawn" in alts
    assert any(alt.startswith("Registration") for alt in alts)
    assert any(alt.startswith("Flow of labels: 50 pairs") for alt in alts)
    assert "Unmatched: stage_0: d0 0.37" in alts
    assert 'href="#spatialfuser"' in html
    assert "80 pairs, 50 of them above chance; 25% of the spots unmatched" in html


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
        model = {"status": "done", "seed": 0, "model": "stanmf", "params": {"ranks": [2, 3]}}
        writer.uns("stanmf", {**model, **quality, **curve})
    page, _ = read_page(write_report(str(path), tmp_path / "a.html"))
    assert ("Number of patterns" in page) is (len(curve["ranks"]) > 1)
    assert "Patterns and regions" not in page
    assert "smoothed PCA" not in page  # no labels, no comparison
    assert page.count('alt="Map of pattern') == 3
    genes = np.array(table.var_names())
    best = genes[np.argmax(table.varm("true_coefficients"), axis=0)]
    assert any(gene in page for gene in best)
    tl.link_regions(str(path))
    page, _ = read_page(write_report(str(path), tmp_path / "b.html"))
    assert "Patterns and regions" in page


@pytest.mark.slow
def test_very_many_spots_and_factors_stay_small_and_quick(tmp_path):
    path = tmp_path / "atlas.zarr"
    a_store(path, n=(600_000, 400_000), n_factors=60)
    start = time.process_time()
    out = write_report(str(path), tmp_path / "a.html")
    assert time.process_time() - start < 120
    assert out.stat().st_size < 15e6
    read_page(out)


def test_one_slice_empty_domains_and_spots_at_one_place(tmp_path):
    path = tmp_path / "atlas.zarr"
    a_store(path, n=(40,), n_factors=2)
    import zarr

    tables = zarr.open_group(path, mode="r+")["tables/stage_0"]
    tables["obs/domains/codes"][:] = -1
    tables["obsm/spatial"][:] = 5.0
    html, _ = read_page(write_report(path, tmp_path / "a.html"))
    assert "Domains and other groups" not in html
    assert "Mean by slice" not in html
    assert html.count('alt="Map of factor') == 2
