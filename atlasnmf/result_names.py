"""What results are called in a store: models say it of their own, whoever reads results looks it up here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import TYPE_CHECKING

from atlasnmf import models
from atlasnmf.errors import BadInput
from atlasnmf.store.names import no_such

if TYPE_CHECKING:
    from atlasnmf.store.atlas import Atlas

__all__ = ["are_shares", "factor_ends", "factor_key", "first_of", "no_result", "weight_ends"]


def _ends(names: Callable[[str], Iterable[str]]) -> tuple[str, ...]:
    """Return what stands after the name of a model in the names it gives, each once."""
    return tuple(
        dict.fromkeys(name.removeprefix(model) for model in models.available() for name in names(model))
    )


@cache
def factor_ends() -> tuple[str, ...]:
    """Return how obsm keys end whose columns are factors; what stands before is the key of the result.

    Examples
    --------
    >>> factor_ends()
    ('_factors', '_proportions', '_patterns')
    """
    return _ends(models.factors)


@cache
def weight_ends() -> tuple[str, ...]:
    """Return how varm keys end that hold what genes weigh in factors.

    Examples
    --------
    >>> weight_ends()
    ('_loadings', '_coefficients')
    """
    return _ends(lambda model: models.results(model).get("varm", ()))


def are_shares(name: str) -> bool:
    """Say whether the rows of an obsm array of factors sum to 1.

    Examples
    --------
    >>> are_shares("run2_factors"), are_shares("stanmf_patterns")
    (True, False)
    """
    return name.endswith(_ends(models.shares))


def first_of(key: str, ends: Iterable[str], known: Iterable[str]) -> str | None:
    """Return the first name made of the key of a result and an end that is known; None if there is none."""
    return next((key + end for end in ends if key + end in known), None)


def factor_key(atlas: Atlas, key: str) -> str:
    """Return the obsm key of a result's factors, or a key that is one; raises BadInput when there is none."""
    known = atlas.keys("obsm")
    ends = (*factor_ends(), "")
    found = first_of(key, ends, known)
    if found is None:
        raise no_result("result", key, {name.removesuffix(end) for name in known for end in ends}, atlas)
    return found


def no_result(kind: str, key: str, known: Iterable[str], atlas: Atlas) -> BadInput:
    """Say that a result is not there, with the nearest name and what makes it: the fit its key names."""
    model = next((name for name in models.available() if name in key), None)
    mend = f"fit it first: atlasnmf fit {model} {atlas.path or 'STORE'}" if model else "fit a model first"
    if key.startswith("X_smoothed_pca"):
        mend = "make it by atlasnmf.tl.baseline"
    return BadInput(f"{no_such(kind, key, sorted(known), atlas.name)}; {mend}")
