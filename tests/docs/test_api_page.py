"""The reference names everything public, and everything public says what it is and shows how it is used."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path

import pytest

import atlasnmf as an

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "api.md").read_text()
ROOMS = {"": an, "tl.": an.tl, "pl.": an.pl, "metrics.": an.metrics}


def _public():
    for prefix, room in ROOMS.items():
        names = getattr(room, "__all__", None) or [n for n in dir(room) if n[0].isalpha()]
        for name in names:
            if prefix == "" and (
                name in ("estimators", "metrics", "models", "pl", "tl") or name == "annotations"
            ):
                continue
            yield f"{prefix}{name}"


NAMES = sorted(set(_public()))


def _thing(name):
    found = an
    for part in name.split("."):
        found = getattr(found, part)
    return found


def test_there_are_names():
    assert {"open_atlas", "Inspire", "tl.domains", "pl.factors", "metrics.adjusted_rand"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_on_the_page(name):
    assert re.search(rf"^   {re.escape(name)}$", PAGE, re.M), f"add {name} to docs/api.md"


@pytest.mark.parametrize("name", NAMES)
def test_it_has_words_and_an_example_or_a_page_that_uses_it(name):
    thing = _thing(name)
    if not callable(thing) or dataclasses.is_dataclass(thing):
        pytest.skip("a constant, or what a function returns")
    text = inspect.getdoc(thing) or ""
    assert len(text) > 20
    if ">>>" in text:
        return
    call = re.compile(rf"\b(?:an\.)?{re.escape(name)}\(")
    pages = [*ROOT.glob("docs/**/*.md"), *ROOT.glob("docs/tutorials/*.py"), ROOT / "README.md"]
    used = [page for page in pages if "_build" not in page.parts and "generated" not in page.parts]
    assert any(call.search(page.read_text()) for page in used), f"{name} has no example and no page uses it"
