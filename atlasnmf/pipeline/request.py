"""One fit as the user asked for it: enough to run it, to describe it, and to resume it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from atlasnmf import models
from atlasnmf.errors import BadOption
from atlasnmf.options import AtlasOptions, Options, PrepareOptions, RunOptions, flag_of

__all__ = ["FitRequest", "resume_command"]

#: A longer text is a list of genes and no path.
_LONGEST_PATH = 1024


def resume_command(store: str, run: RunOptions) -> str:
    """Return the command that goes on with what was interrupted on a store.

    Examples
    --------
    >>> resume_command("my atlas.zarr", RunOptions(work_dir="scratch"))
    "atlasnmf resume 'my atlas.zarr' --work-dir scratch"
    """
    place = [] if run.work_dir is None else ["--work-dir", str(run.work_dir)]
    return shlex.join(["atlasnmf", "resume", store, *place])


@dataclass(frozen=True)
class FitRequest:
    """A fit of one model to one store.

    Parameters
    ----------
    model
        Name of the model.
    store
        The SpatialData store.
    params
        The model's parameters, preset already applied.
    prepare, atlas, run
        The other options.
    """

    model: str
    store: str
    params: Options
    prepare: PrepareOptions = field(default_factory=PrepareOptions)
    atlas: AtlasOptions = field(default_factory=AtlasOptions)
    run: RunOptions = field(default_factory=RunOptions)

    @classmethod
    def from_options(cls, model: str, store: str, preset: str, params: Options, *options: Any) -> FitRequest:
        """Apply a preset under what the user gave; raises BadOption when there is no such preset."""
        given = {name: getattr(params, name) for name in params.model_fields_set}
        request = cls(model, str(store), models.params_with_preset(model, preset, given), *options)
        return request.settled()

    def settled(self) -> FitRequest:
        """Read what parameters name by a file, and open the tables they name."""
        params = _with_genes_read(self.params)
        tables = getattr(params, "tables", None)
        atlas = self.atlas if tables is None else self.atlas.model_copy(update={"tables": tables})
        return replace(self, params=params, atlas=atlas)

    @property
    def key(self) -> str:
        """Prefix of the result keys."""
        return self.run.key_added or self.model

    def to_json(self) -> dict[str, Any]:
        """Return plain values for the ledger."""
        return {
            "model": self.model,
            "store": self.store,
            "params": self.params.model_dump(mode="json"),
            "prepare": self.prepare.model_dump(mode="json"),
            "atlas": self.atlas.model_dump(mode="json"),
            "run": self.run.model_dump(mode="json"),
        }

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> FitRequest:
        """Return the request that :meth:`to_json` wrote."""
        return cls(
            model=record["model"],
            store=record["store"],
            params=models.params(record["model"])(**record["params"]),
            prepare=PrepareOptions(**record["prepare"]),
            atlas=AtlasOptions(**record["atlas"]),
            run=RunOptions(**record["run"]),
        )

    def command(self) -> str:
        """Return the command line that does this fit again.

        Only options that differ from their defaults are named, so the line stays readable.
        """
        words = ["atlasnmf", "fit", self.model, self.store]
        for options in (self.params, self.prepare, self.atlas, self.run):
            defaults = type(options).model_fields
            for name, value in options.model_dump(mode="json").items():
                if value is None or value == defaults[name].default:
                    continue
                if isinstance(value, bool):
                    words.append(flag_of(name) if value else flag_of(f"no_{name}"))
                else:
                    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
                    words += [flag_of(name), text]
        return shlex.join(words)


def _with_genes_read(params: Options) -> Options:
    """Put the genes of a file in the place of its name, so that a resume does not need the file."""
    read = {}
    for name in {"denoise", "holdout", "impute"} & set(type(params).model_fields):
        text = getattr(params, name)
        if not text or len(text) > _LONGEST_PATH or not Path(text).is_file():
            continue
        genes = [gene.strip() for gene in Path(text).read_text().replace(",", "\n").splitlines()]
        if not any(genes):
            raise BadOption(f"--{name}: {text} names no gene; write one per line")
        read[name] = ",".join(gene for gene in genes if gene)
    return type(params)(**params.model_dump(exclude_unset=True) | read) if read else params
