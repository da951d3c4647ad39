"""Options of one name mean the same everywhere: spelled out for readers, held together here."""

from __future__ import annotations

import inspect

import pytest
import typer

import atlasnmf as an
from atlasnmf import simulate
from atlasnmf.cli import app

PLANS = {
    "embryo": (simulate.plan_embryo, an.simulate_embryo),
    "pair": (simulate.plan_pair, an.simulate_pair),
    "omics": (simulate.plan_omics, an.simulate_omics),
}
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


@pytest.mark.parametrize("name", PLANS)
def test_a_simulator_takes_what_its_plan_takes(name):
    plan, make = PLANS[name]
    assert inspect.signature(plan).parameters.keys() <= inspect.signature(make).parameters.keys()
    taken = _defaults(make)
    assert _defaults(plan).items() <= taken.items()
    assert taken.keys() - _defaults(plan).keys() - {"n_spots", "n_cells", "n_genes"} >= {
        "overwrite",
        "events",
    }


@pytest.mark.parametrize("name", ["embryo", "pair", "omics", "volume"])
def test_the_command_line_simulates_what_python_does(name):
    group = typer.main.get_command(app).get_command(None, "simulate")
    offered = {option.name: option.default for option in group.get_command(None, name).params}
    for option, default in _defaults(getattr(an, f"simulate_{name}")).items():
        if option == "events":
            continue
        assert option in offered, f"simulate {name} has no --{option.replace('_', '-')}"
        if default is not None and not isinstance(default, tuple):
            assert offered[option] == default, option


@pytest.mark.parametrize("option", SHARED)
@pytest.mark.parametrize("room", [an.pl, an.tl], ids=["pl", "tl"])
def test_an_option_has_one_default(room, option):
    found = {
        name: _defaults(getattr(room, name))[option]
        for name in room.__all__
        if option in _defaults(getattr(room, name)) and (name, option) not in OWN
    }
    assert len({repr(default) for default in found.values()}) <= 1, found
