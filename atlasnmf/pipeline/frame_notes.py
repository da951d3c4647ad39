"""What a user should know of slices brought into one frame: a line a matter, however many slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from atlasnmf.features.registration import Note
from atlasnmf.features.rigid import Rigid

__all__ = ["Laid", "frame_notes"]

#: Slices named in a line.
_NAMED = 3


@dataclass(frozen=True)
class Laid:
    """Where a slice was laid, how, and whether to believe it.

    Parameters
    ----------
    name, onto
        The slice and the one it was laid onto.
    alike
        Whether they measure the same features.
    rigid, method, score
        As in :class:`atlasnmf.features.registration.Registration`.
    trusted
        Whether positions are used for matching.
    notes
        What the registration said.
    """

    name: str
    onto: str
    alike: bool
    rigid: Rigid
    method: str
    score: float
    trusted: bool
    notes: tuple[Note, ...] = ()


def frame_notes(laid: Sequence[Laid]) -> list[str]:
    """Return what there is to say of the slices, slices of the same matter in one line.

    Examples
    --------
    >>> still = Laid("b", "a", True, Rigid.identity(), "icp", 0.05, False)
    >>> print(*frame_notes([still]))
    slice 'b' could not be laid onto 'a' (score 0.05: they may not overlap, or fit as well otherwise): \
spots are matched by features alone; if positions share a frame, --register-by none
    """
    found = []
    for alike, so in (True, "spots are matched by features alone"), (False, "spots are not matched"):
        lost = [one for one in laid if not one.trusted and one.alike == alike]
        if lost:
            found.append(f"{_not_laid(lost)}: {so}; if positions share a frame, --register-by none")
    matters: dict[str, list[tuple[str, str]]] = {}
    for one in laid:
        for note in one.notes:
            # that a slice which was not laid agrees poorly is said
            if one.trusted or note.of_units:
                matters.setdefault(note.text, []).append((one.name, note.detail))
    return found + [_gathered(text, slices) for text, slices in matters.items()]


def _not_laid(lost: Sequence[Laid]) -> str:
    why = "they may not overlap, or fit as well otherwise"
    if len(lost) == 1:
        one = lost[0]
        return f"slice {one.name!r} could not be laid onto {one.onto!r} (score {one.score:.2f}: {why})"
    names = _listed([f"{one.name} onto {one.onto}" for one in lost])
    scores = f"scores up to {max(one.score for one in lost):.2f}"
    return f"{len(lost)} slices could not be laid onto another ({scores}: {why}; {names})"


def _gathered(text: str, slices: Sequence[tuple[str, str]]) -> str:
    if len(slices) == 1:
        return f"{slices[0][0]}: {text} ({slices[0][1]})"
    return f"{len(slices)} slices: {text}: {_listed([f'{name} ({detail})' for name, detail in slices])}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
