"""Which genes a model sees: shared by all slices, a small panel, or the union with a mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from atlasnmf.errors import BadInput

__all__ = ["GeneChoice", "SliceGenes", "choose_genes", "gene_lookup", "is_mitochondrial"]


def is_mitochondrial(genes: Sequence[str] | np.ndarray) -> np.ndarray:
    """Say which genes are mitochondrial (``mt-`` or ``MT-`` first).

    Examples
    --------
    >>> is_mitochondrial(["mt-Co1", "Mtor", "MT-ND1"]).tolist()
    [True, False, True]
    """
    names = np.asarray(genes, dtype=np.str_)
    return np.char.startswith(names, "mt-") | np.char.startswith(names, "MT-")


@dataclass(frozen=True)
class SliceGenes:
    """The genes of one slice.

    Parameters
    ----------
    name
        Name of the slice.
    genes
        Names of all genes of its table, shape (G_table,).
    usable
        Not mitochondrial and found in enough of its spots, bool, shape (G_table,).
    variable
        Highly variable in it, bool, shape (G_table,); None when no choice by variability is made.
    """

    name: str
    genes: np.ndarray
    usable: np.ndarray
    variable: np.ndarray | None = None

    def chosen(self) -> set[str]:
        """Genes this slice votes for."""
        mask = self.usable if self.variable is None else self.usable & self.variable
        return set(np.asarray(self.genes)[mask].tolist())


@dataclass(frozen=True)
class GeneChoice:
    """The model's genes.

    Parameters
    ----------
    genes
        Names, sorted, G of them.
    mask
        Which slice measured which gene, bool, shape (S, G).
    """

    genes: tuple[str, ...]
    mask: np.ndarray


def choose_genes(slices: Sequence[SliceGenes], *, union: bool = False) -> GeneChoice:
    """Choose the genes a model sees.

    Parameters
    ----------
    slices
        One entry per slice. With ``variable`` None in all of them every shared usable gene is taken
        (small panels).
    union
        Keep genes that some slices did not measure, masked there: those that every slice that measured
        them chose, and all those of a slice whose choice is all it has (a panel).

    Returns
    -------
    choice
        Genes sorted by name, as the published INSPIRE does.

    Raises
    ------
    BadInput
        No gene is left, naming the two slices that share the fewest.
    """
    chosen = [entry.chosen() for entry in slices]
    if union:
        names = _union(slices, chosen)
    else:
        names = set.intersection(*chosen)
    if not names:
        raise BadInput(_nothing_shared(slices, chosen))
    genes = tuple(sorted(names))
    mask = np.stack([np.isin(np.array(genes), np.asarray(entry.genes, dtype=np.str_)) for entry in slices])
    return GeneChoice(genes, mask)


def _union(slices: Sequence[SliceGenes], chosen: Sequence[set[str]]) -> set[str]:
    refused: set[str] = set()
    panel: set[str] = set()
    for entry, own in zip(slices, chosen, strict=True):
        usable = set(np.asarray(entry.genes)[entry.usable].tolist())
        refused |= usable - own
        panel |= own if own == usable else set()
    return (set().union(*chosen) - refused) | panel


def _nothing_shared(slices: Sequence[SliceGenes], chosen: Sequence[set[str]]) -> str:
    empty = [entry.name for entry, own in zip(slices, chosen, strict=True) if not own]
    if empty:
        return f"slice {empty[0]!r} has no usable gene; lower --min-spots, or check its counts"
    pairs = [(len(a & b), i, j) for i, a in enumerate(chosen) for j, b in enumerate(chosen) if i < j]
    n_shared, i, j = min(pairs)
    first, second = slices[i], slices[j]
    if n_shared:
        return "no gene is shared by all slices; raise --n-hvgs, or keep genes of some with --genes union"
    sizes = f"{len(chosen[i])} and {len(chosen[j])}"
    return (
        f"slices {first.name!r} and {second.name!r} share none of their {sizes} genes "
        f"(such as {min(chosen[i])!r} and {min(chosen[j])!r}); use the same kind of gene names in both"
    )


def gene_lookup(table_genes: Sequence[str] | np.ndarray, model_genes: Sequence[str]) -> np.ndarray:
    """Give every gene of a table its number among the model's genes.

    Returns
    -------
    lut
        Model number of each table gene, -1 for the others, int32, shape (G_table,).

    Examples
    --------
    >>> gene_lookup(["b", "x", "a"], ("a", "b")).tolist()
    [1, -1, 0]
    """
    number = {name: i for i, name in enumerate(model_genes)}
    return np.array([number.get(str(name), -1) for name in table_genes], dtype=np.int32)
