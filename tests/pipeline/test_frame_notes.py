from __future__ import annotations

from atlasnmf.features.registration import Note
from atlasnmf.features.rigid import Rigid
from atlasnmf.pipeline.frame_notes import Laid, frame_notes

POOR, RIVAL = Note("agrees poorly", "score 0.25"), Note("another turn fits almost as well", "turned over")


def laid(s: int, trusted: bool, *notes: Note, alike: bool = True, score: float = 0.0) -> Laid:
    return Laid(f"s{s}", f"s{s - 1}", alike, Rigid.identity(), "icp", score, trusted, notes)


def test_sixty_slices_that_cannot_be_laid_are_one_line() -> None:
    lines = frame_notes([laid(s, False, POOR, RIVAL, score=s / 1000) for s in range(1, 60)])
    assert len(lines) == 1
    assert "59 slices could not be laid onto another (scores up to 0.06" in lines[0]
    assert "s1 onto s0, s2 onto s1, s3 onto s2 and 56 more" in lines[0]


def test_slices_laid_all_the_same_say_each_matter_once() -> None:
    units = Note("coordinates may be in different units", "7-fold", of_units=True)
    lines = frame_notes(
        [laid(1, True, RIVAL), laid(2, True), laid(3, True, POOR, RIVAL), laid(4, False, units)]
    )
    assert lines[0].startswith("slice 's4' could not be laid onto 's3' (score 0.00: ")
    assert lines[1:] == [
        "2 slices: another turn fits almost as well: s1 (turned over), s3 (turned over)",
        "s3: agrees poorly (score 0.25)",
        "s4: coordinates may be in different units (7-fold)",
    ]


def test_slices_of_other_features_are_told_apart() -> None:
    lines = frame_notes([laid(1, False), laid(2, False, alike=False)])
    assert ["features alone" in line for line in lines] == [True, False]
    assert "spots are not matched" in lines[1]
    assert frame_notes([laid(1, True)]) == []
