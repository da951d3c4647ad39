"""Out-of-core, atlas-scale factorisation and integration of spatial omics.

>>> import atlasnmf as an
>>> an.Inspire(n_factors=20).params.n_factors
20
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lazy_loader

__version__ = "0.1.0"

_lazy, _dir, _names = lazy_loader.attach(
    __name__,
    submodules=["estimators", "metrics", "models", "pl", "tl"],
    submod_attrs={
        "analysis.export": ["to_anndata"],
        "pipeline": ["load_fit", "prepare"],
        "pipeline.volumes": ["ingest_volumes", "simulate_volume"],
        "simulate": ["simulate_embryo", "simulate_omics", "simulate_pair"],
        "store": ["ingest", "open_atlas"],
    },
)

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
    return _lazy(name)


def __dir__() -> list[str]:
    from atlasnmf import estimators

    return sorted([*_dir(), *estimators.class_names(), "__version__"])
