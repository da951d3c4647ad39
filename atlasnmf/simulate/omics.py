"""Two slices of one tissue in two modalities, laid apart, whose correspondence is known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from atlasnmf.errors import BadOption
from atlasnmf.events import SILENT, Events
from atlasnmf.options import Options, taking
from atlasnmf.seeds import rng_for, seed_for
from atlasnmf.simulate.anatomy import PITCH_UM, Anatomy, outline_reach, plan_anatomy
from atlasnmf.simulate.programmes import gene_names, gene_programmes
from atlasnmf.simulate.sampling import alias_tables, sample_counts, spot_factors

__all__ = [
    "DIFFICULTIES",
    "PROTEIN",
    "RNA",
    "Difficulty",
    "Omics",
    "OmicsParams",
    "Section",
    "plan_omics",
    "simulate_omics",
]

#: Names of the two tables.
RNA, PROTEIN = "rna", "protein"
#: Spread of a spot's factors around its place's mean (Dirichlet; larger for a larger spot), and of its depth.
_CONCENTRATION, _DEPTH_SHAPE = 25.0, 6.0
#: Mean counts a gene, and a protein, of a spot at depth 1; share of proteins' counts that is ambient.
_GENE_COUNTS, _PROTEIN_COUNTS, _AMBIENT = 0.5, 12.0, 0.3
#: Share of a pitch by which cells lie off their grid.
_JITTER = 0.3
#: Cavities of the tissue, as by vessels and ventricles: what tells one turn from another.
_HOLES = 6
_MIN_SPOTS, _BLOCK = 200, 8_192


class OmicsParams(Options):
    """What a pair of modalities is made of."""

    title: ClassVar[str] = "The two slices"

    n_spots: int = Field(5_000, ge=1, description="Spots of the RNA slice, nearly.")
    n_genes: int = Field(600, ge=1, description="Genes.")
    n_proteins: int = Field(60, ge=2, description="Features of the protein slice.")
    n_factors: int = Field(12, ge=2, description="Programmes of the tissue, and its domains.")
    difficulty: Literal["easy", "medium", "hard"] = Field(
        "medium", description="Sets what is not given of the following."
    )
    feature_overlap: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Share of the programmes that both modalities see; of the others each sees a half.",
    )
    overlap: float | None = Field(
        None, gt=0, le=1, description="Share of the tissue that lies in both slices."
    )
    resolution: float | None = Field(
        None, ge=0.25, le=8, description="Pitch of the protein spots as a multiple of the RNA's."
    )
    rotation: float | None = Field(None, description="Turn of the protein slice, degrees.")
    warp: float | None = Field(
        None, ge=0, description="Largest displacement of its smooth warp before that, um."
    )
    depth: float | None = Field(
        None, gt=0, description="Counts of either modality as a multiple of the usual."
    )
    link: float | None = Field(
        None, ge=0, le=1, description="How far a protein follows the gene that encodes it, 0 to 1."
    )
    shared_names: float = Field(
        0.0, ge=0, le=1, description="Share of the proteins named as their genes are."
    )
    seed: int = Field(0, ge=0, description="Same seed, same store.")


@dataclass(frozen=True)
class Difficulty:
    """What is set together by the name of a difficulty; see :class:`OmicsParams`."""

    feature_overlap: float
    overlap: float
    resolution: float
    rotation: float
    warp: float
    depth: float
    link: float


DIFFICULTIES = {
    "easy": Difficulty(1.0, 0.9, 1.0, 20.0, 10.0, 1.0, 0.9),
    "medium": Difficulty(0.7, 0.75, 1.5, 60.0, 40.0, 0.6, 0.6),
    "hard": Difficulty(0.4, 0.5, 2.0, 140.0, 80.0, 0.3, 0.3),
}


@dataclass(frozen=True)
class Section:
    """One slice: where its spots are, and what its modality sees.

    Parameters
    ----------
    name
        Of the table.
    names
        Of the features.
    true_positions
        Places of the spots in the frame of the tissue, micrometres, float64, shape (n, 2).
    stored_positions
        Where the table says they are, shape (n, 2).
    body
        Places in the body frame (the outline is the unit circle), shape (n, 2).
    loadings
        What each programme holds of the features, columns sum to 1, float64, shape (G, K); a programme that
        the modality does not see holds what the tissue holds on average.
    seen
        Programmes that the modality sees, bool, shape (K,).
    depth
        Mean counts of a spot.
    pitch
        Distance of neighbouring spots, micrometres.
    """

    name: str
    names: tuple[str, ...]
    true_positions: np.ndarray
    stored_positions: np.ndarray
    body: np.ndarray
    loadings: np.ndarray
    seen: np.ndarray
    depth: float
    pitch: float


@dataclass(frozen=True)
class Omics:
    """All of a made pair of modalities but its counts.

    Parameters
    ----------
    seed
        The seed all of it follows from.
    anatomy
        Organs of the tissue; domain d is where programme d is strongest.
    side_mixture
        What domains hold beside their own programme, rows sum to 1, shape (K, K).
    rna, protein
        The two slices.
    encoded_by
        Gene of each protein, int64, shape (P,).
    partners
        Nearest spot of the other slice in the frame of the tissue, for the spots of either, int64; -1 where
        it is farther than three quarters of the coarser pitch.
    settings
        What was asked for.
    """

    seed: int
    anatomy: Anatomy
    side_mixture: np.ndarray
    rna: Section
    protein: Section
    encoded_by: np.ndarray
    partners: tuple[np.ndarray, np.ndarray]
    settings: dict[str, Any]


@taking(OmicsParams)
def plan_omics(params: OmicsParams) -> Omics:
    """Decide everything but the counts.

    Parameters
    ----------
    {options}

    Raises
    ------
    BadOption
        An option is out of its range, or the sizes do not go together.

    Examples
    --------
    >>> omics = plan_omics(n_spots=1000, n_genes=100, n_proteins=20, n_factors=6, difficulty="easy")
    >>> len(omics.rna.true_positions), len(omics.protein.names)
    (1004, 20)
    """
    n_spots, n_genes, n_proteins = params.n_spots, params.n_genes, params.n_proteins
    n_factors, shared_names, seed = params.n_factors, params.shared_names, params.seed
    given = params.model_dump(include=set(Difficulty.__annotations__), exclude_none=True)
    hard = replace(DIFFICULTIES[params.difficulty], **given)
    _check_sizes(n_spots, n_genes, n_proteins, n_factors, shared_names)
    anatomy = plan_anatomy(n_factors, 1, seed=seed_for(seed, "omics", "anatomy"))
    rng = rng_for(seed, "omics", "features")
    genes = gene_programmes(n_genes, n_factors, seed=seed_for(seed, "omics", "genes"))
    encoded_by = _panel(genes, n_proteins, rng)
    proteins = _proteins(genes[encoded_by], hard.link, rng)
    seen = _seen(n_factors, hard.feature_overlap, rng)
    names = np.array(gene_names(n_genes))
    named = rng.permutation(n_proteins) < round(shared_names * n_proteins)
    protein_names = [
        str(names[gene]) if shared else f"PROT{p + 1:04d}"
        for p, (gene, shared) in enumerate(zip(encoded_by, named, strict=True))
    ]
    outline = anatomy.sections[0].outline
    holes = _holes(rng_for(seed, "omics", "holes"))
    # the area of a tissue of radius 1, counted
    area = len(_places(outline, holes, 1.0, 0.01, rng_for(seed, "omics", "area"))) * 0.01**2
    radius = PITCH_UM * np.sqrt(n_spots / ((1 + hard.overlap) / 2) / area)
    cut = rng_for(seed, "omics", "cut").uniform(0, 2 * np.pi)
    sections = []
    for m, pitch in enumerate((PITCH_UM, PITCH_UM * hard.resolution)):
        places = _places(outline, holes, radius, pitch, rng_for(seed, "omics", "places", m))
        along = places @ np.array([np.cos(cut), np.sin(cut)]) * (1 if m == 0 else -1)
        places = places[along <= np.quantile(along, (1 + hard.overlap) / 2)]
        sections.append((places, pitch))
    laid = _laid(sections[1][0], radius, hard, rng_for(seed, "omics", "warp"))
    rna = Section(
        RNA,
        tuple(names),
        sections[0][0],
        sections[0][0],
        _body(outline, radius, sections[0][0]),
        _hidden(genes, seen[0]),
        seen[0],
        hard.depth * _GENE_COUNTS * n_genes,
        sections[0][1],
    )
    protein = Section(
        PROTEIN,
        tuple(protein_names),
        sections[1][0],
        laid,
        _body(outline, radius, sections[1][0]),
        (1 - _AMBIENT) * _hidden(proteins, seen[1]) + _AMBIENT / n_proteins,
        seen[1],
        hard.depth * _PROTEIN_COUNTS * n_proteins,
        sections[1][1],
    )
    settings = {"difficulty": params.difficulty, **hard.__dict__, "shared_names": shared_names, "seed": seed}
    reach = 0.75 * max(rna.pitch, protein.pitch)
    partners = _partners(rna.true_positions, protein.true_positions, reach)
    return Omics(seed, anatomy, _side_mixture(n_factors, seed), rna, protein, encoded_by, partners, settings)


def _check_sizes(n_spots: int, n_genes: int, n_proteins: int, n_factors: int, shared_names: float) -> None:
    if n_spots < _MIN_SPOTS:
        raise BadOption(f"--n-spots: at least {_MIN_SPOTS} (got {n_spots})")
    if n_genes < 2 * n_factors:
        raise BadOption(f"--n-genes: twice as many as the {n_factors} programmes at least (got {n_genes})")
    if shared_names and 2 * n_proteins > n_genes:
        raise BadOption(
            f"--shared-names: take twice as many genes as proteins (got {n_genes} and {n_proteins})"
        )


def _panel(genes: np.ndarray, n_proteins: int, rng: np.random.Generator) -> np.ndarray:
    """Choose the genes that encode the proteins: markers of one programme after the other."""
    strongest = np.where(genes.sum(axis=1) > 0, genes.argmax(axis=1), -1)
    markers = [rng.permutation(np.flatnonzero(strongest == k)) for k in range(genes.shape[1])]
    markers = [group for group in markers if len(group)]
    turns = [group[i] for i in range(max(map(len, markers))) for group in markers if i < len(group)]
    return np.resize(np.array(turns, dtype=np.int64), n_proteins)


def _proteins(encoding: np.ndarray, link: float, rng: np.random.Generator) -> np.ndarray:
    """Mix what a protein's gene does over the programmes with something of its own; columns sum to 1."""
    followed = encoding / np.maximum(encoding.sum(axis=1, keepdims=True), 1e-300)
    own = rng.dirichlet(np.full(encoding.shape[1], 0.3), len(encoding))
    mixed = rng.lognormal(0.0, 0.5, len(encoding))[:, None] * (link * followed + (1 - link) * own + 0.1)
    return mixed / mixed.sum(axis=0)


def _seen(n_factors: int, feature_overlap: float, rng: np.random.Generator) -> np.ndarray:
    """Say which programmes each modality sees, bool, shape (2, K): all one or both, nearly evenly."""
    order = rng.permutation(n_factors)
    n_both = round(feature_overlap * n_factors)
    seen = np.zeros((2, n_factors), dtype=bool)
    seen[:, order[:n_both]] = True
    for i, k in enumerate(order[n_both:]):
        seen[i % 2, k] = True
    return seen


def _hidden(loadings: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Give the programmes that are not seen the average of all."""
    return np.where(seen, loadings, loadings.mean(axis=1, keepdims=True))


def _side_mixture(n_factors: int, seed: int) -> np.ndarray:
    mixture = rng_for(seed, "omics", "mixture").dirichlet(np.full(n_factors, 0.3), n_factors)
    np.fill_diagonal(mixture, 0.0)
    mixture += 1e-6
    return np.asarray(mixture / mixture.sum(axis=1, keepdims=True))


def _holes(rng: np.random.Generator) -> np.ndarray:
    """Draw the cavities, ellipses in the body frame: centre, half axes and angle, shape (6, 5)."""
    turn, far = rng.uniform(0, 2 * np.pi, _HOLES), 0.8 * np.sqrt(rng.uniform(0, 1, _HOLES))
    axes = rng.uniform(0.04, 0.16, (_HOLES, 2))
    return np.column_stack([far * np.cos(turn), far * np.sin(turn), axes, rng.uniform(0, np.pi, _HOLES)])


def _places(
    outline: np.ndarray, holes: np.ndarray, radius: float, pitch: float, rng: np.random.Generator
) -> np.ndarray:
    """Lay a jittered grid over the tissue but for its cavities, row by row, micrometres."""
    half = np.ceil(1.5 * radius / pitch)
    axis = np.arange(-half, half + 1) * pitch
    places = np.column_stack([np.tile(axis, len(axis)), np.repeat(axis, len(axis))])
    places += rng.uniform(-_JITTER, _JITTER, places.shape) * pitch + rng.uniform(0, pitch, 2)
    body = _body(outline, radius, places)
    inside = np.linalg.norm(body, axis=1) < 1
    for x, y, along, across, angle in holes:
        gaps = body - [x, y]
        first = gaps @ [np.cos(angle), np.sin(angle)]
        second = gaps @ [-np.sin(angle), np.cos(angle)]
        inside &= (first / along) ** 2 + (second / across) ** 2 > 1
    return places[inside]


def _body(outline: np.ndarray, radius: float, places: np.ndarray) -> np.ndarray:
    reach = outline_reach(outline, np.arctan2(places[:, 1], places[:, 0]))
    return places / (radius * reach)[:, None]


def _laid(places: np.ndarray, radius: float, hard: Difficulty, rng: np.random.Generator) -> np.ndarray:
    """Warp smoothly, turn, and shift by more than the slice is wide."""
    waves, phases = rng.normal(0.0, 1.5, (2, 2, 2)), rng.uniform(0, 2 * np.pi, (2, 2))
    bent = np.stack([np.cos(places / radius @ waves[a].T + phases[a]).mean(axis=1) for a in (0, 1)], axis=1)
    bent *= hard.warp / max(float(np.linalg.norm(bent, axis=1).max()), 1e-12)
    angle = np.radians(hard.rotation)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.asarray((places + bent) @ turn.T + radius * np.array([3.0, -2.0]))


def _partners(first: np.ndarray, second: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
    from scipy.spatial import cKDTree

    found = []
    for own, other in (first, second), (second, first):
        gaps, nearest = cKDTree(other).query(own)
        found.append(np.where(gaps <= reach, nearest, -1).astype(np.int64))
    return found[0], found[1]


@taking(OmicsParams)
def simulate_omics(
    out: Path | str, params: OmicsParams, *, overwrite: bool = False, events: Events = SILENT
) -> Path:
    """Write a store of an RNA slice and a protein slice of one tissue, laid apart.

    Parameters
    ----------
    out
        The store; it appears when it is whole.
    {options}
    overwrite
        Replace a store that is there.
    events
        Listener for progress.

    Returns
    -------
    pathlib.Path
        The store: tables ``rna`` and ``protein``, int32 counts, ``obsm["spatial"]`` in micrometres. The
        truth: ``obsm["true_position"]`` in the frame of the tissue, ``obs["true_partner"]`` (name of the
        nearest spot of the other slice, empty where there is none), ``obs["domain"]``,
        ``obsm["true_factors"]``, ``varm["true_loadings"]`` (columns sum to 1), ``var["encoded_by"]`` of the
        proteins, and ``uns["truth"]``, with the programmes that the modality sees.

    Raises
    ------
    BadOption
        An option is out of its range, or the store exists.

    Notes
    -----
    The two slices hold different spots of the same tissue, each with its own noise around its place's mean,
    as neighbouring sections do. O(molecules); about 400 bytes per spot beside a block of counts.

    Examples
    --------
    >>> import atlasnmf as an
    >>> store = an.simulate_omics("made.zarr", n_spots=300, n_genes=60, n_proteins=20, n_factors=4)
    >>> [slice.name for slice in an.open_atlas(store).slices]
    ['protein', 'rna']
    """
    from atlasnmf.store.writer import create_store

    omics = plan_omics(**dict(params))
    out, sections = Path(out), (omics.rna, omics.protein)
    total = sum(len(section.body) for section in sections)
    with create_store(out, overwrite=overwrite) as store, events.stage("simulate", total) as advance:
        for m, section in enumerate(sections):
            table = store.table(section.name, n_genes=len(section.names), dtype=np.int32)
            domain = _write_counts(omics, m, section, table, advance)
            table.close(**_description(omics, m, section, sections[1 - m], domain))
    return out


def _write_counts(omics: Omics, m: int, section: Section, table: Any, advance: Any) -> np.ndarray:
    n_spots = len(section.body)
    rng = rng_for(omics.seed, "omics", "totals", m)
    totals = rng.poisson(section.depth * rng.gamma(_DEPTH_SHAPE, 1 / _DEPTH_SHAPE, n_spots))
    tables = alias_tables(np.ascontiguousarray(section.loadings.T))
    stream = seed_for(omics.seed, "omics", "molecules", m)
    # a larger spot averages over more cells
    concentration = _CONCENTRATION * (section.pitch / PITCH_UM) ** 2
    organs, domains = omics.anatomy.sections[0].organs, []
    for start in range(0, n_spots, _BLOCK):
        rows = slice(start, start + _BLOCK)
        domain, factors = spot_factors(
            np.ascontiguousarray(section.body[rows]),
            organs,
            omics.side_mixture,
            concentration,
            np.uint64(stream),
            start,
        )
        counts = sample_counts(factors, totals[rows], tables, seed=stream, first=start)
        places = {"spatial": section.stored_positions[rows], "true_position": section.true_positions[rows]}
        table.append(counts, obsm={**places, "true_factors": factors})
        domains.append(domain.astype(np.int16))
        advance(len(domain))
    return np.concatenate(domains)


def _spot_names(section: Section) -> np.ndarray:
    return np.array([f"{section.name}_{i}" for i in range(len(section.body))], dtype=object)


def _description(
    omics: Omics, m: int, section: Section, other: Section, domain: np.ndarray
) -> dict[str, Any]:
    """Return what stands beside the counts of a slice."""
    import pandas as pd

    partners, names = omics.partners[m], _spot_names(other)
    obs = pd.DataFrame(
        {
            "domain": pd.Categorical.from_codes(domain, list(omics.anatomy.names)),
            "true_partner": np.where(partners >= 0, names[np.maximum(partners, 0)], ""),
        },
        index=_spot_names(section),
    )
    var = pd.DataFrame(index=list(section.names))
    if m == 1:
        var["encoded_by"] = [omics.rna.names[gene] for gene in omics.encoded_by]
    truth = {
        "simulator": "omics",
        "unit": "micrometre",
        "pitch": section.pitch,
        "seen_factors": section.seen,
        **omics.settings,
    }
    return {"obs": obs, "var": var, "varm": {"true_loadings": section.loadings}, "uns": {"truth": truth}}
