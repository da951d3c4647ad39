"""``atlasnmf simulate``: one command per simulator, whose options are declared beside the simulator."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from atlasnmf.cli_options import Json, Overwrite, fixed, listener, say, single_command

__all__ = ["simulate"]

Out = Annotated[str, typer.Argument(help="The store to write.", show_default=False)]


def _embryo(out: str, options: list[Any], overwrite: bool, as_json: bool) -> None:
    """Simulate slices of a growing embryo: organs, gene programmes, depth and slice effects.

    Example: atlasnmf simulate embryo demo.zarr --n-spots 20000 --n-slices 4
    """
    from atlasnmf.simulate.embryo import simulate_embryo

    [params] = options
    simulate_embryo(out, **dict(params), overwrite=overwrite, events=listener())
    lines = [f"{out}: {params.n_spots:,} spots in {params.n_slices} slices"]
    say({"store": out, "n_spots": params.n_spots}, as_json, lines)


def _volume(out: str, options: list[Any], overwrite: bool, as_json: bool) -> None:
    """Simulate gene images on a voxel grid with regions: known patterns, missing values.

    Example: atlasnmf simulate volume brain.zarr --n-patterns 8
    """
    from atlasnmf.pipeline.volumes import simulate_volume

    outcome = simulate_volume(out, **dict(options[0]), overwrite=overwrite, events=listener())
    say(outcome.record(), as_json, outcome.lines())


def _pair(out: str, options: list[Any], overwrite: bool, as_json: bool) -> None:
    """Simulate a fine targeted and a coarse whole-transcriptome slice: a checkerboard of cell types.

    Example: atlasnmf simulate pair pair.zarr --grid 20 --n-types 8 --coverage 1
    """
    from atlasnmf.simulate.pair import simulate_pair

    [params] = options
    simulate_pair(out, **dict(params), overwrite=overwrite, events=listener())
    lines = [f"{out}: {params.n_cells:,} cells of {params.n_types} types in xenium, their spots in visium"]
    say({"store": out, **dict(params)}, as_json, lines)


def _omics(out: str, options: list[Any], overwrite: bool, as_json: bool) -> None:
    """Simulate an RNA slice and a protein slice of one tissue, laid apart: known correspondence.

    Example: atlasnmf simulate omics omics.zarr --difficulty hard
    """
    from atlasnmf.simulate.omics import simulate_omics

    [params] = options
    simulate_omics(out, **dict(params), overwrite=overwrite, events=listener())
    proteins = f"{params.n_proteins:,} proteins in protein ({params.difficulty})"
    say({"store": out, **dict(params)}, as_json, [f"{out}: {params.n_genes:,} genes in rna, {proteins}"])


#: What each simulator does, and the name of its options.
_SIMULATORS: dict[str, tuple[Callable[..., None], str]] = {
    "embryo": (_embryo, "EmbryoParams"),
    "volume": (_volume, "VolumeParams"),
    "pair": (_pair, "PairParams"),
    "omics": (_omics, "OmicsParams"),
}


class _Simulators(TyperGroup):
    """One subcommand per simulator, made when asked for: nothing is imported for --help."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(_SIMULATORS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in _SIMULATORS:
            return None
        action, params = _SIMULATORS[cmd_name]
        taken = getattr(import_module(f"atlasnmf.simulate.{cmd_name}"), params)
        parameters = [fixed("out", Out), fixed("overwrite", Overwrite, False), fixed("as_json", Json, False)]
        return single_command(cmd_name, action, (taken,), parameters)


simulate = typer.Typer(
    cls=_Simulators,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Write a realistic store whose truth is known.",
    epilog="Example: atlasnmf simulate embryo embryo.zarr --n-spots 20000 --n-slices 4",
)
simulate.callback()(lambda: None)
