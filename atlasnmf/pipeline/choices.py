"""From what the user said, what the model needs and what the atlas is, to settled options."""

from __future__ import annotations

from dataclasses import dataclass, replace

from atlasnmf import models
from atlasnmf.options import PrepareOptions
from atlasnmf.pipeline.request import FitRequest
from atlasnmf.schema import Needs

__all__ = ["BASELINE_COMPONENTS", "BASELINE_HOPS", "PANEL_GENES", "Settled", "needs_of", "settle"]

#: The rival every model is shown beside: components of log counts after two rounds of averaging.
BASELINE_COMPONENTS, BASELINE_HOPS = 20, 2

#: An atlas whose slices share at most this many genes is a targeted panel: all of them are used.
PANEL_GENES = 1000
#: Counts a spot is scaled to: published values for sequencing and for imaging panels.
SEQUENCING_SUM, PANEL_SUM = 1e4, 1e3


@dataclass(frozen=True)
class Settled:
    """Options with every choice made.

    Parameters
    ----------
    min_genes, min_spots
        Filters of spots and genes.
    genes
        ``hvg``, ``shared`` or ``union``.
    n_hvgs
        Variable genes per slice; 0 when all are taken.
    radius, n_neighbors
        One of them, or neither: then the graph room chooses a radius.
    radius_rule
        How it does so.
    target_sum
        Counts a spot is scaled to before log1p.
    hops, n_components, component_hops, standardise_genes, baseline_components
        Stored neighbourhood features.
    graph
        Whether neighbours are needed at all.
    integer_counts
        Whether values must be whole.
    """

    min_genes: int
    min_spots: int
    genes: str
    n_hvgs: int
    radius: float | None
    n_neighbors: int | None
    radius_rule: str
    target_sum: float
    hops: int
    n_components: int
    component_hops: int
    standardise_genes: bool
    baseline_components: int
    graph: bool
    integer_counts: bool


def needs_of(request: FitRequest, n_spots: int) -> Needs:
    """Return what a fit asks of ``prepare``: the model's needs, and the baseline's where labels are named."""
    needs = models.needs(request.model, request.params, n_spots)
    if request.run.labels is None or needs.pair is not None:
        return needs
    return replace(needs, baseline_components=BASELINE_COMPONENTS)


def settle(options: PrepareOptions, needs: Needs, n_shared_genes: int) -> Settled:
    """Make the choices the user left open.

    Parameters
    ----------
    options
        What the user said.
    needs
        What the model asks for.
    n_shared_genes
        Genes that every slice measured.
    """
    panel = n_shared_genes <= PANEL_GENES
    n_hvgs = needs.n_hvgs if options.n_hvgs is None else options.n_hvgs
    genes = options.genes
    if genes == "auto":
        genes = "union" if needs.gene_union else "shared" if panel or not n_hvgs else "hvg"
    if genes == "shared" or (genes == "union" and panel):
        n_hvgs = 0
    hops = needs.hops if options.hops is None else options.hops
    n_components = needs.n_components if options.n_components is None else options.n_components
    component_hops = needs.component_hops if options.component_hops is None else options.component_hops
    return Settled(
        min_genes=options.min_genes,
        min_spots=options.min_spots,
        genes=genes,
        n_hvgs=n_hvgs,
        radius=options.radius,
        n_neighbors=options.n_neighbors,
        radius_rule=needs.radius_rule,
        target_sum=options.target_sum or (PANEL_SUM if panel else SEQUENCING_SUM),
        hops=hops,
        n_components=n_components,
        component_hops=component_hops if n_components else 0,
        standardise_genes=not panel if needs.standardise_genes is None else needs.standardise_genes,
        baseline_components=needs.baseline_components,
        graph=bool(hops or n_components or needs.halo or needs.baseline_components),
        integer_counts=needs.integer_counts,
    )
