"""Stages that are done once: a stage's key is the hash of its parameters and of the keys it depends on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from atlasnmf.store.ledger import key_of

if TYPE_CHECKING:
    from atlasnmf.store.working import WorkingCopy

__all__ = ["Stages"]


class Stages:
    """Runs the stages of one working copy, skipping those whose key is in the ledger.

    Parameters
    ----------
    working
        The working copy; its ledger says what is done.
    fingerprint
        Hash of the user's input; the name ``"store"`` stands for it among the stages depended on.

    Attributes
    ----------
    seconds
        What each stage of this run took; skipped stages are absent.
    """

    def __init__(self, working: WorkingCopy, fingerprint: str) -> None:
        self._working = working
        self._keys: dict[str, str] = {"store": fingerprint}
        self.seconds: dict[str, float] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Stages run or skipped so far, in order."""
        return tuple(name for name in self._keys if name != "store")

    def key(self, name: str) -> str:
        """Return the key of a stage that was run or skipped."""
        return self._keys[name]

    def run(
        self,
        name: str,
        params: Mapping[str, Any],
        *,
        after: Sequence[str],
        work: Callable[[str], Mapping[str, Any] | None],
    ) -> dict[str, Any]:
        """Do a stage unless it was done with the same parameters on the same input.

        Parameters
        ----------
        name
            Name of the stage in the ledger.
        params
            All that decides its result, JSON values.
        after
            Stages whose results it reads.
        work
            ``work(key)`` does the stage and returns facts worth keeping in the ledger; pieces that an
            interrupted run left under the same key need not be made again.

        Returns
        -------
        The facts, of this run or of the one that did the stage.
        """
        key = key_of(name, dict(params), [self._keys[stage] for stage in after])
        self._keys[name] = key
        ledger = self._working.ledger
        if not ledger.is_done(name, key):
            start = time.perf_counter()
            ledger.start(name, key, dict(params))
            facts = work(key) or {}
            self.seconds[name] = time.perf_counter() - start
            ledger.finish(name, key, seconds=self.seconds[name], facts=facts)
        return ledger.facts(name)
