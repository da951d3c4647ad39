"""Python on the pages runs as it is printed, but for names, sizes and settings that a small store needs."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

import atlasnmf as an

ROOT = Path(__file__).parents[2]
_SMALL_FIT = {"n_factors=20": "n_factors=3, encoder='lgcn', steps=2"}

#: Of each page: the example store it opens and how it calls it, and what is smaller here.
PAGES = {
    "README.md": (None, "atlas.zarr", _SMALL_FIT),
    "docs/howto/python.md": (
        None,
        "atlas.zarr",
        _SMALL_FIT
        | {
            'slice_key="stage"': 'slice_key="slice"',
            "n_hvgs=6000, radius=1.6": "n_hvgs=0, radius=60.0",
            "an.Inspire()": "an.Inspire(n_factors=3, steps=2, encoder='lgcn')",
            "events=": "overwrite=True, events=",
        },
    ),
    "docs/howto/labels.md": ("embryo.zarr", "atlas.zarr", {"n_domains=7": "n_domains=4, overwrite=True"}),
    "docs/howto/new-slices.md": ("embryo.zarr", "atlas.zarr", {}),
    "docs/howto/figures.md": ("embryo.zarr", "atlas.zarr", {"slice_a": "slice_1", "slice_b": "slice_2"}),
    "docs/howto/patterns.md": ("brain.zarr", "atlas.zarr", {"slice_1": "volume"}),
    "docs/howto/volumes.md": ("brain.zarr", "brain.zarr", {'"Isocortex"': '"D1"'}),
    "docs/howto/pairs.md": (
        "pair.zarr",
        "pair.zarr",
        {
            "ZEB2": "GENE0001",
            "ADIPOQ": "GENE0002",
            "10_000": "100",
            '"factor_3", "factor_8"': '"factor_1", "factor_2"',
            "n_subtypes=4": "n_subtypes=2",
        },
    ),
    "docs/howto/ingest.md": (None, "slice_a.h5ad", {}),
}
#: Run by tests of their own, or in need of a device or a bucket.
ELSEWHERE = {
    "docs/howto/analysis.md",
    "docs/howto/results.md",
    "docs/quickstart.md",
    "docs/api.md",
    "docs/deploy.md",
}


def _blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def test_every_page_with_python_is_run():
    pages = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("docs/howto/*.md")]
    with_python = {str(page.relative_to(ROOT)) for page in pages if "```python" in page.read_text()}
    assert with_python == set(PAGES) | ELSEWHERE


def _make(name: str) -> None:
    if name == "slice_a.h5ad":
        stage = pd.Categorical(["E9", "E10"] * 8)
        obs = pd.DataFrame({"stage": stage}, index=[f"spot{i}" for i in range(16)])
        adata = anndata.AnnData(np.ones((16, 3)), obs=obs)
        adata.obsm["spatial"] = np.indices((4, 4)).reshape(2, 16).T.astype(float)
        adata.write_h5ad(name)
    else:
        an.simulate_embryo(name, n_spots=300, n_slices=2, n_genes=60, n_factors=4)


@pytest.mark.parametrize("page", PAGES)
def test_python_of_a_page_runs(page, tmp_path, monkeypatch, example_stores):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    store, called, smaller = PAGES[page]
    if store is None:
        _make(called)
    else:
        example_stores.copy(store, tmp_path)
        (tmp_path / store).rename(called)
        (tmp_path / f"{store}.atlasnmf").rename(f"{called}.atlasnmf")
    if "new_slice.zarr" in "".join(_blocks(page)):
        an.simulate_embryo("new_slice.zarr", n_spots=200, n_slices=1, n_genes=60, n_factors=4, seed=1)
    text = "\n".join(_blocks(page))
    for printed, small in smaller.items():
        assert printed in text, f"{page} no longer has {printed!r}"
        text = text.replace(printed, small)
    exec(compile(text, page, "exec"), {})


def _calls() -> list[tuple[str, str]]:
    """Return every call of a public function that a page shows in running text or in a table."""
    pages = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("docs/howto/*.md")]
    pages += [*ROOT.glob("docs/models/*.md"), ROOT / "CHANGELOG.md"]
    shown = re.compile(r"`((?:an\.)?(?:(?:tl|pl)\.)?[a-zA-Z_]\w*\([^`]*\))`")
    return [
        (str(page.relative_to(ROOT)), call)
        for page in pages
        for call in shown.findall(page.read_text(encoding="utf-8"))
        if call.startswith(("an.", "tl.", "pl."))
    ]


def test_there_are_calls_in_the_text():
    assert len(_calls()) > 20


@pytest.mark.parametrize(("page", "call"), sorted(set(_calls())))
def test_a_call_in_the_text_fits_its_function(page, call):
    node = ast.parse(call, mode="eval").body
    while isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and not _is_public(node.func):
        node = node.func.value  # a method of what the call returns
    assert isinstance(node, ast.Call)
    function = eval(ast.unparse(node.func), {"an": an, "tl": an.tl, "pl": an.pl})
    given = [argument for argument in node.args if not _is_ellipsis(argument)]
    if len(given) < len(node.args):
        return  # what is left out is not shown
    names = {keyword.arg: None for keyword in node.keywords}
    inspect.signature(function).bind_partial(*given, **names)


def _is_ellipsis(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is Ellipsis


def _is_public(function: ast.Attribute) -> bool:
    return ast.unparse(function.value) in ("an", "an.tl", "an.pl", "tl", "pl")
