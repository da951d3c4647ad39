"""The reference names everything public, and everything public says what it is and shows how it is used."""

from __future__ import annotations

import dataclasses
import doctest
import importlib
import inspect
import re
from pathlib import Path

import pytest
from example_stores import STORES

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
        found = getattr(found, part, None) or importlib.import_module(f"{found.__name__}.{part}")
    return found


def test_there_are_names():
    assert {"open_atlas", "Inspire", "tl.domains", "pl.factors", "metrics.adjusted_rand"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_on_the_page(name):
    assert re.search(rf"^   {re.escape(name)}$", PAGE, re.M), f"add {name} to docs/api.md"


def _examples(thing, name):
    (found,) = doctest.DocTestFinder(recurse=False).find(thing, name, globs={})
    return found.examples


@pytest.mark.parametrize("name", [*NAMES, "plots.report.write_report", "seeds.rng_for"])
def test_it_has_words_and_an_example_of_its_own(name):
    thing = _thing(name)
    if not callable(thing) or dataclasses.is_dataclass(thing):
        pytest.skip("a constant, or what a function returns")
    assert len(inspect.getdoc(thing) or "") > 20
    examples = _examples(thing, name)
    assert examples, f"give {name} an example; the stores it may open are in tests/docs/example_stores.py"
    assert not any(example.options.get(doctest.SKIP) for example in examples), f"{name} skips its example"
    call = re.compile(rf"\b{name.split('.')[-1]}\(")
    assert any(call.search(example.source) for example in examples), f"the example of {name} calls it nowhere"


@pytest.mark.parametrize("name", [name for name in NAMES if name in an.estimators.class_names()])
def test_examples_of_classes_made_on_demand_run(name):
    (found,) = doctest.DocTestFinder(recurse=False).find(_thing(name), name, globs={})
    assert doctest.DocTestRunner().run(found) == (0, len(found.examples))


def test_the_page_makes_the_stores_of_examples():
    assert set(STORES) == {"embryo.zarr", "brain.zarr", "pair.zarr", "sections.zarr"}
    assert all(f"`{name}`" in PAGE for name in STORES)
