"""Options of one name mean the same everywhere: spelled out for readers, held together here."""

from __future__ import annotations

import inspect

import pytest
import typer

import atlasnmf as an
from atlasnmf.cli import app

#: Differ by what is drawn: inches of a panel, and rare bright voxels.
OWN = {("projections", "percentile")}
SHARED = (
    "cmap",
    "percentile",
    "unit",
    "invert_y",
    "random_state",
    "slices",
    "axes",
    "overwrite",
)


def _defaults(function):
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


@pytest.mark.parametrize("name", ["embryo", "pair", "omics", "volume"])
def test_a_simulator_is_offered_as_it_is_in_python(name):
    made = getattr(an, f"simulate_{name}")
    group = typer.main.get_command(app).get_command(None, "simulate")
    offered = {option.name for option in group.get_command(None, name).params}
    assert offered == set(inspect.signature(made).parameters) - {"events"} | {"as_json", "config"}
    for option in inspect.signature(made).parameters:
        assert f"\n    {option}" in made.__doc__ or f", {option}\n" in made.__doc__, option


@pytest.mark.parametrize("option", SHARED)
@pytest.mark.parametrize("room", [an.pl, an.tl], ids=["pl", "tl"])
def test_an_option_has_one_default(room, option):
    found = {
        name: _defaults(getattr(room, name))[option]
        for name in room.__all__
        if option in _defaults(getattr(room, name)) and (name, option) not in OWN
    }
    assert len({repr(default) for default in found.values()}) <= 1, found
