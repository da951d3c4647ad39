"""SpatialFuser as the pipeline drives it: a method, what a trained state says of spots, and the matches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from atlasnmf.models.spatialfuser.params import Params, wanted_genes
from atlasnmf.models.spatialfuser.state import State
from atlasnmf.models.spatialfuser.training import FuserMethod
from atlasnmf.schema import AtlasFacts, Result, SliceBatch, SpotPairs

__all__ = ["Model", "build"]


@dataclass
class Model:
    """What the pipeline drives.

    Parameters
    ----------
    params, facts
        What the model was built for.
    method
        Trains it.
    """

    params: Params
    facts: AtlasFacts
    method: FuserMethod

    @property
    def n_steps(self) -> int:
        """Steps that learn; those that measure and embed come after."""
        return self.method.learning_steps

    @property
    def reads_rows(self) -> bool:
        """Whether more than embeddings, which the state has, is said: denoised genes come from the rows."""
        return bool(self.params.denoise)

    def infer(self, state: State, batch: SliceBatch) -> dict[str, np.ndarray]:
        """Return what the fit found of the core spots of a batch.

        Returns
        -------
        dict
            ``X_spatialfuser``, shape (n, d), in a space all slices share; ``spatialfuser_aligned``, positions
            in a frame all slices share, shape (n, 2 or 3), in the unit of the first slice's coordinates; and
            where genes were asked for ``spatialfuser_denoised``, their log counts as the autoencoder gives
            them back, shape (n, number of genes), NaN for genes that the slice's kind of features lacks.
        """
        core = batch.rows[: batch.n_core]
        rows = core - self.method.reader.offsets[batch.slice_index]
        # chosen where they are: of a whole slice a tile needs little
        embedding = state.embedding[batch.slice_index][torch.from_numpy(rows)].cpu().numpy()
        assert self.facts.frame is not None
        aligned = self.facts.frame.positions[core].astype(np.float32)
        found = {"X_spatialfuser": embedding, "spatialfuser_aligned": aligned}
        genes = wanted_genes(self.params, self.facts.genes)
        if genes:
            found["spatialfuser_denoised"] = self._denoised(state, batch, genes)
        return found

    def _unmatched(self, a: int, b: int) -> dict[str, Any]:
        """Return the record of two slices that nothing can be said of together."""
        n_spots = int(self.facts.n_spots[a] + self.facts.n_spots[b])
        return {
            "source": self.facts.slices[a],
            "target": self.facts.slices[b],
            "n_pairs": 0,
            "n_passed": 0,
            "unmatched": 1.0,
            "without_candidates": n_spots,
            "threshold": float("nan"),
            "bin_score": float("nan"),
            "max_distance": None,
            "iterations": 0,
        }

    @torch.no_grad()
    def _denoised(self, state: State, batch: SliceBatch, genes: tuple[str, ...]) -> np.ndarray:
        """Return what the decoder makes of the core spots, as log counts of some genes."""
        place = {gene: at for at, gene in enumerate(self.facts.genes)}
        columns = np.array([place[gene] for gene in genes])
        s = batch.slice_index
        decoded = self.method.decoded(state, batch).cpu().numpy()
        out = np.full((len(decoded), len(genes)), np.nan, np.float32)
        measured = self.facts.gene_mask[s, columns]
        if self.params.features == "genes":
            own = np.searchsorted(self.method.reader.genes[s], columns[measured])
            out[:, measured] = decoded[:, own]
            return out
        assert self.facts.components is not None
        assert self.facts.centres is not None
        loadings = self.facts.components.reshape(-1, *self.facts.components.shape[-2:])
        own = self.method.reader.genes[s]
        back = np.linalg.pinv(loadings[self.method.reader.kinds[s]][own, : decoded.shape[1]])
        at = np.searchsorted(own, columns[measured])
        out[:, measured] = decoded @ back[:, at] + self.facts.centres[s, columns[measured]]
        return out

    def result(self, state: State) -> Result:
        """Return the matches of all links, how they came to be, and what was left unmatched."""
        assert self.facts.frame is not None
        offsets, links, found = self.method.reader.offsets, self.method.links, []
        embeddings = [rows.cpu().numpy() for rows in state.embedding]
        pairs: list[np.ndarray] = []
        for link, (a, b) in enumerate(links.slices):
            if not links.comparable(link):
                found.append(self._unmatched(a, b))
                continue
            matches = links.match(link, embeddings, state.own, "final")
            pairs.append(
                np.stack(
                    [
                        matches.source + offsets[a],
                        matches.target + offsets[b],
                        matches.score,
                        matches.cosine,
                        matches.passed,
                    ]
                )
            )
            n_spots = int(self.facts.n_spots[a] + self.facts.n_spots[b])
            unmatched = matches.n_unmatched_source + matches.n_unmatched_target
            found.append(
                {
                    "source": self.facts.slices[a],
                    "target": self.facts.slices[b],
                    "n_pairs": len(matches),
                    "n_passed": int(matches.passed.sum()),
                    "unmatched": unmatched / max(n_spots, 1),
                    "without_candidates": matches.n_without_candidates_source
                    + matches.n_without_candidates_target,
                    "threshold": float(matches.threshold),
                    "bin_score": float(matches.bin_score),
                    "max_distance": links.radii[link],
                    "iterations": matches.n_iterations,
                }
            )
        stacked = np.concatenate(pairs, axis=1) if pairs else np.zeros((5, 0))
        uns: dict[str, Any] = {
            "links": {str(number): record for number, record in enumerate(found)},
            "frame": self.facts.frame.record(self.facts.slices),
            "denoised_genes": list(wanted_genes(self.params, self.facts.genes)),
        }
        return Result(
            uns=uns,
            quality={"links": found} if found else {},
            pairs=SpotPairs(
                stacked[0].astype(np.int64),
                stacked[1].astype(np.int64),
                stacked[2].astype(np.float32),
                stacked[3].astype(np.float32),
                stacked[4].astype(bool),
            ),
        )


def build(params: Params, facts: AtlasFacts, device: str, seed: int) -> Model:
    """Return the model for an atlas.

    Parameters
    ----------
    params
        Parameters.
    facts
        The atlas.
    device
        ``cpu`` or ``cuda``.
    seed
        Of weights, negatives and random pairs.
    """
    return Model(params, facts, FuserMethod(params, facts, torch.device(device), seed))
