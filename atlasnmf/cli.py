"""The command line: parse, call, print."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from atlasnmf.cli_options import command_of, fixed
from atlasnmf.errors import AtlasError, BadOption, Interrupted

if TYPE_CHECKING:
    from atlasnmf.events import Events

__all__ = ["app", "main"]

#: What Typer makes of Ctrl-C.
_TYPER_STOPPED = 130
#: Commands as they are used one after the other.
_IN_ORDER = ("simulate", "ingest", "prepare", "estimate", "fit", "resume", "info", "report")


class _Commands(TyperGroup):
    """Lists commands in the order of their use."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=_IN_ORDER.index)


app = typer.Typer(
    name="atlasnmf",
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Out-of-core, atlas-scale factorisation and integration of spatial omics.",
    epilog="Start with: atlasnmf simulate embryo demo.zarr && atlasnmf fit inspire demo.zarr --n-factors 12",
)

Store = Annotated[str, typer.Argument(help="A SpatialData zarr store.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, nothing else.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check everything, say what would be done, do nothing.")
]
Preset = Annotated[
    str | None, typer.Option("--preset", metavar="default|published", help="Starting values of the model.")
]
WorkDir = Annotated[
    Path | None, typer.Option("--work-dir", help="Place of the working copy.", show_default=False)
]


def _show_version(asked: bool) -> None:
    if asked:
        from atlasnmf import __version__

        sys.stdout.write(f"atlasnmf {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    pass


def main(arguments: list[str] | None = None) -> None:
    """Run a command; the exit code says how it ended (0 done, 1 bug, 2 bad input, 3 resumable)."""
    command = typer.main.get_command(app)
    try:
        with _terminated_as_by_ctrl_c():
            code = command.main(arguments, prog_name="atlasnmf", standalone_mode=False)
        if code == _TYPER_STOPPED:
            raise KeyboardInterrupt
    except AtlasError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    except Interrupted as stopped:
        sys.stderr.write(f"{stopped}\ncontinue with: {stopped.resume_command}\n")
        sys.exit(3)
    except (typer.Abort, KeyboardInterrupt):
        sys.stderr.write("stopped before anything was written\n")
        sys.exit(3)
    except PermissionError as error:
        sys.stderr.write(f"error: {error.filename}: {error.strerror}; make it writable or name --work-dir\n")
        sys.exit(2)
    except Exception as error:
        # Typer keeps its usage errors (unknown option, missing argument) in a private module.
        if not hasattr(error, "format_message"):
            raise
        message = error.format_message()
        if not message:  # a group without a command shows its help
            sys.exit(0)
        sys.stderr.write(f"error: {message.rstrip('.')}; see atlasnmf --help\n")
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)


@contextlib.contextmanager
def _terminated_as_by_ctrl_c() -> Iterator[None]:
    """Have SIGTERM, by which Slurm and Kubernetes end a job, leave work that resume goes on with."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)


def _events() -> Events:
    from atlasnmf.progress import for_stream

    return for_stream(sys.stderr)


def _say(record: dict[str, Any], as_json: bool, lines: list[str]) -> None:
    """Print the outcome once: a JSON object for scripts or lines for people."""
    text = json.dumps(record, default=str) if as_json else "\n".join(lines)
    sys.stdout.write(text + "\n")


# -- commands -----------------------------------------------------------------------------------------------


class _ModelGroup(TyperGroup):
    """One subcommand a model folder, made when asked for: no list to edit, nothing imported for --help."""

    action: Callable[..., None]
    verb: str

    def list_commands(self, ctx: Any) -> list[str]:
        from atlasnmf import models

        return list(models.available())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        from atlasnmf import models
        from atlasnmf.options import AtlasOptions, PrepareOptions, RunOptions

        params = models.params(cmd_name)

        def action(store: str, options: list[Any], **switches: Any) -> None:
            type(self).action(cmd_name, store, *options, **switches)

        verb = type(self).verb
        action.__doc__ = f"{models.summary(cmd_name)}\n\nExample: atlasnmf {verb} {models.example(cmd_name)}"
        parameters = [
            fixed("store", Store),
            fixed("preset", Preset, None),  # None: a configuration file may name it
            fixed("dry_run", DryRun, False),
            fixed("as_json", Json, False),
        ]
        single = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
        single.command(cmd_name)(
            command_of(action, (params, PrepareOptions, AtlasOptions, RunOptions), parameters)
        )
        return typer.main.get_command(single)


def _fit(model: str, store: str, params: Any, prepare: Any, atlas: Any, run: Any, **switches: Any) -> None:
    from atlasnmf import pipeline

    preset = switches["preset"] or "default"
    request = pipeline.FitRequest.from_options(model, store, preset, params, prepare, atlas, run)
    if switches["dry_run"]:
        pipeline.check(request)
        _show_estimate(request, switches["as_json"])
        return
    outcome = pipeline.fit(request, events=_events())
    _say(outcome.record(), switches["as_json"], outcome.lines())


def _estimate(
    model: str, store: str, params: Any, prepare: Any, atlas: Any, run: Any, **switches: Any
) -> None:
    from atlasnmf import pipeline

    preset = switches["preset"] or "default"
    request = pipeline.FitRequest.from_options(model, store, preset, params, prepare, atlas, run)
    _show_estimate(request, switches["as_json"])


def _show_estimate(request: Any, as_json: bool) -> None:
    from atlasnmf import pipeline

    estimate = pipeline.estimate(request)
    _say(estimate.record(), as_json, estimate.lines())


class _FitGroup(_ModelGroup):
    action = staticmethod(_fit)
    verb = "fit"


class _EstimateGroup(_ModelGroup):
    action = staticmethod(_estimate)
    verb = "estimate"


def _group(name: str, cls: type[TyperGroup], help_text: str) -> None:
    group = typer.Typer(cls=cls, no_args_is_help=True, pretty_exceptions_enable=False)
    group.callback()(lambda: None)
    example = (
        f"Example: atlasnmf {name} inspire atlas.zarr --n-factors 20; atlasnmf {name} MODEL --help says more"
    )
    app.add_typer(group, name=name, help=help_text, epilog=example)


_group("fit", _FitGroup, "Fit a model; prepares what is missing and writes results into the store.")
_group("estimate", _EstimateGroup, "Memory, disk and time of a fit, before anything runs.")

simulate = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(
    simulate,
    name="simulate",
    help="Write a real-looking store whose truth is known.",
    epilog="Example: atlasnmf simulate embryo embryo.zarr --n-spots 20000 --n-slices 4",
)


@simulate.command("embryo")
def simulate_embryo(
    out: Annotated[str, typer.Argument(help="The store to write.", show_default=False)],
    n_spots: Annotated[int, typer.Option(min=1, help="Spots over all slices.")] = 20_000,
    n_slices: Annotated[int, typer.Option(min=1, help="Slices, growing like an embryo.")] = 4,
    n_genes: Annotated[int, typer.Option(min=1)] = 1_000,
    n_factors: Annotated[int, typer.Option(min=1, help="Spatial factors with sparse gene programmes.")] = 12,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same store.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the store if it exists.")] = False,
    as_json: Json = False,
) -> None:
    """Simulate slices of a growing embryo: organs, gene programmes, depth and slice effects.

    Example: atlasnmf simulate embryo demo.zarr --n-spots 20000 --n-slices 4
    """
    from atlasnmf.simulate.embryo import simulate_embryo as simulate

    simulate(
        out,
        n_spots=n_spots,
        n_slices=n_slices,
        n_genes=n_genes,
        n_factors=n_factors,
        seed=seed,
        overwrite=overwrite,
        events=_events(),
    )
    _say({"store": out, "n_spots": n_spots}, as_json, [f"{out}: {n_spots:,} spots in {n_slices} slices"])


@simulate.command("volume")
def simulate_volume(
    out: Annotated[str, typer.Argument(help="The store to write.", show_default=False)],
    shape: Annotated[str, typer.Option(help="Voxels along the three axes.")] = "34,24,30",
    n_regions: Annotated[int, typer.Option(min=1, help="Regions of the finest level.")] = 40,
    n_genes: Annotated[int, typer.Option(min=1)] = 300,
    n_patterns: Annotated[int, typer.Option(min=1, help="Planted patterns, unions of touching regions.")] = 8,
    missing: Annotated[float, typer.Option(help="Share of values lost, then filled.")] = 0.1,
    annotated: Annotated[
        Path | None,
        typer.Option(help="h5ad file of a real annotated grid to paint on.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same store.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the store if it exists.")] = False,
    as_json: Json = False,
) -> None:
    """Simulate gene images on a voxel grid with regions: known patterns, missing values.

    Example: atlasnmf simulate volume brain.zarr --n-patterns 8
    """
    from atlasnmf.pipeline.volumes import simulate_volume as simulate

    sizes = _numbers(shape, "--shape", 3)
    outcome = simulate(
        out,
        shape=(int(sizes[0]), int(sizes[1]), int(sizes[2])),
        n_regions=n_regions,
        n_genes=n_genes,
        n_patterns=n_patterns,
        missing=missing,
        annotated=annotated,
        seed=seed,
        overwrite=overwrite,
        events=_events(),
    )
    _say(outcome.record(), as_json, outcome.lines())


def _numbers(text: str, flag: str, *lengths: int) -> tuple[float, ...]:
    """Read a list such as 34,24,30."""
    try:
        found = tuple(float(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        found = ()
    if len(found) not in lengths or not all(number > 0 for number in found):
        expected = " or ".join(str(length) for length in lengths)
        raise BadOption(f"{flag} takes {expected} positive numbers with commas, got {text!r}")
    return found


@simulate.command("pair")
def simulate_pair(
    out: Annotated[str, typer.Argument(help="The store to write.", show_default=False)],
    n_cells: Annotated[
        int, typer.Option(min=1, help="Cells of the fine slice, 24 to a coarse spot.")
    ] = 20_000,
    n_genes: Annotated[int, typer.Option(min=1, help="Genes of the coarse slice.")] = 1_000,
    n_panel: Annotated[int, typer.Option(min=1, help="Genes of them that the fine slice has.")] = 300,
    grid: Annotated[int, typer.Option(min=1, help="Squares of the checkerboard along a side.")] = 20,
    n_types: Annotated[int, typer.Option(min=2, help="Cell types.")] = 8,
    coverage: Annotated[float, typer.Option(help="Fine counts as a multiple of 150 a cell.")] = 1.0,
    mapping_noise: Annotated[float, typer.Option(min=0, help="Error of the cells' positions, um.")] = 0.0,
    depth_variation: Annotated[
        float, typer.Option(min=0, help="Smooth field on the log coarse depth.")
    ] = 0.0,
    scaling_spread: Annotated[float, typer.Option(min=0, help="Spread of the log platform scaling.")] = 0.5,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same store.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the store if it exists.")] = False,
    as_json: Json = False,
) -> None:
    """Simulate a fine targeted and a coarse whole-transcriptome slice: a checkerboard of cell types.

    Example: atlasnmf simulate pair pair.zarr --grid 20 --n-types 8 --coverage 1
    """
    from atlasnmf.simulate.pair import simulate_pair as simulate

    options = {
        "n_cells": n_cells,
        "n_genes": n_genes,
        "n_panel": n_panel,
        "grid": grid,
        "n_types": n_types,
        "coverage": coverage,
        "mapping_noise": mapping_noise,
        "depth_variation": depth_variation,
        "scaling_spread": scaling_spread,
        "seed": seed,
    }
    simulate(out, **options, overwrite=overwrite, events=_events())  # type: ignore[arg-type]
    lines = [f"{out}: {n_cells:,} cells of {n_types} types in xenium, their spots in visium"]
    _say({"store": out, **options}, as_json, lines)


@simulate.command("omics")
def simulate_omics(
    out: Annotated[str, typer.Argument(help="The store to write.", show_default=False)],
    n_spots: Annotated[int, typer.Option(min=1, help="Spots of the RNA slice, nearly.")] = 5_000,
    n_genes: Annotated[int, typer.Option(min=1)] = 600,
    n_proteins: Annotated[int, typer.Option(min=1, help="Features of the protein slice.")] = 60,
    n_factors: Annotated[int, typer.Option(min=2, help="Programmes of the tissue, and its domains.")] = 12,
    difficulty: Annotated[
        str, typer.Option(help="easy, medium or hard: sets what is not given of the following.")
    ] = "medium",
    feature_overlap: Annotated[
        float | None,
        typer.Option(help="Share of the programmes that both modalities see.", show_default=False),
    ] = None,
    overlap: Annotated[
        float | None, typer.Option(help="Share of the tissue in both slices.", show_default=False)
    ] = None,
    resolution: Annotated[
        float | None,
        typer.Option(help="Pitch of the protein spots as a multiple of the RNA's.", show_default=False),
    ] = None,
    rotation: Annotated[
        float | None, typer.Option(help="Turn of the protein slice, degrees.", show_default=False)
    ] = None,
    warp: Annotated[
        float | None, typer.Option(help="Largest displacement of its warp, um.", show_default=False)
    ] = None,
    depth: Annotated[
        float | None, typer.Option(help="Counts as a multiple of the usual.", show_default=False)
    ] = None,
    link: Annotated[
        float | None, typer.Option(help="How far a protein follows its gene, 0 to 1.", show_default=False)
    ] = None,
    shared_names: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the proteins named as their genes are.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same store.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the store if it exists.")] = False,
    as_json: Json = False,
) -> None:
    """Simulate an RNA slice and a protein slice of one tissue, laid apart: known correspondence.

    Example: atlasnmf simulate omics omics.zarr --difficulty hard
    """
    from atlasnmf.simulate.omics import simulate_omics as simulate

    options = {
        "n_spots": n_spots,
        "n_genes": n_genes,
        "n_proteins": n_proteins,
        "n_factors": n_factors,
        "difficulty": difficulty,
        "feature_overlap": feature_overlap,
        "overlap": overlap,
        "resolution": resolution,
        "rotation": rotation,
        "warp": warp,
        "depth": depth,
        "link": link,
        "shared_names": shared_names,
        "seed": seed,
    }
    simulate(out, **options, overwrite=overwrite, events=_events())  # type: ignore[arg-type]
    lines = [f"{out}: {n_genes:,} genes in rna, {n_proteins:,} proteins in protein ({difficulty})"]
    _say({"store": out, **options}, as_json, lines)


@app.command()
def ingest(
    files: Annotated[
        list[str],
        typer.Argument(help="h5ad files, SpatialData stores, or gene images.", show_default=False),
    ],
    out: Annotated[str, typer.Option("--out", help="The store to write.", show_default=False)],
    mask: Annotated[
        Path | None, typer.Option(help="Volumes: image above zero inside the tissue.", show_default=False)
    ] = None,
    annotation: Annotated[
        Path | None, typer.Option(help="Volumes: image of region numbers.", show_default=False)
    ] = None,
    ontology: Annotated[
        Path | None, typer.Option(help="Volumes: CSV of regions and their parents.", show_default=False)
    ] = None,
    gene_names: Annotated[
        Path | None, typer.Option(help="Volumes: file with a gene name a line.", show_default=False)
    ] = None,
    spacing: Annotated[
        str | None,
        typer.Option(help="Volumes: voxel distance, one or three numbers.", show_default=False),
    ] = None,
    unit: Annotated[
        str | None, typer.Option(help="Volumes: unit of the voxel distance.", show_default=False)
    ] = None,
    holdout: Annotated[
        float, typer.Option(help="Volumes: share of values hidden to score the filling.")
    ] = 0.05,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the store if it exists.")] = False,
    as_json: Json = False,
) -> None:
    """Make one SpatialData store of several files, one table each, named after the file.

    Images (NIfTI, NRRD, zarr) become one table with a row a voxel.

    Example: atlasnmf ingest a.h5ad b.h5ad --out atlas.zarr
    """
    from atlasnmf.store.grids import is_image

    images = [file for file in files if is_image(Path(file))]
    given = {
        "mask": mask,
        "annotation": annotation,
        "ontology": ontology,
        "gene_names": gene_names,
        "unit": unit,
        "spacing": None if spacing is None else _numbers(spacing, "--spacing", 1, 3),
    }
    if images:
        if len(images) < len(files):
            raise BadOption("images and tables cannot go into one store together; ingest them apart")
        from atlasnmf.pipeline.volumes import VolumeOptions, ingest_volumes

        options = VolumeOptions(holdout=holdout)
        outcome = ingest_volumes(images, out, options=options, overwrite=overwrite, events=_events(), **given)  # type: ignore[arg-type]
        _say(outcome.record(), as_json, outcome.lines())
        return
    for name, value in given.items():
        if value is not None:
            raise BadOption(f"--{name.replace('_', '-')} is for images (NIfTI, NRRD, zarr); leave it out")
    from atlasnmf.store.ingest import ingest as run

    made = run(files, out, overwrite=overwrite, events=_events())
    n_tables = sum(entry.is_dir() for entry in (made / "tables").iterdir())
    text = f"{out}: {n_tables} table{'' if n_tables == 1 else 's'}"
    _say({"store": out, "files": files}, as_json, [text])


def _prepare(store: str, options: list[Any], as_json: bool) -> None:
    """Bring an atlas into the working copy: order, graph, variable genes, neighbourhood features.

    Example: atlasnmf prepare embryo.zarr --memory-budget 4GB
    """
    from atlasnmf import pipeline

    prepare, atlas, run = options
    prepared = pipeline.prepare_store(store, prepare, atlas, run, events=_events())
    _say(prepared.record(), as_json, prepared.lines())


@app.command()
def resume(
    store: Store,
    work_dir: WorkDir = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Another Dask scheduler than before.", show_default=False)
    ] = None,
    elastic: Annotated[
        bool, typer.Option("--elastic", help="Go on with fewer workers, if there are no more.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Continue whatever was interrupted on this store, with the options it was started with.

    Example: atlasnmf resume atlas.zarr
    """
    from atlasnmf import pipeline

    outcome = pipeline.resume(
        store, work_dir=work_dir, scheduler=scheduler, elastic=elastic, events=_events()
    )
    _say(outcome.record(), as_json, outcome.lines())


@app.command()
def info(store: Store, work_dir: WorkDir = None, as_json: Json = False) -> None:
    """Show slices, spots, genes, stages done, results and sizes; counts are not read.

    Example: atlasnmf info atlas.zarr
    """
    from atlasnmf import pipeline

    description = pipeline.info(store, work_dir=work_dir)
    _say(description.record(), as_json, description.lines())


@app.command()
def report(
    store: Store,
    out: Annotated[Path, typer.Option("-o", "--out", help="The HTML file to write.")] = Path("report.html"),
    unit: Annotated[
        str,
        typer.Option(
            help='Unit of the coordinates, "µm"; of pixels their size, "0.5 µm".', show_default=False
        ),
    ] = "",
    overwrite: Annotated[
        bool, typer.Option("--overwrite/--no-overwrite", help="Replace the file if it exists.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Write one self-contained HTML page about the results in a store: maps, genes, quality, provenance.

    Example: atlasnmf report embryo.zarr -o report.html
    """
    from atlasnmf.plots.report import write_report

    path = write_report(store, out, unit=unit, overwrite=overwrite)
    n_bytes = path.stat().st_size
    _say({"report": str(path), "bytes": n_bytes}, as_json, [f"report: {path} ({n_bytes / 1e6:.1f} MB)"])


def _register_prepare() -> None:
    """Prepare takes the declared options like fit does; they are cheap to import (no torch, no dask)."""
    from atlasnmf.options import AtlasOptions, PrepareOptions, RunOptions

    parameters = [fixed("store", Store), fixed("as_json", Json, False)]
    app.command("prepare")(command_of(_prepare, (PrepareOptions, AtlasOptions, RunOptions), parameters))


_register_prepare()

if __name__ == "__main__":
    main()
