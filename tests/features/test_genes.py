"""Shared genes, panels, unions."""

from __future__ import annotations

import numpy as np
import pytest

from atlasnmf.errors import BadInput
from atlasnmf.features.genes import SliceGenes, choose_genes, gene_lookup


def slice_of(name: str, genes: str, usable: str, variable: str | None = None) -> SliceGenes:
    names = np.array(list(genes))
    pick = [np.array([gene in chosen for gene in names]) for chosen in (usable, variable or "")]
    return SliceGenes(name, names, pick[0], None if variable is None else pick[1])


def test_variable_in_every_slice_and_sorted() -> None:
    choice = choose_genes([slice_of("s", "dcbae", "abcde", "cbd"), slice_of("t", "abcd", "abc", "bcd")])
    assert choice.genes == ("b", "c")
    assert choice.mask.all()


def test_panels_keep_all_shared_usable_genes() -> None:
    assert choose_genes([slice_of("s", "dcba", "abc"), slice_of("t", "abcd", "bcd")]).genes == ("b", "c")


def test_union_keeps_a_panel_whole_and_masks_what_was_not_measured() -> None:
    whole = slice_of("visium", "abcdef", "abcdef", "aef")
    other = slice_of("visium 2", "abcdef", "abcdef", "adf")
    panel = slice_of("merfish", "abg", "abg", "abg")
    choice = choose_genes([whole, other, panel], union=True)
    assert choice.genes == ("a", "b", "f", "g")  # e, d: one of the transcriptomes refused them
    assert choice.mask.astype(int).tolist() == [[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 0, 1]]


def test_nothing_shared_names_the_slices() -> None:
    slices = [slice_of("mouse", "ab", "ab"), slice_of("human", "AB", "AB")]
    with pytest.raises(BadInput, match="slices 'mouse' and 'human' share none of their 2 and 2 genes"):
        choose_genes(slices)
    with pytest.raises(BadInput, match="slice 'empty' has no usable gene"):
        choose_genes([slices[0], slice_of("empty", "ab", "")])
    with pytest.raises(BadInput, match="no gene is shared by all slices; raise --n-hvgs"):
        choose_genes([slice_of(n, "abc", "abc", v) for n, v in zip("stu", ("ab", "bc", "ac"), strict=True)])


def test_lookup() -> None:
    assert gene_lookup(np.array(["x", "b", "a"], dtype=object), ("a", "b")).tolist() == [-1, 1, 0]
