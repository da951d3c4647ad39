"""Regions of an atlas as sets of labelled spots: of every level, which touch, which exclude each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.errors import BadInput
from atlasnmf.kernels.cpu.unions import connected_triples
from atlasnmf.metrics import label_codes
from atlasnmf.metrics.regions import adjacency_on_graph
from atlasnmf.store.names import natural_key, no_such

if TYPE_CHECKING:
    from atlasnmf.schema import Csr
    from atlasnmf.store.ontology import Ontology

__all__ = ["Regions", "regions_of"]


@dataclass(frozen=True)
class Regions:
    """Regions over n spots; of any two, either one is part of the other or they share no spot.

    Parameters
    ----------
    names
        Short names of the R regions.
    labels
        Finest region of each spot, -1 for none, int64, shape (n,).
    contains
        Which region holds which finest one, bool, shape (R, L).
    adjacent
        Which regions touch, bool, symmetric, shape (R, R).
    """

    names: tuple[str, ...]
    labels: np.ndarray
    contains: np.ndarray
    adjacent: np.ndarray

    @cached_property
    def sizes(self) -> np.ndarray:
        """Spots of each region, int64, shape (R,)."""
        counts = np.bincount(self.labels[self.labels >= 0], minlength=self.contains.shape[1])
        return self.contains.astype(np.int64) @ counts

    @cached_property
    def disjoint(self) -> np.ndarray:
        """Which regions have no spot in common, bool, shape (R, R)."""
        holds = self.contains.astype(np.float32)
        return np.asarray(holds @ holds.T == 0)

    def inside(self, union: tuple[str, ...] | list[str] | str) -> np.ndarray:
        """Return which spots are in a union of regions named, bool, shape (n,).

        Raises
        ------
        BadInput
            There is no such region.
        """
        named = (union,) if isinstance(union, str) else union
        for name in named:
            if name not in self.names:
                raise BadInput(no_such("region", name, self.names, "the labels"))
        places = [self.names.index(name) for name in named]
        held = np.append(self.contains[places].any(axis=0), False)
        return held[self.labels]

    def pairs(self) -> np.ndarray:
        """Return the pairs of touching regions that exclude each other, int64, shape (m, 2), ascending."""
        return np.argwhere(np.triu(self.adjacent & self.disjoint, 1))

    def triples(self) -> Iterator[np.ndarray]:
        """Yield all triples of regions that exclude each other and hang together, int32, shape (m, 3).

        One array for each first region; every triple once, ascending.
        """
        for first in range(len(self.names)):
            found = connected_triples(self.adjacent, self.disjoint, first)
            if len(found):
                yield found


def regions_of(labels: Any, graph: Csr, *, ontology: Ontology | None = None) -> Regions:
    """Gather regions of every level from labels of spots.

    Parameters
    ----------
    labels
        Name of the finest region of each spot, missing for none, shape (n,).
    graph
        Which spots touch (see :func:`atlasnmf.graph.grid.grid_graph`); a spatial graph of neighbours where
        spots are on no grid.
    ontology
        Regions that the labelled ones are part of, found by their short names. Without it, the labels are all
        there is.

    Raises
    ------
    BadInput
        No spot has a label, or labels and graph have different numbers of spots.

    Notes
    -----
    Of regions with the same spots, the finest is kept.

    Examples
    --------
    >>> from atlasnmf.graph.grid import grid_graph
    >>> row = grid_graph(np.array([[0, 0], [0, 1], [0, 2], [0, 3]]))
    >>> regions = regions_of(["CTX", "CTX", "TH", "HY"], row)
    >>> regions.names, regions.pairs().tolist()
    (('CTX', 'HY', 'TH'), [[0, 2], [1, 2]])
    """
    codes, found = label_codes(labels)
    if not len(found):
        raise BadInput("no spot has a region; check the column of regions")
    # by name, whatever the order of spots
    order = sorted(range(len(found)), key=lambda place: natural_key(str(found[place])))
    names = [str(found[place]) for place in order]
    codes = np.append(np.argsort(order), -1)[codes]
    touching = adjacency_on_graph(codes, graph, len(names))
    if ontology is None:
        contains = np.eye(len(names), dtype=bool)
        return Regions(tuple(names), codes, contains, touching)
    leaves = _numbers_of(names, ontology)
    above, contains = ontology.membership(leaves)
    known = dict(zip(leaves.tolist(), names, strict=True))
    holds = contains.astype(np.float32)
    adjacent = np.asarray(holds @ touching.astype(np.float32) @ holds.T > 0)
    np.fill_diagonal(adjacent, False)
    spelled = tuple(known.get(int(number), ontology.acronym(int(number))) for number in above)
    return Regions(spelled, codes, contains, adjacent)


def _numbers_of(names: list[str], ontology: Ontology) -> np.ndarray:
    """Return the number of each label; labels the ontology lacks get numbers nobody has."""
    by_name = dict(zip(ontology.acronyms, ontology.ids.tolist(), strict=True))
    lowest = min(int(ontology.ids.min(initial=0)), 0) - 2
    return np.array([by_name.get(name, lowest - i) for i, name in enumerate(names)], np.int64)
