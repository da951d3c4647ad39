"""What commands share: parameters made from declared options, listening, and saying how it went."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import typer

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.options import flag_of

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from atlasnmf.events import Events

__all__ = ["Json", "Overwrite", "command_of", "fixed", "listener", "numbers", "say", "single_command"]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, nothing else.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the store if it exists.")]


def listener() -> Events:
    """Return what shows progress on the standard error stream."""
    from atlasnmf.progress import for_stream

    return for_stream(sys.stderr)


def say(record: dict[str, Any], as_json: bool, lines: list[str]) -> None:
    """Print the outcome once: a JSON object for scripts or lines for people."""
    text = json.dumps(record, default=str) if as_json else "\n".join(lines)
    sys.stdout.write(text + "\n")


def numbers(text: str, flag: str, *lengths: int) -> tuple[float, ...]:
    """Read a list such as 34,24,30."""
    try:
        found = tuple(float(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        found = ()
    if len(found) not in lengths or not all(number > 0 for number in found):
        expected = " or ".join(str(length) for length in lengths)
        raise BadOption(f"{flag} takes {expected} positive numbers with commas, got {text!r}")
    return found


def fixed(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    """Return a parameter that is not a declared option: the store, a switch of the command."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def command_of(
    action: Callable[..., None],
    option_classes: tuple[type, ...],
    parameters: list[inspect.Parameter],
) -> Callable[..., None]:
    """Return a function with one parameter for each declared option, for Typer to make a command of.

    Parameters
    ----------
    action
        Called with the values of ``parameters`` by name, and ``options``: one instance per class.
    option_classes
        Classes of options; a TOML file named by ``--config`` may give any of them, and flags win.
    parameters
        What else the command takes.
    """
    declared = {
        name: _parameter(name, info, options.title)  # type: ignore[attr-defined]
        for options in option_classes
        for name, info in options.model_fields.items()  # type: ignore[attr-defined]
    }
    config = fixed(
        "config",
        Annotated[
            Path | None, typer.Option("--config", help="TOML file of options; flags win.", show_default=False)
        ],
        None,
    )
    allowed = {_spelling(parameter) for parameter in parameters} - {"store", "out"} | set(declared)

    def run(**values: Any) -> None:
        from_file = _read_config(values.pop("config"), allowed)
        # A switch that was not given is False; a number that was given may well be 0.
        given = {name: value for name, value in values.items() if value is not None and value is not False}
        given |= {name: False for name, value in values.items() if value is False and name in declared}
        merged = {**dict.fromkeys(declared), **from_file, **given}
        for parameter in parameters:
            merged.setdefault(parameter.name, merged.get(_spelling(parameter), parameter.default))
        switches = {parameter.name: merged[parameter.name] for parameter in parameters}
        action(**switches, options=[options(**_given(options, merged)) for options in option_classes])

    everything = [*parameters, config, *declared.values()]
    run.__signature__ = inspect.Signature(everything)  # type: ignore[attr-defined]
    run.__doc__ = action.__doc__
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in everything}
    return run


def single_command(
    name: str,
    action: Callable[..., None],
    option_classes: tuple[type, ...],
    parameters: list[inspect.Parameter],
) -> Any:
    """Return the command of :func:`command_of`, for a group that makes its commands when asked for."""
    single = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    single.command(name)(command_of(action, option_classes, parameters))
    return typer.main.get_command(single)


def _spelling(parameter: inspect.Parameter) -> str:
    """Return how a file names a switch: as the command line does."""
    return parameter.name.removeprefix("as_")


def _parameter(name: str, info: FieldInfo, panel: str) -> inspect.Parameter:
    """Turn one declared option into a Typer parameter that is None unless the user gives it."""
    annotation = _plain_type(info.annotation)
    default = "" if info.is_required() else _default_text(info.default)
    option = typer.Option(
        flag_of(name) + (f"/{flag_of(f'no_{name}')}" if annotation is bool else ""),
        help=(info.description or "") + default,
        show_default=False,
        metavar=_metavar(info.annotation),
        rich_help_panel=panel,
    )
    return fixed(name, Annotated[annotation | None, option], None)


def _default_text(value: Any) -> str:
    """Return what the help says of a default; in round brackets, since rich reads square ones as markup.

    Examples
    --------
    >>> _default_text(20), _default_text((8, 9, 10)), _default_text(None)
    (' (default 20)', ' (default 8-10)', '')
    """
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        value = "yes" if value else "no"
    if isinstance(value, tuple):
        if len(value) > 1 and value == tuple(range(value[0], value[-1] + 1)):
            value = f"{value[0]}-{value[-1]}"
        else:
            value = ",".join(map(str, value))
    return f" (default {value})"


def _plain_type(annotation: Any) -> type:
    """Return what Typer should parse; the option class itself checks the value."""
    text = str(annotation)
    if annotation is bool:
        return bool
    if "str" in text or "Literal" in text or "Path" in text or "tuple" in text:
        return str
    return float if "float" in text else int


def _metavar(annotation: Any) -> str | None:
    if get_origin(annotation) is Literal:
        return "|".join(str(choice) for choice in get_args(annotation))
    return None


def _given(options: type, values: dict[str, Any]) -> dict[str, Any]:
    """Pick the values that belong to one class of options and that the user gave."""
    return {name: values[name] for name in options.model_fields if values.get(name) is not None}  # type: ignore[attr-defined]


def _read_config(path: Path | None, known: set[str]) -> dict[str, Any]:
    """Read a TOML file of options; dashes and underscores are the same, sections are ignored."""
    import tomllib

    if path is None:
        return {}
    if not path.is_file():
        raise BadInput(f"no such configuration file: {path}")
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is not TOML: {error}") from None
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= value if isinstance(value, dict) else {name: value}
    flat = {name.replace("-", "_"): value for name, value in flat.items()}
    for name in flat:
        if name not in known:
            raise BadOption(f"{path}: no option named {name!r}; there are {', '.join(sorted(known))}")
    return flat
