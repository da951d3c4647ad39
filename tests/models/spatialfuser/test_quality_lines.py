from __future__ import annotations

from atlasnmf.models.spatialfuser.params import quality_lines


def links(n: int) -> dict[str, list[dict[str, object]]]:
    made = [
        {"source": f"s{i}", "target": f"s{i + 1}", "n_pairs": 100, "n_passed": 80, "unmatched": i / 100}
        for i in range(n)
    ]
    return {"links": made}


def test_few_pairs_of_slices_have_a_line_each() -> None:
    assert quality_lines({}) == []
    assert quality_lines(links(2)) == [
        "s0 and s1: 100 pairs, 80 of them above chance; 0% of the spots unmatched",
        "s1 and s2: 100 pairs, 80 of them above chance; 1% of the spots unmatched",
    ]


def test_many_pairs_of_slices_have_one() -> None:
    assert quality_lines(links(59)) == [
        "59 pairs of slices: 5,900 pairs, 4,720 of them above chance; spots unmatched from 0% (s0 and s1) "
        "to 58% (s58 and s59)"
    ]
