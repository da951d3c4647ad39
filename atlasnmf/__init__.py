"""Out-of-core, atlas-scale factorisation and integration of spatial omics.

>>> import atlasnmf as an
>>> an.Inspire(n_factors=20).params.n_factors
20
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

#: Loaded when first asked for, so that a kernel or `atlasnmf --help` needs none of what the others import.
_ROOMS = ("estimators", "metrics", "models", "pl", "tl")
_HOMES = {
    "ingest": "store",
    "ingest_volumes": "pipeline.volumes",
    "load_fit": "pipeline",
    "open_atlas": "store",
    "prepare": "pipeline",
    "simulate_embryo": "simulate",
    "simulate_omics": "simulate",
    "simulate_pair": "simulate",
    "simulate_volume": "pipeline.volumes",
    "to_anndata": "analysis.export",
}

if TYPE_CHECKING:
    from atlasnmf.analysis.export import to_anndata as to_anndata
    from atlasnmf.pipeline import load_fit as load_fit
    from atlasnmf.pipeline import prepare as prepare
    from atlasnmf.pipeline.volumes import ingest_volumes as ingest_volumes
    from atlasnmf.pipeline.volumes import simulate_volume as simulate_volume
    from atlasnmf.simulate import simulate_embryo as simulate_embryo
    from atlasnmf.simulate import simulate_omics as simulate_omics
    from atlasnmf.simulate import simulate_pair as simulate_pair
    from atlasnmf.store import ingest as ingest
    from atlasnmf.store import open_atlas as open_atlas


def __getattr__(name: str) -> Any:
    # The estimator classes come from the model folders: one more folder, one more class, no list to edit.
    if name[:1].isupper():
        from atlasnmf import estimators

        return getattr(estimators, name)
    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    from atlasnmf import estimators

    return sorted([*_ROOMS, *_HOMES, *estimators.class_names(), "__version__"])
