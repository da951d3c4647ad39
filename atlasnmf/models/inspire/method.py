"""INSPIRE as a method: a state, a step, what a trained state says of spots."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from atlasnmf.models.inspire import losses
from atlasnmf.models.inspire.assembly import InspireNet, Shape
from atlasnmf.models.inspire.networks import Dense, Discriminator, Edges, Inputs, stack_inputs
from atlasnmf.models.inspire.params import LATENT, Params, encoder_of
from atlasnmf.models.inspire.warm import choose_factors, start_factors
from atlasnmf.schema import AtlasFacts, Result, SliceBatch
from atlasnmf.seeds import seed_for
from atlasnmf.train.method import Ranks
from atlasnmf.train.precision import products_in
from atlasnmf.train.sparse_rows import sparse_rows
from atlasnmf.train.sums import summed
from atlasnmf.train.torch_state import pack_torch, unpack_torch

__all__ = ["InspireMethod", "Model", "State", "build"]

#: Width of the discriminators' layers (published).
_ADVERSARY = 512
#: The geometry weight belongs to this many rows: the term sums over the rows of the batch.
_GEOMETRY_ROWS = 2048


@dataclass
class State:
    """All there is to save.

    Parameters
    ----------
    net, adversary
        Networks: encoder, decoder and factorisation; discriminators between consecutive slices.
    net_optimizer, adversary_optimizer
        Their optimisers.
    step
        Steps done.
    mean_factors
        Running mean of the factor weights over spots, shape (K,).
    activity
        Running share of spots whose logit lies within the margin, shape (S - 1,).
    shape
        Sizes that the parameters do not tell.
    """

    net: InspireNet
    adversary: nn.ModuleList
    net_optimizer: torch.optim.Optimizer
    adversary_optimizer: torch.optim.Optimizer
    step: int
    mean_factors: Tensor
    activity: Tensor
    shape: Shape


class InspireMethod:
    """One discriminator step and one net step a unit, sharing one pass of the encoder.

    Parameters
    ----------
    params, facts, device, seed
        As for :func:`build`.

    Notes
    -----
    Ranks (:meth:`with_ranks`) each bring a part of the rows. Factorisation, reconstruction and the
    adversaries' terms are sums over rows, divided by the rows of all ranks. Geometry and the prior are
    functions of sums over rows (two Gram matrices a slice, the sum of the factors): the sums are added before
    the function is taken. So value and gradient are those of the whole batch, up to the order of additions.
    """

    name = "inspire"

    def __init__(
        self,
        params: Params,
        facts: AtlasFacts,
        device: torch.device,
        seed: int,
    ) -> None:
        self.params, self.facts, self.device, self.seed = params, facts, device, seed
        self.ranks: Ranks | None = None
        self.masks = None
        if not facts.gene_mask.all():
            self.masks = torch.from_numpy(facts.gene_mask.astype(np.float32)).to(device)
        self.attends = encoder_of(params, int(facts.n_spots.sum())) == "gat"
        # scores in units of their mean spread, whatever the number of genes
        self.score_unit = 1.0 if facts.component_scale is None else float(facts.component_scale.mean())

    def with_ranks(self, ranks: Ranks) -> InspireMethod:
        """Return the method for one of several ranks that share every step."""
        shared = copy.copy(self)
        shared.ranks = ranks
        return shared

    def fresh(self, shape: Shape) -> State:
        """Return untrained networks."""
        generator = torch.Generator().manual_seed(seed_for(self.seed, "inspire", "weights"))
        net = InspireNet(self.params, self.facts, shape, generator).to(self.device)
        adversary = nn.ModuleList(
            Discriminator(LATENT, _ADVERSARY, generator) for _ in range(self.facts.n_slices - 1)
        ).to(self.device)
        for layer in (*net.modules(), *adversary.modules()):
            if isinstance(layer, Dense):
                layer.in_bf16 = self.params.precision == "bf16"
        options: dict[str, Any] = {
            "lr": self.params.learning_rate,
            "weight_decay": self.params.weight_decay,
            "foreach": True,
        }
        return State(
            net,
            adversary,
            torch.optim.Adamax(net.parameters(), **options),
            # one slice has no adversary, and torch no optimiser of nothing
            torch.optim.Adam(list(adversary.parameters()) or [torch.zeros(1)], **options),
            0,
            torch.full((shape.n_factors,), 1 / shape.n_factors, device=self.device),
            torch.ones(len(adversary), device=self.device),
            shape,
        )

    def init(self, sample: list[SliceBatch]) -> State:
        """Return the first state: networks, and factors that start from the sample."""
        first = sample[0]
        n_levels = len(first.smoothed) + 1
        if self.params.features == "scores":
            assert first.scores is not None
            n_levels = first.scores.shape[1]
        given = [self.inputs(batch) for batch in sample]
        n_factors = self.params.n_factors
        if n_factors == "auto":
            n_factors = choose_factors(given, self.fresh(Shape(2, n_levels)).net, self.facts, self.seed)
        state = self.fresh(Shape(n_factors, n_levels))
        if self.params.warm_start and self.params.features == "scores":
            start_factors(state.net, given, self.seed)
        return state

    def inputs(self, batch: SliceBatch) -> Inputs:
        """Move one slice's spots to the device."""
        counts = sparse_rows(batch.counts, self.device)
        scores = features = edges = None
        if self.params.features == "scores":
            assert batch.scores is not None
            levels = torch.as_tensor(batch.scores).to(self.device)
            scores = levels.flatten(1) / self.score_unit
        else:
            features = counts.log_normalised(batch.totals, self.facts.target_sum)
        if batch.graph is not None and self.attends:
            starts = torch.from_numpy(batch.graph.indptr)
            edges = Edges(
                torch.arange(batch.graph.n_rows).repeat_interleave(starts.diff()).to(self.device),
                torch.from_numpy(batch.graph.indices.astype(np.int64)).to(self.device),
                starts,
            )
        return Inputs(
            batch.slice_index,
            batch.rings,
            counts.first(batch.n_core),
            features,
            tuple(sparse_rows(rows, self.device) for rows in batch.smoothed),
            scores,
            edges,
            batch.n_step,
        )

    def step(self, state: State, unit: list[SliceBatch]) -> tuple[State, dict[str, float]]:
        """Take one discriminator step and one net step."""
        with products_in(self.params.precision):
            return self._step(state, unit)

    def _step(self, state: State, unit: list[SliceBatch]) -> tuple[State, dict[str, float]]:
        given = [self.inputs(batch) for batch in unit]
        stacked = None
        if self.attends:
            latents = [state.net.encode(inputs, wide=True) for inputs in given]
        else:
            stacked = stack_inputs(given)
            latents = list(state.net.encode(stacked).split([inputs.n_core for inputs in given]))
        cores = {
            inputs.slice_index: latent[: inputs.n_core] for inputs, latent in zip(given, latents, strict=True)
        }
        of_adversaries: list[Tensor] = []
        if self.params.gan_weight:
            n_rows = {inputs.slice_index: inputs.n_step for inputs in given}
            of_adversaries = self._discriminator_step(state, cores, n_rows)
        terms = self._net_terms(state, given, stacked, latents, cores)
        loss = torch.stack([self._weights[name] * term for name, term in terms.items()]).sum()
        seen = torch.stack([term.detach() for term in terms.values()])
        if self.ranks is not None and self.ranks.rank > 0:
            # every rank has these whole; the others are sums of what each has
            seen[[at for at, name in enumerate(terms) if name in ("prior", "geometry")]] = 0
        self._descend(loss, state.net, state.net_optimizer, seen)
        # all figures come back at once: each time the host would wait for the device
        names = [*terms, *(["discriminator"] * len(of_adversaries))]
        figures = dict(zip(names, torch.cat([seen, *of_adversaries]).tolist(), strict=True))
        state.step += 1
        total = sum(self._weights[name] * figures[name] for name in terms)
        return state, {"loss": total, **figures}

    def _descend(
        self, loss: Tensor, module: nn.Module, optimizer: torch.optim.Optimizer, beside: Tensor
    ) -> None:
        """Take an optimiser step; ``beside`` is added over ranks along with the gradients."""
        weights = list(module.parameters())
        grads = torch.autograd.grad(loss, weights, allow_unused=True)
        if self.ranks is not None:
            self.ranks.sum([*(grad for grad in grads if grad is not None), beside])
        for weight, grad in zip(weights, grads, strict=True):
            weight.grad = grad
        optimizer.step()
        optimizer.zero_grad()

    def _clamped(self, state: State, logits: Tensor) -> Tensor:
        if state.step < self.params.margin_warmup:
            return logits
        return logits.clamp(-self.params.margin, self.params.margin)

    def _discriminator_step(
        self, state: State, cores: dict[int, Tensor], n_rows: dict[int, int]
    ) -> list[Tensor]:
        """Return the loss, shape (1,), or nothing where no slice has its neighbour here."""
        terms, shares, pairs = [], [], []
        for index, discriminator in enumerate(state.adversary):
            if index not in cores or index + 1 not in cores:
                continue
            # detached: the published code back-propagates into the encoder here and throws it away
            lower = discriminator(cores[index].detach())
            upper = discriminator(cores[index + 1].detach())
            n_lower, n_upper = n_rows[index], n_rows[index + 1]
            within = torch.cat([lower, upper]).detach().abs() < self.params.margin
            shares.append(within.sum() / (n_lower + n_upper))
            pairs.append(index)
            lower, upper = self._clamped(state, lower), self._clamped(state, upper)
            terms.append(losses.discriminator_loss(lower, upper, n_lower, n_upper))
        if not terms:
            return []
        loss = torch.stack(terms).sum()
        beside = torch.stack([loss.detach(), *shares])
        self._descend(loss, state.adversary, state.adversary_optimizer, beside)
        for at, pair in enumerate(pairs, 1):
            state.activity[pair].mul_(0.99).add_(beside[at], alpha=0.01)
        return [beside[:1]]

    def _net_terms(
        self,
        state: State,
        given: list[Inputs],
        stacked: Inputs | None,
        latents: list[Tensor],
        cores: dict[int, Tensor],
    ) -> dict[str, Tensor]:
        """Return the terms of the net's loss by name; the prior and the geometry are those of all ranks."""
        net = state.net
        parts: dict[str, list[Tensor]] = {
            name: [] for name, weight in self._weights.items() if weight and name != "prior"
        }
        loadings, betas = net.loadings, []
        grams: list[Tensor] = []
        # slices that share genes and need no neighbours are decoded in one go
        apart = stacked is None or self.masks is not None
        if "reconstruction" in parts and stacked is not None and not apart:
            decoded = _reconstruction(net, stacked, torch.cat(latents), given, None)
            parts["reconstruction"].append(decoded)
        for inputs, latent in zip(given, latents, strict=True):
            index, core = inputs.slice_index, cores[inputs.slice_index]
            mask = None if self.masks is None else self.masks[index]
            factors = net.head(core)
            betas.append(factors)
            if "nmf" in parts:
                library = inputs.counts.row_sums()
                parts["nmf"].append(
                    losses.poisson_factorisation(
                        inputs.counts, library, factors, loadings, net.gamma[index], mask, inputs.n_step
                    )
                )
            if "reconstruction" in parts and apart:
                parts["reconstruction"].append(_reconstruction(net, inputs, latent, [inputs], mask))
            if "geometry" in parts:
                grams += _geometry_sums(net, inputs, core)
            if "gan" in parts and index > 0 and index - 1 in cores:
                logits = state.adversary[index - 1](core)
                parts["gan"].append(losses.adversary_loss(self._clamped(state, logits), inputs.n_step))
        beta_sum, *grams = summed([torch.cat(betas).sum(0), *grams], self.ranks)
        for at, inputs in enumerate(given if grams else ()):
            within, across = grams[2 * at : 2 * at + 2]
            scale = _GEOMETRY_ROWS / inputs.n_step
            parts["geometry"].append(scale * losses.geometry_value(within, across, inputs.n_step))
        prior = self._prior(state, beta_sum / sum(inputs.n_step for inputs in given))
        return {"prior": prior} | {name: torch.stack(terms).sum() for name, terms in parts.items() if terms}

    def _prior(self, state: State, mean: Tensor) -> Tensor:
        if self.params.prior_memory and state.step:
            # the value is the running mean's, the gradient reaches this batch in full
            mean = mean + (self.params.prior_memory * (state.mean_factors - mean)).detach()
        state.mean_factors = mean.detach().clone()
        return losses.factor_prior(mean)

    @property
    def _weights(self) -> dict[str, float]:
        params = self.params
        return {
            "prior": params.prior_weight,
            "nmf": params.nmf_weight,
            "reconstruction": params.ae_weight,
            "geometry": params.geometry_weight,
            "gan": params.gan_weight,
        }

    def done(self, state: State) -> bool:
        """Say whether all steps are taken."""
        return state.step >= self.params.steps

    def pack(self, state: State) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return networks, moments and running means as arrays and JSON scalars."""
        tensors, scalars = pack_torch(
            {"net": state.net, "adversary": state.adversary},
            {"net_optimizer": state.net_optimizer, "adversary_optimizer": state.adversary_optimizer},
        )
        tensors["mean_factors"] = state.mean_factors.cpu().numpy().copy()
        tensors["activity"] = state.activity.cpu().numpy().copy()
        scalars["step"] = state.step
        scalars["n_factors"] = state.shape.n_factors
        scalars["n_levels"] = state.shape.n_levels
        return tensors, scalars

    def unpack(self, tensors: Mapping[str, np.ndarray], scalars: Mapping[str, Any]) -> State:
        """Return the packed state, to the same bits."""
        state = self.fresh(Shape(int(scalars["n_factors"]), int(scalars["n_levels"])))
        unpack_torch(
            tensors,
            scalars,
            {"net": state.net, "adversary": state.adversary},
            {"net_optimizer": state.net_optimizer, "adversary_optimizer": state.adversary_optimizer},
        )
        state.mean_factors = torch.from_numpy(np.array(tensors["mean_factors"])).to(self.device)
        state.activity = torch.from_numpy(np.array(tensors["activity"])).to(self.device)
        state.step = int(scalars["step"])
        return state


def _reconstruction(
    net: InspireNet, inputs: Inputs, latent: Tensor, parts: list[Inputs], mask: Tensor | None
) -> Tensor:
    """Return the sum over slices of the mean distance of a spot to what is decoded of it.

    Parameters
    ----------
    net, inputs, latent
        One slice, or several under each other; z of their rows.
    parts
        The slices that were put under each other.
    mask
        Genes the slice measured; None for all.
    """
    edges = None
    if net.decoder.attention and inputs.edges is not None:
        edges = inputs.edges.within(inputs.n_core)
        slices = _numbers(latent, inputs.slice_index, len(latent))
    else:
        slices = torch.cat([_numbers(latent, part.slice_index, part.n_core) for part in parts])
    shares = torch.cat([latent.new_full((part.n_core,), 1 / part.n_step) for part in parts])
    hidden, out = net.decoder(latent, slices, edges), net.decoder.out
    if net.reads_scores:
        return (net.start(inputs.core_scores) - out(hidden)).norm(dim=1) @ shares
    return losses.reconstruction_norm(inputs.core_features, hidden, out.weight, out.bias, mask, shares)


def _numbers(beside: Tensor, number: int, n_rows: int) -> Tensor:
    """Return a whole number so many times, written where another tensor is: none has to be sent."""
    return beside.new_full((n_rows,), number, dtype=torch.int64)


def _geometry_sums(net: InspireNet, inputs: Inputs, core: Tensor) -> tuple[Tensor, Tensor]:
    if net.reads_scores:
        return losses.geometry_sums(core, net.start(inputs.core_scores))
    return losses.geometry_sums(core, inputs.core_features.unit_rows())


def _beside(slice_index: int, n_adversaries: int) -> tuple[int, ...]:
    """Return the discriminators of a slice: with the slice before and with the one after.

    Examples
    --------
    >>> [_beside(index, 3) for index in range(4)]
    [(0, 0), (0, 1), (1, 2), (2, 2)]
    >>> _beside(1, 1), _beside(0, 0)
    ((0,), ())
    """
    if n_adversaries < 2:
        return (0,) * n_adversaries
    before, after = max(slice_index - 1, 0), min(slice_index, n_adversaries - 1)
    # of slices the model was not trained on there are none; the last ones keep the shape
    return min(before, n_adversaries - 1), after


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
    method: InspireMethod
    #: What is said of a spot is computed from its rows, so that any process with the networks can say it.
    reads_rows: ClassVar[bool] = True

    @torch.no_grad()
    def infer(self, state: State, batch: SliceBatch) -> dict[str, np.ndarray]:
        """Say what the trained networks make of the core spots of a batch.

        Parameters
        ----------
        state
            A trained state.
        batch
            Spots with their halo; of a slice the model was not trained on, too: neither embedding nor factor
            weights depend on the slice.

        Returns
        -------
        dict
            ``X_inspire`` (n, 32); ``inspire_factors`` (n, K), rows sum to 1; ``inspire_discriminator``, the
            logits of the discriminators that saw the slice in training (beyond the margin they are not
            active): one with the slice before, one with the slice after, shape (n, 2). The first and the
            last slice have one, which stands in both columns; of two slices there is one column, of one
            slice none.
        """
        inputs = self.method.inputs(batch)
        latent = state.net.encode(inputs)
        out = {
            "X_inspire": latent.cpu().numpy(),
            "inspire_factors": state.net.head(latent).cpu().numpy(),
        }
        beside = _beside(batch.slice_index, len(state.adversary))
        if beside:
            logits = {index: state.adversary[index](latent) for index in dict.fromkeys(beside)}
            columns = torch.stack([logits[index] for index in beside], 1)
            out["inspire_discriminator"] = columns.cpu().numpy()
        return out

    def result(self, state: State) -> Result:
        """Return loadings, effects of the slices, and what the adversaries came to.

        ``gamma`` (S, G) is the log effect of every slice on every gene; ``mean_factors`` (K,) the running
        mean of the weights; ``discriminator_activity`` (S - 1,) the running share of spots within the margin.
        """
        return Result(
            varm={"inspire_loadings": state.net.loadings.detach().cpu().numpy()},
            uns={
                "gamma": state.net.gamma.detach().cpu().numpy(),
                "mean_factors": state.mean_factors.cpu().numpy(),
                "discriminator_activity": state.activity.cpu().numpy(),
                "encoder": "gat" if self.method.attends else "lgcn",
            },
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
        Of weights and warm start.
    """
    return Model(params, facts, InspireMethod(params, facts, torch.device(device), seed))
