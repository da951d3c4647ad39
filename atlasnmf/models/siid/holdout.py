"""Which panel genes are hidden from the fine slice, from what the user wrote."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.seeds import rng_for

__all__ = ["folds_of", "held_out"]


def held_out(text: str | None, panel: Sequence[str], *, seed: int) -> tuple[list[np.ndarray], bool]:
    """Return the genes of every fold.

    Parameters
    ----------
    text
        ``None``; names split by commas; a share of the panel below 1; or ``10fold`` and the like, which
        hides every gene once.
    panel
        Genes that both slices have.
    seed
        Of the draw of a share or of folds.

    Returns
    -------
    folds
        Positions in ``panel``, ascending, one array per fold; empty without a holdout.
    crossed
        Whether the folds take turns.

    Raises
    ------
    BadInput
        A gene named is not in the panel of both slices.
    BadOption
        The text says nothing of these, or hides too much.

    Examples
    --------
    >>> held_out("b,c", ["a", "b", "c", "d"], seed=0)
    ([array([1, 2])], False)
    >>> [len(fold) for fold in held_out("2fold", ["a", "b", "c", "d", "e"], seed=0)[0]]
    [3, 2]
    """
    if not text:
        return [], False
    rng = rng_for(seed, "siid", "holdout")
    n_folds = folds_of(text)
    if n_folds is not None:
        if not 2 <= n_folds <= len(panel):
            raise BadOption(f"--holdout: between 2 and {len(panel)} folds (the panel's genes), got {text}")
        order = rng.permutation(len(panel))
        return [np.sort(order[k::n_folds]) for k in range(n_folds)], True
    share = _number(text)
    if share is not None:
        n_hidden = round(share * len(panel))
        if not 0 < share < 1 or not 1 <= n_hidden < len(panel):
            raise BadOption(f"--holdout: a share hides between 1 and {len(panel) - 1} genes, got {text}")
        return [np.sort(rng.choice(len(panel), n_hidden, replace=False))], False
    names = [name.strip() for name in re.split(r"[,\n]", text) if name.strip()]
    place = {gene: at for at, gene in enumerate(panel)}
    missing = [name for name in names if name not in place]
    if missing:
        raise BadInput(
            f"--holdout: {len(missing)} of {len(names)} genes are not in both slices (the first is "
            f"{missing[0]!r}); name genes of the panel that the coarse table has too"
        )
    if len(set(names)) >= len(panel):
        raise BadOption("--holdout hides the whole panel; leave some genes to fit")
    return [np.array(sorted(place[name] for name in set(names)))], False


def folds_of(text: str | None) -> int | None:
    """Return the number of folds that a text such as ``10fold`` asks for, None for any other.

    Examples
    --------
    >>> folds_of("10fold"), folds_of("0.1")
    (10, None)
    """
    found = re.fullmatch(r"\s*(\d+)\s*-?fold\s*", text or "")
    return int(found[1]) if found else None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
