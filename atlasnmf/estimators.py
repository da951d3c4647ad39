"""The models as Python classes, one for each model folder; parameters in, a fit out."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from atlasnmf import models
from atlasnmf.events import SILENT, Events
from atlasnmf.options import AtlasOptions, PrepareOptions, RunOptions

if TYPE_CHECKING:
    from dask.distributed import Client

    from atlasnmf.pipeline import Fit
    from atlasnmf.store.atlas import AtlasLike

__all__ = ["Estimator", "class_names"]


class Estimator:
    """A model and its parameters, ready to be fitted to an atlas.

    Parameters
    ----------
    preset
        Where the parameters start from: ``"default"``, ``"published"``, or another of the model's.
    random_state
        Seed; the same seed on the same machine gives the same bits.
    **params
        Parameters of the model, those of ``atlasnmf fit MODEL --help`` with underscores.

    Raises
    ------
    BadOption
        A parameter has no usable value.

    Examples
    --------
    >>> import atlasnmf as an
    >>> an.Inspire(preset="published", random_state=1).random_state
    1
    """

    model: ClassVar[str]

    def __init__(self, *, preset: str = "default", random_state: int = 0, **params: Any) -> None:
        self.preset = preset
        self.random_state = random_state
        self._given = params
        self.params = models.params_with_preset(self.model, preset, params)

    def fit(
        self,
        atlas: AtlasLike,
        *,
        client: Client | None = None,
        prepare: PrepareOptions | None = None,
        memory_budget: str | None = None,
        workers: int | None = None,
        threads: int = 1,
        train_workers: int | None = None,
        elastic: bool = False,
        worker_timeout: float = 60.0,
        device: str = "auto",
        work_dir: Path | str | None = None,
        residency: str = "auto",
        checkpoint_every: int = 500,
        patience: int | None = None,
        key_added: str | None = None,
        overwrite: bool = False,
        labels: str | None = None,
        events: Events = SILENT,
        **overrides: Any,
    ) -> Fit:
        """Fit the model; nothing is written into the store until :meth:`Fit.write`.

        Parameters
        ----------
        atlas
            An open atlas, the path of a store, or data in memory.
        client
            A Dask client: its workers do the tiles of ``prepare`` and of passes, and share the steps of
            training; threads of this process when not given.
        prepare
            Options of :func:`atlasnmf.prepare`; what is missing is prepared.
        memory_budget, threads, train_workers, elastic, worker_timeout
            As on the command line, see :class:`atlasnmf.options.RunOptions`.
        workers
            Threads that work on tiles when there is no client.
        device, work_dir, residency, checkpoint_every, patience
            As on the command line, see :class:`atlasnmf.options.RunOptions`.
        key_added, overwrite, labels
            As on the command line, see :class:`atlasnmf.options.RunOptions`.
        events
            Listener for progress.
        **overrides
            Model parameters for this fit only, for example ``steps=10_000``.

        Raises
        ------
        BadInput
            The atlas cannot be used.
        BadOption
            An option has no usable value, or the budget is too small.

        Examples
        --------
        >>> import atlasnmf as an
        >>> model = an.Inspire(n_factors=3, encoder="lgcn")
        >>> fit = model.fit("embryo.zarr", steps=2, memory_budget="2GB", key_added="three")
        >>> fit.write()["slice_1"]
        ['X_three', 'three_factors', 'three_discriminator', 'three_loadings', 'three']
        """
        from atlasnmf import pipeline
        from atlasnmf.store.atlas import opened

        atlas = opened(atlas)
        run = RunOptions(
            memory_budget=memory_budget,
            seed=self.random_state,
            workers=workers,
            threads=threads,
            train_workers=train_workers,
            elastic=elastic,
            worker_timeout=worker_timeout,
            device=device,
            work_dir=work_dir,
            residency=residency,
            checkpoint_every=checkpoint_every,
            patience=patience,
            key_added=key_added,
            overwrite=overwrite,
            labels=labels,
        )
        params = models.params_with_preset(self.model, self.preset, self._given | overrides)
        options = AtlasOptions(**atlas.source_options())
        request = pipeline.FitRequest(
            self.model, atlas.name, params, prepare or PrepareOptions(), options, run
        ).settled()
        if request.atlas != options:  # parameters name some of the tables
            from atlasnmf.store.atlas import open_atlas

            atlas = open_atlas(atlas.source, **request.atlas.model_dump())
        return pipeline.train(atlas, request, client=client, events=events)


def _make(model: str) -> type[Estimator]:
    name, text = models.class_name(model), inspect.getdoc(Estimator) or ""
    text = text.replace("an.Inspire(", f"an.{name}(")
    return type(name, (Estimator,), {"model": model, "__doc__": f"{models.summary(model)}\n\n{text}"})


def class_names() -> dict[str, str]:
    """Return the class of each model folder by its public name."""
    return {models.class_name(model): model for model in models.available()}


def __getattr__(name: str) -> type[Estimator]:
    if name in class_names():
        globals()[name] = _make(class_names()[name])
        return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
