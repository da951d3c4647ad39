"""Randomness as a function of where you are: no generator state to save, no global seed."""

from __future__ import annotations

import hashlib

import numpy as np

__all__ = ["rng_for", "seed_for"]


def seed_for(seed: int, *where: str | int) -> int:
    """Hash a seed and a place in the program to a 63-bit seed.

    Parameters
    ----------
    seed
        The user's seed.
    where
        Names and counters of the place, for example ``("inspire", "batch", step, rank)``.

    Examples
    --------
    >>> seed_for(0, "inspire", "batch", 3) == seed_for(0, "inspire", "batch", 3)
    True
    >>> seed_for(0, "inspire", "batch", 3) == seed_for(0, "inspire", "batch", 4)
    False
    """
    text = "\x1f".join([str(int(seed)), *(str(part) for part in where)])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def rng_for(seed: int, *where: str | int) -> np.random.Generator:
    """Return a generator that depends only on the seed and the place (see :func:`seed_for`).

    Examples
    --------
    >>> from atlasnmf.seeds import rng_for
    >>> rng_for(0, "batch", 3).random() == rng_for(0, "batch", 3).random()
    True
    """
    return np.random.Generator(np.random.Philox(seed_for(seed, *where)))
