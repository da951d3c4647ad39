"""The command line: parse, call, print."""

from __future__ import annotations

import contextlib
import errno
import inspect
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from atlasnmf.cli_options import Json, Overwrite, command_of, fixed, listener, numbers, say, single_command
from atlasnmf.cli_simulate import simulate
from atlasnmf.errors import AtlasError, BadOption, Interrupted
from atlasnmf.options import AtlasOptions, PrepareOptions, RunOptions, flag_of

if TYPE_CHECKING:
    from atlasnmf.pipeline import FitRequest

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
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check everything, say what would be done, do nothing.")
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
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        mend = "make it writable or name another place (of the working copy: --work-dir)"
        sys.stderr.write(f"error: {error.filename}: {error.strerror}; {mend}\n")
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


# -- commands -----------------------------------------------------------------------------------------------


class _ModelGroup(TyperGroup):
    """One subcommand per model folder, made when asked for: no list to edit, nothing imported for --help."""

    action: Callable[..., None]
    verb: str
    switches: tuple[inspect.Parameter, ...] = ()

    def list_commands(self, ctx: Any) -> list[str]:
        from atlasnmf import models

        return list(models.available())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        from atlasnmf import models

        params, verb = models.params(cmd_name), type(self).verb
        preset = typer.Option(
            "--preset", metavar="|".join(models.presets(cmd_name)), help="Starting values of the model."
        )

        def action(store: str, options: list[Any], preset: str | None, **switches: bool) -> None:
            from atlasnmf import pipeline

            request = pipeline.FitRequest.from_options(cmd_name, store, preset or "default", *options)
            type(self).action(request, **switches)

        action.__doc__ = f"{models.summary(cmd_name)}\n\nExample: atlasnmf {verb} {models.example(cmd_name)}"
        parameters = [
            fixed("store", Store),
            fixed("preset", Annotated[str | None, preset], None),  # None: a configuration file may name it
            *type(self).switches,
            fixed("as_json", Json, False),
        ]
        classes = (params, PrepareOptions, AtlasOptions, RunOptions)
        return single_command(cmd_name, action, classes, parameters)


def _fit(request: FitRequest, *, dry_run: bool, as_json: bool) -> None:
    from atlasnmf import pipeline

    if dry_run:
        pipeline.check(request)
        _estimate(request, as_json=as_json)
        return
    outcome = pipeline.fit(request, events=listener())
    say(outcome.record(), as_json, outcome.lines())


def _estimate(request: FitRequest, *, as_json: bool) -> None:
    from atlasnmf import pipeline

    estimate = pipeline.estimate(request)
    say(estimate.record(), as_json, estimate.lines())


class _FitGroup(_ModelGroup):
    action = staticmethod(_fit)
    verb = "fit"
    switches = (fixed("dry_run", DryRun, False),)


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

app.add_typer(simulate, name="simulate")


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
        Path | None, typer.Option(help="Volumes: file with one gene name per line.", show_default=False)
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
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Make one SpatialData store of several files, one table each, named after the file.

    Images (NIfTI, NRRD, zarr) become one table with one row per voxel.

    Example: atlasnmf ingest a.h5ad b.h5ad --out atlas.zarr
    """
    from atlasnmf.store.grids import is_image

    images = [file for file in files if is_image(Path(file))]
    given: dict[str, Any] = {
        "mask": mask,
        "annotation": annotation,
        "ontology": ontology,
        "gene_names": gene_names,
        "unit": unit,
        "spacing": None if spacing is None else numbers(spacing, "--spacing", 1, 3),
    }
    if images:
        if len(images) < len(files):
            raise BadOption("images and tables cannot go into one store together; ingest them apart")
        from atlasnmf.pipeline.volumes import VolumeOptions, ingest_volumes

        options = VolumeOptions(holdout=holdout)
        outcome = ingest_volumes(
            images, out, options=options, overwrite=overwrite, events=listener(), **given
        )  # type: ignore[arg-type]
        say(outcome.record(), as_json, outcome.lines())
        return
    for name, value in given.items():
        if value is not None:
            raise BadOption(f"{flag_of(name)} is for images (NIfTI, NRRD, zarr); leave it out")
    from atlasnmf.store.ingest import ingest as run

    made = run(files, out, overwrite=overwrite, events=listener())
    n_tables = sum(entry.is_dir() for entry in (made / "tables").iterdir())
    text = f"{out}: {n_tables} table{'' if n_tables == 1 else 's'}"
    say({"store": out, "files": files}, as_json, [text])


def _prepare(store: str, options: list[Any], as_json: bool) -> None:
    """Bring an atlas into the working copy: order, graph, variable genes, neighbourhood features.

    Example: atlasnmf prepare embryo.zarr --memory-budget 4GB
    """
    from atlasnmf import pipeline

    prepare, atlas, run = options
    prepared = pipeline.prepare_store(store, prepare, atlas, run, events=listener())
    say(prepared.record(), as_json, prepared.lines())


app.command("prepare")(
    command_of(
        _prepare,
        (PrepareOptions, AtlasOptions, RunOptions),
        [fixed("store", Store), fixed("as_json", Json, False)],
    )
)


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
        store, work_dir=work_dir, scheduler=scheduler, elastic=elastic, events=listener()
    )
    say(outcome.record(), as_json, outcome.lines())


@app.command()
def info(store: Store, work_dir: WorkDir = None, as_json: Json = False) -> None:
    """Show slices, spots, genes, stages done, results and sizes; counts are not read.

    Example: atlasnmf info atlas.zarr
    """
    from atlasnmf import pipeline

    description = pipeline.info(store, work_dir=work_dir)
    say(description.record(), as_json, description.lines())


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
    say({"report": str(path), "bytes": n_bytes}, as_json, [f"report: {path} ({n_bytes / 1e6:.1f} MB)"])


if __name__ == "__main__":
    main()
