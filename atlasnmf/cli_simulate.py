"""``atlasnmf simulate``: one command per simulator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from atlasnmf.cli_options import Json, Overwrite, listener, numbers, say

__all__ = ["simulate"]

Out = Annotated[str, typer.Argument(help="The store to write.", show_default=False)]
Seed = Annotated[int, typer.Option(min=0, help="Same seed, same store.")]

simulate = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Write a realistic store whose truth is known.",
    epilog="Example: atlasnmf simulate embryo embryo.zarr --n-spots 20000 --n-slices 4",
)


@simulate.command("embryo")
def simulate_embryo(
    out: Out,
    n_spots: Annotated[int, typer.Option(min=1, help="Spots over all slices.")] = 20_000,
    n_slices: Annotated[int, typer.Option(min=1, help="Slices, growing like an embryo.")] = 4,
    n_genes: Annotated[int, typer.Option(min=1, help="Genes.")] = 1_000,
    n_factors: Annotated[int, typer.Option(min=1, help="Spatial factors with sparse gene programmes.")] = 12,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Simulate slices of a growing embryo: organs, gene programmes, depth and slice effects.

    Example: atlasnmf simulate embryo demo.zarr --n-spots 20000 --n-slices 4
    """
    from atlasnmf.simulate.embryo import simulate_embryo as simulate

    simulate(
        out,
        n_spots=n_spots,
        n_slices=n_slices,
        n_genes=n_genes,
        n_factors=n_factors,
        seed=seed,
        overwrite=overwrite,
        events=listener(),
    )
    say({"store": out, "n_spots": n_spots}, as_json, [f"{out}: {n_spots:,} spots in {n_slices} slices"])


@simulate.command("volume")
def simulate_volume(
    out: Out,
    shape: Annotated[str, typer.Option(help="Voxels along the three axes.")] = "34,24,30",
    n_regions: Annotated[int, typer.Option(min=1, help="Regions of the finest level.")] = 40,
    n_genes: Annotated[int, typer.Option(min=1, help="Genes.")] = 300,
    n_patterns: Annotated[int, typer.Option(min=1, help="Planted patterns, unions of touching regions.")] = 8,
    missing: Annotated[float, typer.Option(help="Share of values lost, then filled.")] = 0.1,
    annotated: Annotated[
        Path | None,
        typer.Option(help="h5ad file of a real annotated grid to paint on.", show_default=False),
    ] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Simulate gene images on a voxel grid with regions: known patterns, missing values.

    Example: atlasnmf simulate volume brain.zarr --n-patterns 8
    """
    from atlasnmf.pipeline.volumes import simulate_volume as simulate

    sizes = numbers(shape, "--shape", 3)
    outcome = simulate(
        out,
        shape=(int(sizes[0]), int(sizes[1]), int(sizes[2])),
        n_regions=n_regions,
        n_genes=n_genes,
        n_patterns=n_patterns,
        missing=missing,
        annotated=annotated,
        seed=seed,
        overwrite=overwrite,
        events=listener(),
    )
    say(outcome.record(), as_json, outcome.lines())


@simulate.command("pair")
def simulate_pair(
    out: Out,
    n_cells: Annotated[
        int, typer.Option(min=1, help="Cells of the fine slice, 24 to a coarse spot.")
    ] = 20_000,
    n_genes: Annotated[int, typer.Option(min=1, help="Genes of the coarse slice.")] = 1_000,
    n_panel: Annotated[int, typer.Option(min=1, help="Those of them that the fine slice has too.")] = 300,
    grid: Annotated[int, typer.Option(min=1, help="Squares of the checkerboard along a side.")] = 20,
    n_types: Annotated[int, typer.Option(min=2, help="Cell types.")] = 8,
    coverage: Annotated[float, typer.Option(help="Fine counts as a multiple of 150 per cell.")] = 1.0,
    mapping_noise: Annotated[float, typer.Option(min=0, help="Error of the cells' positions, um.")] = 0.0,
    depth_variation: Annotated[
        float, typer.Option(min=0, help="Smooth field on the log coarse depth.")
    ] = 0.0,
    scaling_spread: Annotated[float, typer.Option(min=0, help="Spread of the log platform scaling.")] = 0.5,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Simulate a fine targeted and a coarse whole-transcriptome slice: a checkerboard of cell types.

    Example: atlasnmf simulate pair pair.zarr --grid 20 --n-types 8 --coverage 1
    """
    from atlasnmf.simulate.pair import simulate_pair as simulate

    options: dict[str, Any] = {
        "n_cells": n_cells,
        "n_genes": n_genes,
        "n_panel": n_panel,
        "grid": grid,
        "n_types": n_types,
        "coverage": coverage,
        "mapping_noise": mapping_noise,
        "depth_variation": depth_variation,
        "scaling_spread": scaling_spread,
        "seed": seed,
    }
    simulate(out, **options, overwrite=overwrite, events=listener())
    lines = [f"{out}: {n_cells:,} cells of {n_types} types in xenium, their spots in visium"]
    say({"store": out, **options}, as_json, lines)


@simulate.command("omics")
def simulate_omics(
    out: Out,
    n_spots: Annotated[int, typer.Option(min=1, help="Spots of the RNA slice, nearly.")] = 5_000,
    n_genes: Annotated[int, typer.Option(min=1, help="Genes.")] = 600,
    n_proteins: Annotated[int, typer.Option(min=1, help="Features of the protein slice.")] = 60,
    n_factors: Annotated[int, typer.Option(min=2, help="Programmes of the tissue, and its domains.")] = 12,
    difficulty: Annotated[
        str, typer.Option(help="easy, medium or hard: sets what is not given of the following.")
    ] = "medium",
    feature_overlap: Annotated[
        float | None,
        typer.Option(help="Share of the programmes that both modalities see.", show_default=False),
    ] = None,
    overlap: Annotated[
        float | None, typer.Option(help="Share of the tissue in both slices.", show_default=False)
    ] = None,
    resolution: Annotated[
        float | None,
        typer.Option(help="Pitch of the protein spots as a multiple of the RNA's.", show_default=False),
    ] = None,
    rotation: Annotated[
        float | None, typer.Option(help="Turn of the protein slice, degrees.", show_default=False)
    ] = None,
    warp: Annotated[
        float | None, typer.Option(help="Largest displacement of its warp, um.", show_default=False)
    ] = None,
    depth: Annotated[
        float | None, typer.Option(help="Counts as a multiple of the usual.", show_default=False)
    ] = None,
    link: Annotated[
        float | None, typer.Option(help="How far a protein follows its gene, 0 to 1.", show_default=False)
    ] = None,
    shared_names: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the proteins named as their genes are.")
    ] = 0.0,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Simulate an RNA slice and a protein slice of one tissue, laid apart: known correspondence.

    Example: atlasnmf simulate omics omics.zarr --difficulty hard
    """
    from atlasnmf.simulate.omics import simulate_omics as simulate

    options: dict[str, Any] = {
        "n_spots": n_spots,
        "n_genes": n_genes,
        "n_proteins": n_proteins,
        "n_factors": n_factors,
        "difficulty": difficulty,
        "feature_overlap": feature_overlap,
        "overlap": overlap,
        "resolution": resolution,
        "rotation": rotation,
        "warp": warp,
        "depth": depth,
        "link": link,
        "shared_names": shared_names,
        "seed": seed,
    }
    simulate(out, **options, overwrite=overwrite, events=listener())
    lines = [f"{out}: {n_genes:,} genes in rna, {n_proteins:,} proteins in protein ({difficulty})"]
    say({"store": out, **options}, as_json, lines)
