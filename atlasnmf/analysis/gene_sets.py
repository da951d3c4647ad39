"""Sets of genes from files, and back: GMT, CSV, Parquet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.analysis.region_tables import write_frame
from atlasnmf.errors import BadInput, BadOption
from atlasnmf.store.paths import new_file

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PlacedSets", "placed_sets", "read_gene_sets", "write_gene_sets"]

#: Columns that name the set and the gene in a long table: ours, decoupler's, Seurat's.
_COLUMNS = (("gene_set", "gene"), ("source", "target"), ("cluster", "gene"))


def read_gene_sets(source: Any) -> dict[str, list[str]]:
    """Read sets of genes.

    Parameters
    ----------
    source
        A mapping of names to genes; a DataFrame or the path of a ``.csv``, ``.tsv`` or ``.parquet`` file with
        columns ``gene_set`` and ``gene`` (or ``source`` and ``target``); or the path of a ``.gmt`` file.

    Returns
    -------
    dict
        Genes of each set, each once, in the order given.

    Raises
    ------
    BadInput
        The file is missing or has no sets.
    BadOption
        Neither a mapping, a table nor such a file.

    Examples
    --------
    >>> read_gene_sets({"liver": ["Afp", "Alb", "Afp"]})
    {'liver': ['Afp', 'Alb']}
    """
    if isinstance(source, Mapping):
        pairs = [(str(name), str(gene)) for name, genes in source.items() for gene in genes]
        where = "the mapping"
    elif hasattr(source, "columns"):
        pairs, where = _of_table(source, "the table"), "the table"
    elif isinstance(source, str | Path):
        pairs, where = _of_file(Path(source)), str(source)
    else:
        raise BadOption(f"gene sets cannot be read from a {type(source).__name__}; give a mapping or a file")
    found: dict[str, dict[str, None]] = {}
    for name, gene in pairs:
        found.setdefault(name, {})[gene] = None
    if not found:
        raise BadInput(f"{where} has no gene sets; give one name and its genes at least")
    return {name: list(genes) for name, genes in found.items()}


def _of_file(path: Path) -> list[tuple[str, str]]:
    import pandas as pd

    if not path.is_file():
        raise BadInput(f"there is no file {path} with gene sets; check the path")
    if path.suffix == ".gmt":
        lines = [line.split("\t") for line in path.read_text().splitlines() if line.strip()]
        return [(line[0], gene) for line in lines for gene in line[2:] if gene]
    if path.suffix == ".parquet":
        return _of_table(pd.read_parquet(path), str(path))
    if path.suffix in (".csv", ".tsv"):
        return _of_table(pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ","), str(path))
    raise BadOption(f"{path} is no file of gene sets; give .gmt, .csv, .tsv or .parquet")


def _of_table(frame: pd.DataFrame, where: str) -> list[tuple[str, str]]:
    for name, gene in _COLUMNS:
        if name in frame.columns and gene in frame.columns:
            return list(zip(frame[name].astype(str), frame[gene].astype(str), strict=True))
    has = ", ".join(map(str, frame.columns))
    raise BadInput(f"{where} needs the columns gene_set and gene, one row per gene of a set; it has {has}")


def write_gene_sets(sets: Any, path: str | Path) -> Path:
    """Write sets of genes for other tools, or to be read again.

    Parameters
    ----------
    sets
        As :func:`read_gene_sets` takes them; what :func:`atlasnmf.tl.factor_genes` returned is taken too,
        each factor's own genes being a set.
    path
        A ``.gmt``, ``.csv``, ``.tsv`` or ``.parquet`` file.

    Raises
    ------
    BadOption
        The ending says none of these.
    BadInput
        The file's folder is missing.

    Examples
    --------
    >>> import atlasnmf as an
    >>> an.tl.write_gene_sets({"heart": ["Myh6", "Nppa"]}, "sets.csv")
    PosixPath('sets.csv')
    >>> an.tl.read_gene_sets("sets.csv")
    {'heart': ['Myh6', 'Nppa']}
    """
    import pandas as pd

    path = new_file(path)
    if hasattr(sets, "columns") and "factor" in sets.columns:
        own = sets[sets["specific"]]
        sets = pd.DataFrame({"gene_set": [f"factor_{k}" for k in own["factor"]], "gene": own["gene"]})
    found = read_gene_sets(sets)
    if path.suffix == ".gmt":
        path.write_text("".join("\t".join([name, "", *genes]) + "\n" for name, genes in found.items()))
        return path
    rows = [(name, gene) for name, genes in found.items() for gene in genes]
    frame = pd.DataFrame(rows, columns=["gene_set", "gene"])
    return write_frame(frame, path, refusal="gene sets are written as .gmt,")


@dataclass(frozen=True)
class PlacedSets:
    """Sets as positions in a list of genes.

    Parameters
    ----------
    names
        Of the sets that were kept.
    members, starts
        ``members[starts[s]:starts[s + 1]]`` are the positions of set s, ascending, int64.
    """

    names: tuple[str, ...]
    members: np.ndarray
    starts: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """Genes of each set."""
        return np.diff(self.starts)

    def indicator(self, n_genes: int) -> Any:
        """Return a scipy CSR matrix of ones, shape (n_sets, n_genes)."""
        import scipy.sparse

        ones = np.ones(len(self.members), np.int32)
        return scipy.sparse.csr_matrix((ones, self.members, self.starts), shape=(len(self.names), n_genes))


def placed_sets(
    sets: Mapping[str, Sequence[str]],
    genes: Sequence[str],
    where: str,
    *,
    min_genes: int = 1,
    max_genes: int | None = None,
    ignore_case: bool = False,
) -> PlacedSets:
    """Find the genes of sets among the genes of a model.

    Parameters
    ----------
    sets
        Genes by set.
    genes
        The genes there are.
    where
        How messages name them.
    min_genes, max_genes
        Sets with fewer or more genes among them are left out.
    ignore_case
        Take ``ACTA2`` for ``Acta2``.

    Raises
    ------
    BadInput
        No set shares a gene with them, or none has a size within the limits.
    """

    def folded(gene: str) -> str:
        return gene.upper() if ignore_case else gene

    place = {folded(gene): at for at, gene in enumerate(genes)}
    found = {
        name: sorted({place[folded(g)] for g in own if folded(g) in place}) for name, own in sets.items()
    }
    largest = max((len(own) for own in found.values()), default=0)
    if not largest:
        raise BadInput(_nothing_shared(sets, genes, where))
    upper = len(genes) - 1 if max_genes is None else min(max_genes, len(genes) - 1)
    kept = {name: own for name, own in found.items() if max(min_genes, 1) <= len(own) <= upper}
    if not kept:
        raise BadInput(
            f"no gene set has {min_genes} to {upper} genes among those of {where} (at most {largest}); "
            "lower min_genes or raise max_genes"
        )
    starts = np.cumsum([0, *(len(own) for own in kept.values())], dtype=np.int64)
    return PlacedSets(tuple(kept), np.concatenate([np.array(own, np.int64) for own in kept.values()]), starts)


def _nothing_shared(sets: Mapping[str, Sequence[str]], genes: Sequence[str], where: str) -> str:
    theirs = list(dict.fromkeys(gene for own in sets.values() for gene in own))
    upper = {gene.upper() for gene in genes}
    mend = (
        "they agree but for upper and lower case: pass ignore_case=True"
        if any(gene.upper() in upper for gene in theirs)
        else "use sets of the same species and kind of names"
    )
    return (
        f"the gene sets share no gene with {where}: the sets have {', '.join(theirs[:3])}, "
        f"the model {', '.join(list(genes)[:3])}; {mend}"
    )
