"""What a user may choose, typed, checked once at construction, frozen afterwards."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from difflib import get_close_matches
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from atlasnmf.budget import parse_bytes
from atlasnmf.errors import BadOption

__all__ = [
    "AtlasOptions",
    "FactorCount",
    "Options",
    "PrepareOptions",
    "RunOptions",
    "at_least",
    "flag_of",
    "split_list",
    "taking",
]


def flag_of(name: str) -> str:
    """Return the command-line spelling of an option.

    Examples
    --------
    >>> flag_of("n_hvgs")
    '--n-hvgs'
    """
    return "--" + name.replace("_", "-")


def at_least(least: int, **given: int) -> None:
    """Refuse numbers that are too small.

    Raises
    ------
    BadOption
        Naming the first.

    Examples
    --------
    >>> at_least(1, n_top=5, n_neighbors=0)
    Traceback (most recent call last):
    atlasnmf.errors.BadOption: n_neighbors must be 1 or more, got 0
    """
    for name, value in given.items():
        if value < least:
            raise BadOption(f"{name} must be {least} or more, got {value}")


def split_list(value: Any) -> Any:
    """Read a list written with commas, as the command line gives it; anything else is left as it is.

    Examples
    --------
    >>> split_list("a, b"), split_list(("a", "b")), split_list(None)
    (('a', 'b'), ('a', 'b'), None)
    """
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


class Options(BaseModel):
    """Base of every set of options: frozen, no unknown names, one clear line when a value is wrong."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    #: What help texts call these options together.
    title: ClassVar[str] = "The model"

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0]) if first["loc"] else ""
            message = first["msg"].removeprefix("Value error, ")
            if first["type"] == "extra_forbidden":
                known = sorted(flag_of(field) for field in type(self).model_fields)
                near = get_close_matches(flag_of(name), known, n=1)
                hint = f" did you mean {near[0]}?" if near else ""
                message = f"no such option;{hint} there are {', '.join(known)}"
            given = "" if not name or name not in values else f" (got {values[name]!r})"
            raise BadOption(f"{flag_of(name) + ': ' if name else ''}{message}{given}") from None


T = TypeVar("T")


def taking(options: type[Options]) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Let a function whose last positional argument is a set of options take each of them by name.

    The signature that is seen, and the parameters in the docstring where it says ``{options}``, are those of
    the options: they are written down once, with their defaults, limits and descriptions.

    Examples
    --------
    >>> class Sizes(Options):
    ...     n_spots: int = Field(5, ge=1, description="Spots.")
    >>> @taking(Sizes)
    ... def simulate(out: str, sizes: Sizes, *, overwrite: bool = False) -> str:
    ...     return f"{sizes.n_spots} spots in {out}"
    >>> simulate("a.zarr", n_spots=7), str(inspect.signature(simulate))
    ('7 spots in a.zarr', "(out: 'str', *, n_spots: int = 5, overwrite: 'bool' = False) -> 'str'")
    """
    fields = options.model_fields

    def wrap(function: Callable[..., T]) -> Callable[..., T]:
        @wraps(function)
        def by_name(*args: Any, **values: Any) -> T:
            own = {name: values.pop(name) for name in tuple(values) if name in fields}
            return function(*args, options(**own), **values)

        signature = inspect.signature(function)
        given = list(signature.parameters.values())
        last = max(at for at, one in enumerate(given) if one.kind is one.POSITIONAL_OR_KEYWORD)
        given[last : last + 1] = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=info.default, annotation=info.annotation
            )
            for name, info in fields.items()
        ]
        by_name.__signature__ = signature.replace(parameters=given)  # type: ignore[attr-defined]
        said = "\n    ".join(f"{name}\n        {info.description}" for name, info in fields.items())
        by_name.__doc__ = (function.__doc__ or "").replace("{options}", said)
        return by_name

    return wrap


def _enough_factors(value: int | str) -> int | str:
    if isinstance(value, int) and value < 2:
        raise ValueError("at least 2 factors are needed")
    return value


#: How many factors a model has, or that it is to find it out.
FactorCount = Annotated[int | Literal["auto"], AfterValidator(_enough_factors)]


class AtlasOptions(Options):
    """Which part of a store is the atlas.

    Examples
    --------
    >>> AtlasOptions(slices="E9, E10").slices
    ('E9', 'E10')
    """

    title: ClassVar[str] = "What is read"

    tables: tuple[str, ...] | None = Field(None, description="Tables to use; all when not given.")
    slice_key: str | None = Field(None, description="obs column that names the slice of each spot.")
    slices: tuple[str, ...] | None = Field(
        None, description="Slices to use, in this order, such as a,b; all when not given."
    )
    layer: str | None = Field(None, description="Layer with the raw counts; X when not given.")
    coordinate_system: str = Field("global", description="Coordinate system of the positions.")
    spatial_key: str = Field("spatial", description="obsm key of the positions.")

    @field_validator("tables", "slices", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return split_list(value)


class PrepareOptions(Options):
    """How counts become graph features.

    Examples
    --------
    >>> PrepareOptions(radius=1.6, n_neighbors=6)
    Traceback (most recent call last):
    atlasnmf.errors.BadOption: give --radius or --n-neighbors, not both
    """

    title: ClassVar[str] = "Preparation"

    min_genes: int = Field(1, ge=0, description="Spots with fewer detected genes get NaN results.")
    min_spots: int = Field(3, ge=0, description="Genes seen in fewer spots of a slice are left out.")
    n_hvgs: int | None = Field(
        None, ge=0, description="Variable genes per slice, then intersected; 0 takes all shared genes."
    )
    genes: Literal["auto", "hvg", "shared", "union"] = Field(
        "auto",
        description="hvg intersects variable genes, shared takes all shared genes (small panels), "
        "union keeps genes that some slices lack; auto decides by panel size.",
    )
    radius: float | None = Field(None, gt=0, description="Neighbours are closer than this (coordinate unit).")
    n_neighbors: int | None = Field(
        None, ge=1, description="Or: this many nearest neighbours, made symmetric."
    )
    target_sum: float | None = Field(
        None, gt=0, description="Counts a spot is scaled to before log1p: 1e4, or 1e3 for panels."
    )
    hops: int | None = Field(None, ge=0, le=8, description="Stored gene-space neighbourhood sums.")
    n_components: int | None = Field(None, ge=0, description="Components of the smoothed log counts.")
    component_hops: int | None = Field(None, ge=0, le=8, description="Averaging rounds of the components.")

    @model_validator(mode="after")
    def _one_graph(self) -> PrepareOptions:
        if self.radius is not None and self.n_neighbors is not None:
            raise ValueError("give --radius or --n-neighbors, not both")
        return self


class RunOptions(Options):
    """Where and within which limits a job runs.

    Examples
    --------
    >>> RunOptions(memory_budget="4GB", workers=2).seed
    0
    """

    title: ClassVar[str] = "How it runs"

    memory_budget: str | None = Field(
        None,
        description="Most memory the process may hold, such as 4GB; half of what is free when not given.",
    )
    seed: int = Field(0, ge=0, description="Same seed, same machine: same bits.")
    workers: int | None = Field(
        None,
        ge=1,
        description="Workers: from 2 on, processes of this machine as a Dask cluster; "
        "when not given, one process with one thread per core. In Python: threads.",
    )
    threads: int = Field(
        1, ge=1, description="Threads of an operation of a training step; part of what decides the bits."
    )
    scheduler: str | None = Field(
        None, description="Dask scheduler whose workers do the work, such as tcp://host:8786."
    )
    train_workers: int | None = Field(
        None,
        ge=0,
        description="Workers that share each training step: all of the cluster, or this many; "
        "0 trains in this process. Part of what decides the bits.",
    )
    elastic: bool = Field(
        False, description="Go on with fewer workers when a lost one does not come back: other last bits."
    )
    worker_timeout: float = Field(
        60.0, gt=0, description="Seconds after which a worker that is silent in a step counts as lost."
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where training steps run.")
    work_dir: Path | str | None = Field(
        None, description="Place of the working copy; beside the store by default."
    )
    residency: Literal["auto", "device", "host", "disk"] = Field(
        "auto", description="Where batches are read from; auto takes the fastest that fits the budget."
    )
    checkpoint_every: int = Field(500, ge=1, description="Steps between checkpoints; one a minute at least.")
    patience: int | None = Field(
        None,
        ge=1,
        description="Stop early after this many windows of 50 steps in a row without a lower mean loss.",
    )
    key_added: str | None = Field(None, description="Prefix of the result keys instead of the model's name.")
    overwrite: bool = Field(False, description="Replace results of an earlier fit.")
    labels: str | None = Field(None, description="obs column with known regions, to report quality against.")

    @field_validator("memory_budget")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        if value is not None:
            parse_bytes(value)
        return value
